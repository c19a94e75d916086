//! What is told of an attempt that ended: a pure function of how it ended and why it was stopped, if it was.

use std::time::Duration;

use orrery_proto::v1::{ErrorType, ExecutionStatus, Finished};

use super::lease::LeaseKey;
use crate::executor::{Failure, Outcome, Usage};

/// Why the worker stopped a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Somebody cancelled the execution.
    Cancelled,
    /// Its time is over.
    TimedOut,
    /// The worker is being shut down. Nobody asked that of the job, so it neither failed nor was cancelled: where it did not complete all
    /// the same, it is told that it was interrupted, and can begin anew elsewhere.
    ShutDown,
    /// The lease is lost: nothing is told.
    Revoked,
}

/// How an attempt ended on the worker.
#[derive(Debug)]
pub(super) enum Ending {
    Returned(Outcome),
    Panicked(String),
    /// It did not end within the grace after its stop and was aborted.
    Aborted,
    /// The abort did not end it either: it may still compute.
    LeftBehind,
}

/// What of a result still fits a message. A coordinator refuses larger ones by ending the stream, and they would come again for ever.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) result_bytes: usize,
}

const MESSAGE_BYTES: usize = 16 * 1024;
const STACK_BYTES: usize = 128 * 1024;

/// The message for the coordinator; `None` where the lease was lost, or where work that a shutdown was to stop may still go on: nobody
/// may then be told that it is free.
pub(super) fn conclude(
    key: &LeaseKey,
    ending: Ending,
    cause: Option<Cause>,
    timeout: Duration,
    took: Duration,
    limits: Limits,
) -> Option<Finished> {
    let left_behind = matches!(ending, Ending::LeftBehind);
    let outcome = match ending {
        Ending::Returned(outcome) => outcome,
        Ending::Panicked(message) => {
            Outcome::failure(ErrorType::SystemError, format!("the executor panicked: {message}"))
        }
        Ending::Aborted | Ending::LeftBehind => {
            Outcome::failure(ErrorType::SystemError, "it did not stop in time and was given up")
        }
    };
    let Outcome { result, failure, usage } = outcome;
    let interrupted = cause == Some(Cause::ShutDown) && failure.is_some();
    if cause == Some(Cause::Revoked) || (interrupted && left_behind) {
        return None;
    }
    let (status, failure) = match (cause, failure) {
        (Some(Cause::TimedOut), failure) => (ExecutionStatus::Failed, Some(timed_out(timeout, failure))),
        (_, None) => (ExecutionStatus::Completed, None),
        (Some(Cause::Cancelled), Some(failure)) => (ExecutionStatus::Cancelled, Some(failure)),
        (_, Some(failure)) => (ExecutionStatus::Failed, Some(failure)),
    };
    let finished = Finished {
        execution_id: key.execution_id.text(),
        epoch: key.epoch,
        status: status.into(),
        result,
        duration_ms: i64::try_from(took.as_millis()).unwrap_or(i64::MAX),
        interrupted,
        ..Finished::default()
    };
    Some(fitted(with_usage(with_failure(finished, failure), usage), limits))
}

fn timed_out(timeout: Duration, failure: Option<Failure>) -> Failure {
    let stack = failure.map(|f| f.stack).unwrap_or_default();
    let message = format!("timed out after {} ms", timeout.as_millis());
    Failure { error_type: ErrorType::Timeout, message, stack, retryable: None }
}

fn with_failure(mut finished: Finished, failure: Option<Failure>) -> Finished {
    if let Some(failure) = failure {
        finished.error_type = failure.error_type.into();
        finished.error_message = cut(failure.message, MESSAGE_BYTES);
        finished.error_stack = cut(failure.stack, STACK_BYTES);
        finished.retryable = failure.retryable;
    }
    finished
}

fn with_usage(mut finished: Finished, usage: Usage) -> Finished {
    finished.memory_peak_mb = usage.memory_peak_mb;
    finished.cpu_time_ms = usage.cpu_time_ms;
    finished
}

/// A result that is too large becomes a failure of the work; where it failed already, only its result is left out.
fn fitted(mut finished: Finished, limits: Limits) -> Finished {
    let size = finished.result.as_ref().map_or(0, |json| json.text.len());
    if size <= limits.result_bytes {
        return finished;
    }
    finished.result = None;
    let note = format!("its result has {size} bytes, more than the {} that are kept", limits.result_bytes);
    if finished.status() == ExecutionStatus::Completed {
        finished.status = ExecutionStatus::Failed.into();
        finished.error_type = ErrorType::UserError.into();
        finished.error_message = note;
        finished.retryable = Some(false);
    } else {
        finished.error_message = format!("{} ({note})", finished.error_message);
    }
    finished
}

fn cut(mut text: String, limit: usize) -> String {
    if text.len() > limit {
        let end = (0..=limit).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push_str(" [cut]");
    }
    text
}

#[cfg(test)]
mod tests {
    use orrery_proto::Json;

    use super::*;

    fn end(ending: Ending, cause: Option<Cause>) -> Option<Finished> {
        let key = LeaseKey::new("e", 3);
        conclude(
            &key,
            ending,
            cause,
            Duration::from_millis(700),
            Duration::from_millis(12),
            Limits { result_bytes: 64 },
        )
    }

    fn good() -> Ending {
        Ending::Returned(Outcome::success(Json::new("1")))
    }

    fn bad() -> Ending {
        Ending::Returned(Outcome::failure(ErrorType::UserError, "no").with_stack("at x"))
    }

    #[test]
    fn every_ending_under_every_cause() {
        let cell = |ending: Ending, cause| end(ending, cause).map(|f| (f.status(), f.error_type(), f.error_message));
        use ErrorType as E;
        use ExecutionStatus as S;
        let none = String::new;
        assert_eq!(cell(good(), None), Some((S::Completed, E::Unspecified, none())));
        assert_eq!(cell(good(), Some(Cause::Cancelled)), Some((S::Completed, E::Unspecified, none())));
        assert_eq!(cell(good(), Some(Cause::ShutDown)), Some((S::Completed, E::Unspecified, none())));
        assert_eq!(cell(good(), Some(Cause::TimedOut)), Some((S::Failed, E::Timeout, "timed out after 700 ms".into())));
        assert_eq!(cell(good(), Some(Cause::Revoked)), None);
        assert_eq!(cell(bad(), None), Some((S::Failed, E::UserError, "no".into())));
        assert_eq!(cell(bad(), Some(Cause::Cancelled)), Some((S::Cancelled, E::UserError, "no".into())));
        assert_eq!(cell(bad(), Some(Cause::TimedOut)), Some((S::Failed, E::Timeout, "timed out after 700 ms".into())));
        assert_eq!(cell(Ending::LeftBehind, Some(Cause::ShutDown)), None);
        assert_eq!(cell(bad(), Some(Cause::Revoked)), None);
        let panic = "the executor panicked: boom".to_owned();
        assert_eq!(cell(Ending::Panicked("boom".into()), None), Some((S::Failed, E::SystemError, panic)));
        assert_eq!(cell(Ending::Aborted, Some(Cause::Cancelled)).map(|(status, ..)| status), Some(S::Cancelled));
    }

    #[test]
    fn only_what_a_shutdown_stopped_was_interrupted() {
        let interrupted = |ending, cause| end(ending, cause).map(|finished| finished.interrupted);
        for ending in [bad(), Ending::Panicked("boom".into()), Ending::Aborted] {
            assert_eq!(interrupted(ending, Some(Cause::ShutDown)), Some(true));
        }
        assert_eq!(interrupted(Ending::LeftBehind, Some(Cause::ShutDown)), None, "it may still go on");
        assert_eq!(interrupted(good(), Some(Cause::ShutDown)), Some(false), "it was faster");
        for cause in [None, Some(Cause::Cancelled), Some(Cause::TimedOut)] {
            assert_eq!(interrupted(bad(), cause), Some(false));
            assert_eq!(interrupted(Ending::LeftBehind, cause), Some(false));
        }
    }

    #[test]
    fn what_was_measured_and_written_is_kept() {
        let usage = Usage { memory_peak_mb: Some(1.5), cpu_time_ms: Some(8) };
        let outcome = Outcome::failure(ErrorType::UserError, "no").with_result(Json::new("7")).with_usage(usage);
        let finished = end(Ending::Returned(outcome), Some(Cause::TimedOut)).expect("told");
        assert_eq!(finished.result, Some(Json::new("7")));
        assert_eq!((finished.memory_peak_mb, finished.cpu_time_ms, finished.duration_ms), (Some(1.5), Some(8), 12));
        assert_eq!(end(bad(), None).expect("told").error_stack, "at x");
    }

    #[test]
    fn a_result_too_large_is_a_failure_that_no_retry_mends() {
        let finished = end(Ending::Returned(Outcome::success(Json::new("1".repeat(65)))), None).expect("told");
        assert_eq!(finished.status(), ExecutionStatus::Failed);
        assert_eq!((finished.result, finished.retryable), (None, Some(false)));
        assert_eq!(finished.error_message, "its result has 65 bytes, more than the 64 that are kept");
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let text = cut("ä".repeat(MESSAGE_BYTES), MESSAGE_BYTES - 1);
        assert!(text.ends_with("ä [cut]") && text.len() <= MESSAGE_BYTES + 6);
    }
}
