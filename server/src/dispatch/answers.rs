use std::collections::HashMap;
use std::sync::Arc;

use orrery_proto::v1::coordinator_message::Kind;
use orrery_proto::v1::{HeldLease, ResultAck, ResultAcks, Revoke};
use uuid::Uuid;

use super::registry::Registry;
use super::{Attached, Word, text};
use crate::execution::{Event, Execution, Rejected};
use crate::store::RefusedResult;
use crate::telemetry::Ended;

/// What a transaction made of what agents said, before anybody is told.
#[derive(Default)]
pub(super) struct Answers {
    of_sessions: HashMap<Uuid, OfSession>,
    /// Executions that are over, with their lanes.
    ended: Vec<(i64, Ended)>,
    /// Executions that have changed.
    pub(super) changed: Vec<Uuid>,
    /// Why words were refused, each time that one was.
    pub(super) refused: Vec<&'static str>,
    /// Whether an execution is over, and its place free.
    pub(super) has_room: bool,
    /// Whether an execution waits again: to be claimed, or for its retry.
    pub(super) has_returned: bool,
}

/// What one agent is told, and what is known of its leases from now on.
#[derive(Default)]
struct OfSession {
    known: Vec<Arc<Execution>>,
    over: Vec<(Uuid, i64)>,
    acks: ResultAcks,
    revoked: Vec<HeldLease>,
    /// Results that were refused.
    late: Vec<(Uuid, i64)>,
}

impl Answers {
    /// Sorts answers by who is to hear them.
    pub(super) fn of(words: &[Word], answers: Vec<Result<Execution, Rejected>>) -> Self {
        let mut sorted = Self::default();
        for (at, (word, answer)) in words.iter().zip(answers).enumerate() {
            match answer {
                Ok(execution) => sorted.accepted(word, execution),
                // A beginning that came with its end is refused with it, once.
                Err(_) if is_begun_and_ended(word, words.get(at + 1)) => {}
                Err(rejected) => sorted.refused(word, &rejected),
            }
        }
        sorted
    }

    fn accepted(&mut self, word: &Word, execution: Execution) {
        if self.changed.last() != Some(&execution.id) {
            self.changed.push(execution.id);
        }
        self.has_room |= execution.is_done();
        self.has_returned |= !execution.is_done() && execution.lease().is_none();
        self.ended.extend(Ended::of(&execution).map(|ended| (execution.lane_id, ended)));
        let session = self.of_sessions.entry(word.session).or_default();
        match word.event {
            Event::Finished { epoch, .. } | Event::Interrupted { epoch, .. } => {
                session.acknowledge(word.execution, epoch);
            }
            Event::Released { epoch, .. } | Event::LeaseExpired { epoch, .. } => {
                session.over.push((word.execution, epoch));
            }
            _ => session.known.push(Arc::new(execution)),
        }
    }

    fn refused(&mut self, word: &Word, rejected: &Rejected) {
        let Some((_, epoch)) = word.event.spoken_for() else { return };
        let session = self.of_sessions.entry(word.session).or_default();
        if *rejected == Rejected::Repeated {
            return session.acknowledge(word.execution, epoch);
        }
        let reason = reason(rejected);
        match &word.event {
            // Said twice, as after a resumed stream: no harm, and nothing to kill.
            Event::Started { .. } | Event::Progressed { .. } | Event::Released { .. }
                if matches!(rejected, Rejected::Illegal { .. }) =>
            {
                return;
            }
            Event::Finished { .. } | Event::Interrupted { .. } => session.refuse(word.execution, epoch, reason),
            _ => session.revoke(word.execution, epoch),
        }
        self.refused.push(reason);
        tracing::info!(execution = %word.execution, session = %word.session, epoch, event = word.event.name(), %rejected, "refused");
    }

    /// Tells the agents that are attached here, each in one frame, and keeps what is known of their leases. Answers with what has ended, and
    /// with the results that came too late.
    pub(super) fn tell(&mut self, registry: &mut Registry) -> (Vec<Ended>, Vec<RefusedResult>) {
        let mut late = Vec::new();
        for (id, of_session) in self.of_sessions.drain() {
            registry.change(id, |attached| late.extend(of_session.tell(attached)));
        }
        let typed = |(lane, ended)| Ended { job_type: registry.job_type(lane), ..ended };
        (self.ended.drain(..).map(typed).collect(), late)
    }
}

/// Whether a word tells the beginning of what the next one tells the end of.
fn is_begun_and_ended(word: &Word, next: Option<&Word>) -> bool {
    let Some(next) = next.filter(|next| (next.session, next.execution) == (word.session, word.execution)) else {
        return false;
    };
    let is_end = matches!(next.event, Event::Finished { .. } | Event::Interrupted { .. });
    matches!(word.event, Event::Started { .. }) && is_end && word.event.spoken_for() == next.event.spoken_for()
}

impl OfSession {
    fn acknowledge(&mut self, execution: Uuid, epoch: i64) {
        self.over.push((execution, epoch));
        self.acks.accepted.push(HeldLease { execution_id: text(execution), epoch });
    }

    fn refuse(&mut self, execution: Uuid, epoch: i64, reason: &str) {
        self.over.push((execution, epoch));
        self.late.push((execution, epoch));
        let execution_id = text(execution);
        self.acks.refused.push(ResultAck { execution_id, epoch, accepted: false, reason: reason.to_owned() });
    }

    fn revoke(&mut self, execution: Uuid, epoch: i64) {
        self.over.push((execution, epoch));
        self.revoked.push(HeldLease { execution_id: text(execution), epoch });
    }

    fn tell(self, attached: &mut Attached) -> Vec<RefusedResult> {
        for known in self.known {
            attached.learn(known);
        }
        for (execution, epoch) in self.over {
            attached.forget(execution, epoch);
        }
        if !self.revoked.is_empty() {
            attached.send(Kind::Revoke(Revoke { leases: self.revoked }));
        }
        if self.acks != ResultAcks::default() {
            attached.send(Kind::ResultAcks(self.acks));
        }
        let (worker_name, tenant) = (&attached.agent.name, attached.agent.tenant_id);
        let late = |(execution, epoch)| RefusedResult { execution, epoch, worker_name: worker_name.clone(), tenant };
        self.late.into_iter().map(late).collect()
    }
}

fn reason(rejected: &Rejected) -> &'static str {
    match rejected {
        Rejected::StaleLease { .. } => "stale_lease",
        Rejected::LeaseOver { .. } => "lease_over",
        Rejected::SessionOver { .. } => "session_over",
        Rejected::AlreadyDone { .. } => "already_done",
        Rejected::Illegal { .. } => "illegal",
        Rejected::Repeated => "repeated",
        Rejected::Unknown => "unknown",
    }
}
