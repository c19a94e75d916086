//! Where attempts wait for their first poll. Most functions end in it, and never need a task of their own.

use std::any::Any;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as Waking, Poll};
use std::time::{Duration, Instant};

use orrery_proto::v1::ErrorType;
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
        // It may have been given up, and its failure told, while it stood in line.
        if context.stop_reason().is_some() {
            let outcome = Outcome::failure(ErrorType::UserError, "stopped before it began");
            return self.reports.push(Report::Ended(key, Ending::Returned(outcome)), true);
        }
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

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use async_trait::async_trait;
    use orrery_proto::v1::Lease;

    use super::*;
    use crate::executor::StopReason;
    use crate::worker::lease::task_of;
    use crate::worker::logs::{Budget, Logs};
    use crate::worker::output::{Desk, ProgressBoard, TaskOutput};

    /// Must not be called.
    struct Never;

    #[async_trait]
    impl Executor for Never {
        async fn run(&self, _: Task, _: Context) -> Outcome {
            panic!("it has begun")
        }
    }

    #[test]
    fn what_is_stopped_in_line_does_not_begin() {
        let reports = Arc::<Reports>::default();
        let line = Line::new(reports.clone());
        let (key, task) = (LeaseKey::new("e", 1), task_of(Lease::default(), None));
        let logs = Arc::new(Logs::new(Budget { attempt: 1, buffer: 1 }));
        let desk = Arc::new(Desk { logs, progress: ProgressBoard::default() });
        let context = Context::new(Arc::new(TaskOutput::new(key.clone(), 1, desk)));
        context.stop(StopReason::TimedOut);
        let attempt = Attempt { key, executor: Arc::new(Never), task, context };
        line.look(attempt, &mut Waking::from_waker(Waker::noop()));
        let mut taken = Vec::new();
        reports.take(&mut taken);
        assert!(matches!(taken.as_slice(), [Report::Ended(_, Ending::Returned(_))]), "{taken:?}");
    }
}
