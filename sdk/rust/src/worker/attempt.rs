//! An attempt that goes on: its executor has a task of its own, so that a panic ends only it, and one that never waits holds up nobody.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use orrery_proto::v1::ErrorType;

use super::finished::Ending;
use super::lease::LeaseKey;
use super::line::panic_message;
use super::reports::{Report, Reports};
use crate::config::Problem;
use crate::executor::{Context, Executor, Outcome, Running, Task};

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

/// Says that an attempt has ended, at the latest when it is dropped.
pub(super) struct Teller {
    key: LeaseKey,
    reports: Arc<Reports>,
    ended: bool,
}

impl Teller {
    pub(super) fn new(key: LeaseKey, reports: Arc<Reports>) -> Self {
        Self { key, reports, ended: false }
    }

    fn ended(&mut self, ending: Ending) {
        self.ended = true;
        self.reports.push(Report::Ended(self.key.clone(), ending), false);
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        if !self.ended {
            self.ended(Ending::Aborted);
        }
    }
}

/// Runs an attempt that goes on to its end, or until it is dropped.
pub(super) async fn attend(running: Running, mut teller: Teller) {
    let ending = match AssertUnwindSafe(running).catch_unwind().await {
        Ok(outcome) => Ending::Returned(outcome),
        Err(payload) => Ending::Panicked(panic_message(payload.as_ref())),
    };
    teller.ended(ending);
}

/// Stands for executors that this worker does not have.
pub(super) struct Unknown;

#[async_trait]
impl Executor for Unknown {
    async fn run(&self, task: Task, _: Context) -> Outcome {
        Outcome::failure(ErrorType::ValidationError, format!("this agent has no executor {:?}", task.executor))
    }
}

/// Stands for an executor where the config refers to secrets that did not come with the lease.
pub(super) struct Unresolved(pub(super) Vec<Problem>);

#[async_trait]
impl Executor for Unresolved {
    async fn run(&self, _: Task, _: Context) -> Outcome {
        let lines: Vec<String> = self.0.iter().map(|(field, message)| format!("{field}: {message}")).collect();
        Outcome::failure(ErrorType::ValidationError, lines.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_out_is_told_before_the_coordinator_gives_the_work_away() {
        assert!(GRACE + AFTER_GRACE <= Duration::from_secs(12));
    }
}
