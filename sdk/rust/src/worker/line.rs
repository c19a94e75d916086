//! Where attempts wait for their first poll. Most functions end in it, and never need a task of their own.

use std::any::Any;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as Waking, Poll};
use std::time::{Duration, Instant};

use tracing::{Instrument, Span, debug_span};

use super::attempt::{Teller, attend};
use super::finished::Ending;
use super::lease::LeaseKey;
use super::reports::{Report, Reports};
use crate::executor::{Context, Executor, Outcome, Running, Task};

/// The most attempts that one server polls.
const SHARE: usize = 32;
/// How long it goes on with the next one.
const TURN: Duration = Duration::from_micros(50);

/// An attempt that has not begun.
pub(super) struct Attempt {
    pub(super) key: LeaseKey,
    pub(super) executor: Arc<dyn Executor>,
    pub(super) task: Task,
    pub(super) context: Context,
}

/// The line. It is served by tasks that poll one attempt after the other and hand what goes on to tasks of their own. Each leaves after a
/// short while to two others, where anybody still waits: what takes no time is done by few, and what takes long by as many as there are threads.
pub(super) struct Line {
    inner: Mutex<Inner>,
    reports: Arc<Reports>,
}

#[derive(Default)]
struct Inner {
    waiting: VecDeque<Attempt>,
    closed: bool,
}

impl Line {
    pub(super) fn new(reports: Arc<Reports>) -> Self {
        Self { inner: Mutex::default(), reports }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets attempts wait, and sees to it that they are served.
    pub(super) fn join(self: &Arc<Self>, attempts: &mut Vec<Attempt>) {
        self.reports.expect(attempts.len());
        self.inner().waiting.extend(attempts.drain(..));
        self.hire();
    }

    /// Nobody is served any more.
    pub(super) fn close(&self) {
        let mut inner = self.inner();
        inner.closed = true;
        // Dropped without the lock: what they own is the caller's.
        let waiting = std::mem::take(&mut inner.waiting);
        drop(inner);
        drop(waiting);
    }

    /// More serve. Also to be called where one is held up by an attempt.
    ///
    /// Two at a time: a task that a thread of the runtime makes alone wakes no other thread, and where that thread is then held up by an
    /// attempt, nobody would look after sockets and timers any more.
    pub(super) fn hire(self: &Arc<Self>) {
        for _ in 0..2 {
            let line = self.clone();
            tokio::spawn(poll_fn(move |waking| {
                line.serve(waking);
                Poll::Ready(())
            }));
        }
    }

    fn serve(self: &Arc<Self>, waking: &mut Waking<'_>) {
        let begun = Instant::now();
        for _ in 0..SHARE {
            let Some(attempt) = self.next() else { return };
            self.look(attempt, waking);
            if begun.elapsed() >= TURN {
                break;
            }
        }
        if !self.inner().waiting.is_empty() {
            self.hire();
        }
    }

    fn next(&self) -> Option<Attempt> {
        let mut inner = self.inner();
        if inner.closed { None } else { inner.waiting.pop_front() }
    }

    /// Begins an attempt and polls it once.
    fn look(&self, attempt: Attempt, waking: &mut Waking<'_>) {
        let Attempt { key, executor, task, context } = attempt;
        let span = debug_span!("attempt", execution = task.execution_id, attempt = task.attempt, job = task.job_name);
        match first_poll(executor, task, context, &span, waking) {
            Ok((Poll::Ready(outcome), _)) => self.reports.push(Report::Ended(key, Ending::Returned(outcome)), true),
            Ok((Poll::Pending, running)) => {
                let teller = Teller::new(key.clone(), self.reports.clone());
                let task = tokio::spawn(attend(running, teller).instrument(span));
                self.reports.push(Report::Waits(key, task.abort_handle()), true);
            }
            Err(payload) => {
                let ending = Ending::Panicked(panic_message(payload.as_ref()));
                self.reports.push(Report::Ended(key, ending), true);
            }
        }
    }
}

/// A panic in it ends only this attempt.
fn first_poll(
    executor: Arc<dyn Executor>,
    task: Task,
    context: Context,
    span: &Span,
    waking: &mut Waking<'_>,
) -> Result<(Poll<Outcome>, Running), Box<dyn Any + Send>> {
    catch_unwind(AssertUnwindSafe(|| {
        let _entered = span.enter();
        let mut running = executor.begin(task, context);
        (running.as_mut().poll(waking), running)
    }))
}

/// What a panic said.
pub(super) fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}
