//! What agents say of executions, from how it travels to how it is applied. Pure.

use orrery_proto::v1::agent_message::Kind as Said;
use orrery_proto::v1::{ErrorType, ExecutionStatus, Finished};
use uuid::Uuid;

use super::Word;
use crate::execution::{Event, Report};

/// The words of a message about executions go to `words`; any other message is answered.
pub(super) fn heard(session: Uuid, said: Said, words: &mut Vec<Word>) -> Option<Said> {
    let session_id = session;
    let mut say = |execution: &str, event: Event| match execution.parse() {
        Ok(execution) => words.push(Word { session, execution, event }),
        Err(_) => tracing::warn!(%session, execution, "an agent spoke of an execution whose id is no UUID"),
    };
    match said {
        Said::Started(started) => say(&started.execution_id, Event::Started { session_id, epoch: started.epoch }),
        Said::Progress(progress) => {
            let (epoch, percent) = (progress.epoch, progress.percent);
            say(&progress.execution_id, Event::Progressed { session_id, epoch, percent });
        }
        Said::Finished(finished) => {
            let (epoch, execution) = (finished.epoch, finished.execution_id.clone());
            if finished.started {
                say(&execution, Event::Started { session_id, epoch });
            }
            let event = match finished.interrupted {
                true => Event::Interrupted { session_id, epoch },
                false => Event::Finished { session_id, epoch, report: Box::new(reported(finished)) },
            };
            say(&execution, event);
        }
        Said::Release(release) => {
            for lease in release.leases {
                say(&lease.execution_id, Event::Released { session_id, epoch: lease.epoch });
            }
        }
        other => return Some(other),
    }
    None
}

fn reported(finished: Finished) -> Report {
    let error = finished.error_type();
    let status = match finished.status() {
        ExecutionStatus::Completed => ExecutionStatus::Completed,
        ExecutionStatus::Cancelled => ExecutionStatus::Cancelled,
        _ => ExecutionStatus::Failed,
    };
    Report {
        status,
        result: finished.result.map(|json| json.text).filter(|text| !text.is_empty()),
        error_type: match (status, error) {
            (ExecutionStatus::Failed, ErrorType::Unspecified) => Some(ErrorType::SystemError),
            (ExecutionStatus::Failed, error) => Some(error),
            _ => None,
        },
        error_message: finished.error_message,
        error_stack: finished.error_stack,
        retryable: finished.retryable,
        duration_ms: finished.duration_ms,
        memory_peak_mb: finished.memory_peak_mb,
        cpu_time_ms: finished.cpu_time_ms,
    }
}

#[cfg(test)]
mod tests {
    use orrery_proto::v1::{Credit, HeldLease, Progress, Release, Started};
    use proptest::prelude::*;

    use super::*;

    fn id(n: u128) -> String {
        Uuid::from_u128(n).to_string()
    }

    #[test]
    fn words_keep_their_order_and_what_is_none_is_answered() {
        let mut words = Vec::new();
        let session = Uuid::from_u128(9);
        let finished = Finished { execution_id: id(1), epoch: 3, started: true, ..Finished::default() };
        let interrupted = Finished { execution_id: id(2), epoch: 1, interrupted: true, ..Finished::default() };
        let held = [1, 2].map(|n| HeldLease { execution_id: id(n), epoch: 7 });
        let said = [
            Said::Started(Started { execution_id: id(4), epoch: 1 }),
            Said::Progress(Progress { execution_id: id(4), epoch: 1, percent: 30 }),
            Said::Finished(finished),
            Said::Finished(interrupted),
            Said::Release(Release { leases: held.to_vec() }),
            Said::Started(Started { execution_id: "no id".into(), epoch: 1 }),
        ];
        for said in said {
            assert_eq!(heard(session, said, &mut words), None);
        }
        let told: Vec<_> =
            words.iter().map(|w| (w.execution.as_u128(), w.event.name(), w.event.spoken_for())).collect();
        let by = |epoch| Some((session, epoch));
        let expected = [
            (4, "started", by(1)),
            (4, "progressed", by(1)),
            (1, "started", by(3)),
            (1, "finished", by(3)),
            (2, "interrupted", by(1)),
            (1, "released", by(7)),
            (2, "released", by(7)),
        ];
        assert_eq!(told, expected);
        let credit = Said::Credit(Credit { slots: 2 });
        assert_eq!(heard(session, credit.clone(), &mut words), Some(credit));
    }

    /// The executions that a frame speaks of are in whatever state: none of it may break what keeps them.
    #[test]
    fn any_frame_is_understood_or_dropped() {
        use orrery_proto::v1::{AgentMessage, Batch};
        use prost::Message as _;

        let messages = [
            Said::Started(Started { execution_id: id(1), epoch: 1 }),
            Said::Progress(Progress { execution_id: id(1), epoch: 1, percent: 30 }),
            Said::Finished(Finished { execution_id: id(1), epoch: 1, duration_ms: 5, ..Finished::default() }),
            Said::Release(Release { leases: vec![HeldLease { execution_id: id(1), epoch: 1 }] }),
        ];
        let messages = messages.map(|kind| AgentMessage { kind: Some(kind) }).to_vec();
        let frame = AgentMessage { kind: Some(Said::Batch(Batch { messages })) }.encode_to_vec();
        proptest!(ProptestConfig::with_cases(5_000), |(changes: Vec<(u16, u8)>, more: Vec<u8>)| {
            let mut bytes = frame.clone();
            for (place, byte) in changes {
                let place = usize::from(place) % bytes.len();
                bytes[place] = byte;
            }
            bytes.extend_from_slice(&more);
            let Ok(AgentMessage { kind: Some(said) }) = AgentMessage::decode(bytes.as_slice()) else { return Ok(()) };
            let all = match said {
                Said::Batch(batch) => batch.messages.into_iter().filter_map(|message| message.kind).collect(),
                one => vec![one],
            };
            let mut words = Vec::new();
            for said in all {
                heard(crate::execution::tests::SESSION, said, &mut words);
            }
            for word in words {
                crate::execution::tests::in_every_state(&word.event);
            }
        });
    }

    #[test]
    fn a_failure_without_a_type_is_the_systems() {
        let of = |status: ExecutionStatus, error_type: ErrorType| {
            let finished = Finished { status: status.into(), error_type: error_type.into(), ..Finished::default() };
            reported(finished).error_type
        };
        assert_eq!(of(ExecutionStatus::Failed, ErrorType::Unspecified), Some(ErrorType::SystemError));
        assert_eq!(of(ExecutionStatus::Failed, ErrorType::Timeout), Some(ErrorType::Timeout));
        assert_eq!(of(ExecutionStatus::Completed, ErrorType::Timeout), None);
    }
}
