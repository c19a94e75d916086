use std::time::Duration;

use orrery_proto::v1::CoordinatorMessage;
use orrery_proto::v1::coordinator_message::Kind;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::matching::Offer;
use super::{Leases, message};
use crate::store::{NewSession, Session};

/// Frames that may wait for a slow agent. Beyond that it is cut off: it resumes when it can read again, and nobody else waits for it.
pub(crate) const FRAMES: usize = 8192;

/// A session whose stream ends here.
pub struct Attached {
    pub id: Uuid,
    pub attachment: i64,
    pub agent: NewSession,
    /// Executions that the agent takes beside what it has been given.
    pub credits: usize,
    /// What it has been given and has not ended, with the epoch.
    pub held: Leases,
    /// What of that its last heartbeat did not name.
    missing: Leases,
    pub draining: bool,
    pub frames: mpsc::Sender<CoordinatorMessage>,
    /// The oldest acknowledgement of a heartbeat that it has not said to have read, and when that was sent.
    unheard: Option<(u64, Instant)>,
    /// How long it may leave that unread.
    patience: Duration,
    /// Ends the stream.
    pub cut: CancellationToken,
}

impl Attached {
    /// A session on a new stream, without credits.
    pub(crate) fn new(
        session: &Session,
        agent: NewSession,
        held: Leases,
        frames: mpsc::Sender<CoordinatorMessage>,
        cut: CancellationToken,
    ) -> Self {
        let (id, attachment, draining) = (session.id, session.attachment, session.draining);
        let patience = (session.expires_at - session.renewed_at).to_std().unwrap_or_default();
        Self {
            id,
            attachment,
            agent,
            credits: 0,
            held,
            missing: Leases::new(),
            draining,
            frames,
            unheard: None,
            patience,
            cut,
        }
    }

    /// The leases that neither this heartbeat nor the one before it named: they have not reached the agent, or it has lost them. One
    /// heartbeat alone may have crossed a lease on its way.
    pub(crate) fn lost(&mut self, named: &Leases) -> Vec<(Uuid, i64)> {
        let missing: Leases = self
            .held
            .iter()
            .filter(|(id, epoch)| named.get(*id) != Some(*epoch))
            .map(|(id, epoch)| (*id, *epoch))
            .collect();
        let lost = missing.iter().filter(|(id, epoch)| self.missing.get(*id) == Some(*epoch));
        let lost = lost.map(|(id, epoch)| (*id, *epoch)).collect();
        self.missing = missing;
        lost
    }

    /// A heartbeat is acknowledged.
    pub(crate) fn told(&mut self, sequence: u64, now: Instant) {
        self.unheard.get_or_insert((sequence, now));
    }

    /// Whether it reads what it is sent, given the newest acknowledgement that it says to have read. Connections hold a lot, so a full queue
    /// alone would tell that late.
    pub(crate) fn reads(&mut self, heard: u64, now: Instant) -> bool {
        if self.unheard.is_some_and(|(sequence, _)| heard >= sequence) {
            self.unheard = None;
        }
        self.unheard.is_none_or(|(_, since)| now.saturating_duration_since(since) <= self.patience)
    }

    /// Sends a frame without waiting. An agent whose queue is full is cut off.
    pub(crate) fn send(&self, kind: Kind) -> bool {
        let sent = self.frames.try_send(message(kind)).is_ok();
        if !sent {
            tracing::warn!(session = %self.id, agent = %self.agent.name, "the agent does not read its stream; it is cut off");
            self.cut.cancel();
        }
        sent
    }

    /// What it can be given, if anything.
    pub(crate) fn offer(&self) -> Option<Offer> {
        if self.draining || self.credits == 0 || self.cut.is_cancelled() {
            return None;
        }
        Some(Offer {
            session_id: self.id,
            attachment: self.attachment,
            worker_name: self.agent.name.clone(),
            tenant_id: self.agent.tenant_id,
            queues: self.agent.queues.clone(),
            executors: self.agent.executors.clone(),
            labels: self.agent.labels.clone(),
            slots: usize::try_from(self.agent.slots).unwrap_or(0),
            running: self.held.len(),
            credits: self.credits,
        })
    }

    /// The lease is over.
    pub(crate) fn forget(&mut self, execution: Uuid, epoch: i64) {
        if self.held.get(&execution).is_some_and(|held| *held <= epoch) {
            self.held.remove(&execution);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;
    use std::collections::BTreeMap;

    const TTL: Duration = Duration::from_secs(15);

    fn attached() -> (Attached, mpsc::Receiver<CoordinatorMessage>) {
        let agent = NewSession {
            tenant_id: None,
            name: "a".into(),
            version: String::new(),
            labels: BTreeMap::new(),
            queues: vec!["default".into()],
            executors: vec!["http".into()],
            slots: 2,
            coordinator_id: Uuid::nil(),
            address: String::new(),
        };
        let at = DateTime::UNIX_EPOCH;
        let session = Session {
            id: Uuid::from_u128(1),
            agent: agent.clone(),
            attachment: 1,
            attached: true,
            draining: false,
            opened_at: at,
            renewed_at: at,
            expires_at: at + TTL,
            running: 0,
        };
        let (frames, outgoing) = mpsc::channel(1);
        (Attached::new(&session, agent, Leases::new(), frames, CancellationToken::new()), outgoing)
    }

    #[test]
    fn a_lease_is_lost_when_two_heartbeats_in_a_row_do_not_name_it() {
        let (mut session, _outgoing) = attached();
        let (kept, lost) = (Uuid::from_u128(2), Uuid::from_u128(3));
        session.held = Leases::from([(kept, 1), (lost, 4)]);
        let named = Leases::from([(kept, 1), (lost, 3)]);
        assert_eq!(session.lost(&named), [], "it may have crossed the heartbeat");
        assert_eq!(session.lost(&named), [(lost, 4)]);
        // Named once, the count begins anew.
        session.lost(&session.held.clone());
        assert_eq!(session.lost(&named), []);
        session.forget(lost, 4);
        assert_eq!(session.lost(&named), []);
    }

    fn drain() -> Kind {
        Kind::Drain(orrery_proto::v1::DrainRequest { reconnect: false })
    }

    #[test]
    fn who_hears_nothing_for_its_sessions_life_does_not_read() {
        let (mut session, _outgoing) = attached();
        let start = Instant::now();
        let at = |second: u64| start + Duration::from_secs(second);
        assert!(session.reads(0, at(0)));
        session.told(1, at(0));
        session.told(2, at(5));
        assert!(session.reads(0, at(14)), "the first is under way");
        assert!(session.reads(1, at(14)));
        session.told(3, at(15));
        // The second is not heard, but no life has passed since the third was sent.
        assert!(session.reads(2, at(29)) && session.reads(2, at(30)));
        assert!(!session.reads(2, at(31)));
        assert!(session.reads(3, at(500)), "nothing was sent");
    }

    #[test]
    fn an_agent_that_does_not_read_is_cut_off() {
        let (mut session, _outgoing) = attached();
        session.credits = 1;
        assert!(session.offer().is_some());
        assert!(session.send(drain()));
        assert!(!session.send(drain()), "the queue holds one");
        assert!(session.cut.is_cancelled() && session.offer().is_none());
    }
}
