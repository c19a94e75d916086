use std::time::Duration;

use orrery_proto::v1::{Heartbeat, HeldLease};
use tokio::time::Instant;
use uuid::Uuid;

use super::renewals::Beat;
use super::{AgentApi, Attached, Leases, Word, knows, leases};
use crate::execution::Event;

/// Every how many heartbeats a session is compared with the store.
const AUDIT_EVERY: u64 = 3;

/// How long that may take.
const AUDIT_PATIENCE: Duration = Duration::from_millis(500);

impl AgentApi {
    /// A heartbeat renews the session, and compares what the agent holds with what it should: the answer to a claim or a frame with a lease can
    /// be lost, and another coordinator may have taken a lease back. Without this a lost lease would be nobody's work until its deadline, and
    /// one that was taken back would be two agents'.
    pub(super) async fn hear(&self, id: Uuid, attachment: i64, beat: Heartbeat) {
        let reads = self.dispatch.on(id, attachment, |attached| attached.reads(beat.heard, Instant::now()));
        if reads == Some(false) {
            tracing::warn!(session = %id, "an agent sends heartbeats and reads nothing; its stream is cut");
            self.dispatch.expel_from(id, attachment);
            return;
        }
        let named = leases(&beat.held);
        let unknown =
            |held: &Attached| named.len() < beat.held.len() || named.iter().any(|(id, epoch)| !held.holds(*id, *epoch));
        let surprised = self.dispatch.on(id, attachment, |attached| unknown(attached)).unwrap_or(false);
        let mut revoked = Vec::new();
        if surprised || is_audited(id, beat.sequence) {
            // What the store is busy with must not hold the heartbeat up.
            let audit = tokio::time::timeout(AUDIT_PATIENCE, self.audit(id, attachment, &beat.held));
            revoked = audit.await.unwrap_or_default();
        }
        self.heart.beat(Beat { session: id, attachment, sequence: beat.sequence, revoked }).await;
        let lost = self.dispatch.on(id, attachment, |attached| attached.lost(&named)).unwrap_or_default();
        for (execution, epoch) in lost {
            tracing::warn!(session = %id, %execution, epoch, "the agent does not have this lease; it is taken back");
            self.take_back(id, execution, epoch).await;
        }
    }

    /// Compares with the store. Answers with the leases that the agent names and the store does not know.
    async fn audit(&self, id: Uuid, attachment: i64, named: &[HeldLease]) -> Vec<HeldLease> {
        // What is granted while the store is asked is not in its answer.
        let epochs = |attached: &mut Attached| attached.held().iter().map(|(id, hold)| (*id, hold.epoch)).collect();
        let before: Leases = self.dispatch.on(id, attachment, epochs).unwrap_or_default();
        let stored = {
            // Never closed.
            let _turn = self.dispatch.audits.acquire().await;
            self.store.held(id).await
        };
        let Ok(stored) = stored else { return Vec::new() };
        let stored: Leases = stored.into_iter().map(|lease| (lease.execution_id, lease.epoch)).collect();
        self.dispatch.on(id, attachment, |attached| attached.audited(&stored, &before));
        named.iter().filter(|lease| !knows(&stored, lease)).cloned().collect()
    }

    /// Takes a lease back from an agent that does not have it: as not begun, or, where it had said that it began, as lost.
    async fn take_back(&self, session: Uuid, execution: Uuid, epoch: i64) {
        // Where the first is accepted, the second is refused, and nobody minds.
        for event in
            [Event::Released { session_id: session, epoch }, Event::LeaseExpired { session_id: session, epoch }]
        {
            self.intake.say(Word { session, execution, event }).await;
        }
    }
}

/// Whether a session is compared with the store at this heartbeat. Agents that have come together are not compared together.
fn is_audited(session: Uuid, sequence: u64) -> bool {
    let (_, share) = session.as_u64_pair();
    sequence.wrapping_add(share % AUDIT_EVERY).is_multiple_of(AUDIT_EVERY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_session_is_compared_at_every_third_heartbeat_and_not_all_at_the_same() {
        let at = |sequence| (0..300).filter(|n| is_audited(Uuid::from_u128(*n), sequence)).count();
        assert_eq!([at(1), at(2), at(3), at(4)], [100, 100, 100, 100]);
        for session in (0..9).map(Uuid::from_u128) {
            let times: Vec<u64> = (0..9).filter(|sequence| is_audited(session, *sequence)).collect();
            assert_eq!((times.len(), times[1] - times[0], times[2] - times[1]), (3, 3, 3));
        }
    }
}
