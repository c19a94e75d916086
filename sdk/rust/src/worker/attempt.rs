//! One attempt: its executor on a task of its own, so that a panic ends only it, and one that never waits holds up nobody.

use std::any::Any;
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use orrery_proto::v1::ErrorType;

use super::finished::Ending;
use super::lease::LeaseKey;
use super::reports::{Report, Reports};
use crate::executor::{Context, Executor, Outcome, Task};

/// How long a stopped task may take by default. A coordinator that has heard nothing 15 s past an attempt's deadline may give the work
/// to somebody else, so what comes after the deadline must be over before: this grace, the abort and the flush take 12 s at most, and
/// 3 s are left for the way.
pub(super) const GRACE: Duration = Duration::from_secs(9);
/// The longest grace that can be chosen: it leaves nothing for the way.
pub(super) const LONGEST_GRACE: Duration = Duration::from_secs(12);
/// After its abort a task that waits anywhere is gone at the next turn; one that computes without a wait is not, and is left behind.
pub(super) const ABORT: Duration = Duration::from_secs(1);
/// How long a result waits for its output to be stored before it.
pub(super) const FLUSH: Duration = Duration::from_secs(2);
/// The longest from the end of a stopped task's grace to its report.
pub(super) const AFTER_GRACE: Duration = ABORT.saturating_add(FLUSH);
/// The grace of a task whose lease is lost: its kills are without grace too.
pub(super) const REVOKED_GRACE: Duration = Duration::from_secs(5);

/// Says how an attempt goes on, and at the latest when it is dropped that it has ended.
pub(super) struct Teller {
    key: LeaseKey,
    reports: Arc<Reports>,
    polled: bool,
    ended: bool,
}

impl Teller {
    pub(super) fn new(key: LeaseKey, reports: Arc<Reports>) -> Self {
        Self { key, reports, polled: false, ended: false }
    }

    fn waits(&mut self) {
        if !std::mem::replace(&mut self.polled, true) {
            self.reports.push(Report::Waits(self.key.clone()), true);
        }
    }

    pub(super) fn ended(&mut self, ending: Ending) {
        self.ended = true;
        let first = !std::mem::replace(&mut self.polled, true);
        self.reports.push(Report::Ended(self.key.clone(), ending), first);
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        if !self.ended {
            self.ended(Ending::Aborted);
        }
    }
}

/// Runs an attempt to its end, or until it is dropped.
pub(super) async fn attend(executor: Arc<dyn Executor>, task: Task, context: Context, mut teller: Teller) {
    let work = AssertUnwindSafe(async move { executor.run(task, context).await }).catch_unwind();
    let mut work = pin!(work);
    let ended = poll_fn(|cx| {
        let polled = work.as_mut().poll(cx);
        if polled.is_pending() {
            teller.waits();
        }
        polled
    });
    let ending = match ended.await {
        Ok(outcome) => Ending::Returned(outcome),
        Err(payload) => Ending::Panicked(panic_message(payload.as_ref())),
    };
    teller.ended(ending);
}

/// The outcome of a task that nobody here can run.
pub(super) fn unknown(name: &str) -> Outcome {
    Outcome::failure(ErrorType::ValidationError, format!("this agent has no executor {name:?}"))
}

/// What a panic said.
fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_out_is_told_before_the_coordinator_gives_the_work_away() {
        assert!(GRACE + AFTER_GRACE <= Duration::from_secs(12));
    }
}
