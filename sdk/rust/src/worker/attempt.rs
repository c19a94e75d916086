//! One attempt, from its start to the result that is told of it.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::Utc;
use futures_util::FutureExt;
use orrery_proto::v1::{ErrorType, Finished};
use tokio::task::JoinError;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument, error, info_span, warn};

use super::finished::{Cause, Ending, Limits, conclude};
use super::journal::Journal;
use super::lease::LeaseKey;
use super::logs::Logs;
use crate::executor::{Context, Executor, Outcome, StopReason, Task};

/// How long a stopped task may take by default. A coordinator that has heard nothing 15 s past an attempt's deadline may give the work
/// to somebody else, so what comes after the deadline must be over before: this grace, the abort and the flush take 12 s at most, and
/// 3 s are left for the way.
pub(super) const GRACE: Duration = Duration::from_secs(9);
/// The longest grace that can be chosen: it leaves nothing for the way.
pub(super) const LONGEST_GRACE: Duration = Duration::from_secs(12);
/// After its abort a task that waits anywhere is gone at the next turn; one that computes without a wait is not, and is left behind.
const ABORT: Duration = Duration::from_secs(1);
/// How long a result waits for its output to be stored before it.
pub(super) const FLUSH: Duration = Duration::from_secs(2);
/// The longest from the end of a stopped task's grace to its report.
pub(super) const AFTER_GRACE: Duration = ABORT.saturating_add(FLUSH);
/// The grace of a task whose lease is lost: its kills are without grace too.
const REVOKED_GRACE: Duration = Duration::from_secs(5);

/// Stops a task and remembers why. Cheap to clone.
#[derive(Clone)]
pub(super) struct Stop {
    context: Context,
    cause: Arc<Mutex<Option<Cause>>>,
}

impl Stop {
    pub(super) fn new(context: Context) -> Self {
        Self { context, cause: Arc::default() }
    }

    /// The first cause holds, but for the loss of the lease, which overrides every other.
    pub(super) fn stop(&self, cause: Cause) {
        {
            let mut held = self.cause.lock().unwrap_or_else(PoisonError::into_inner);
            if held.is_none() || cause == Cause::Revoked {
                *held = Some(cause);
            }
        }
        self.context.stop(match cause {
            Cause::Cancelled | Cause::ShutDown => StopReason::Cancelled,
            Cause::TimedOut => StopReason::TimedOut,
            Cause::Revoked => StopReason::Revoked,
        });
    }

    fn cause(&self) -> Option<Cause> {
        *self.cause.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What all attempts of a worker share.
pub(super) struct Workshop {
    pub(super) journal: Arc<dyn Journal>,
    pub(super) logs: Arc<Logs>,
    pub(super) limits: Limits,
    /// How long a stopped task may take before it is aborted.
    pub(super) grace: Duration,
}

/// One attempt to run.
pub(super) struct Attempt {
    pub(super) key: LeaseKey,
    pub(super) task: Task,
    /// Absent where the worker has none of that name.
    pub(super) executor: Option<Arc<dyn Executor>>,
    pub(super) context: Context,
    pub(super) stop: Stop,
    pub(super) workshop: Arc<Workshop>,
}

/// An attempt that has ended. Its result is journalled already.
pub(super) struct Ended {
    pub(super) key: LeaseKey,
    /// Absent where there is nothing to tell.
    pub(super) finished: Option<Finished>,
    /// Its work could not be ended and may go on in this process.
    pub(super) left_behind: bool,
}

impl Attempt {
    /// Runs it. Always comes to an end within the task's timeout and the grace.
    pub(super) async fn run(self) -> Ended {
        let Self { key, task, executor, context, stop, workshop } = self;
        let limit = task.timeout;
        let begin = Instant::now();
        let span = info_span!("attempt", execution = task.execution_id, attempt = task.attempt, job = task.job_name);
        let ending = match executor {
            Some(executor) => attend(executor, task, context, &stop, workshop.grace).instrument(span).await,
            None => Ending::Returned(unknown(&task.executor)),
        };
        let left_behind = matches!(ending, Ending::LeftBehind);
        let finished = conclude(&key, ending, stop.cause(), limit, begin.elapsed(), workshop.limits);
        match &finished {
            Some(finished) => {
                let tail = workshop.logs.seal(&key, Utc::now());
                let stored = workshop.journal.record_with(finished, &tail);
                let flushed = workshop.logs.close(&key, Utc::now(), FLUSH);
                if let (Err(error), ()) = tokio::join!(stored, flushed) {
                    error!(%error, lease = %key, "the result cannot be journalled; it is lost if this process ends now");
                }
            }
            // It could not be stopped. Its lease is still its own, so its output is told all the same.
            None if stop.cause() == Some(Cause::ShutDown) => workshop.logs.close(&key, Utc::now(), FLUSH).await,
            None => workshop.logs.discard(&key),
        }
        Ended { key, finished, left_behind }
    }
}

fn unknown(name: &str) -> Outcome {
    Outcome::failure(ErrorType::ValidationError, format!("this agent has no executor {name:?}"))
}

async fn attend(executor: Arc<dyn Executor>, task: Task, context: Context, stop: &Stop, grace: Duration) -> Ending {
    let over = Instant::now() + task.timeout;
    let inner = context.clone();
    // A task of its own: a panic ends only it, and one that never waits does not keep its timeout from being noticed.
    let work = async move { executor.run(task, inner).await };
    let mut work = AbortOnDropHandle::new(tokio::spawn(work.in_current_span()));
    tokio::select! {
        biased;
        joined = &mut work => return ending_of(joined),
        _ = context.stopped() => {}
        () = sleep_until(over) => stop.stop(Cause::TimedOut),
    }
    let patience = async {
        tokio::select! {
            () = sleep(grace) => {}
            () = context.revoked().then(|()| sleep(REVOKED_GRACE.min(grace))) => {}
        }
    };
    tokio::select! {
        biased;
        joined = &mut work => return ending_of(joined),
        () = patience => {}
    }
    warn!("the task did not stop within its grace; aborted");
    work.abort();
    match timeout(ABORT, &mut work).await {
        Ok(joined) => ending_of(joined),
        Err(_) => Ending::LeftBehind,
    }
}

fn ending_of(joined: Result<Outcome, JoinError>) -> Ending {
    match joined {
        Ok(outcome) => Ending::Returned(outcome),
        Err(error) if error.is_panic() => Ending::Panicked(panic_message(error.into_panic().as_ref())),
        Err(_) => Ending::Aborted,
    }
}

/// What a panic said.
pub(super) fn panic_message(payload: &(dyn Any + Send)) -> String {
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
