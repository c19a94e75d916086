use std::sync::Arc;
use std::time::Duration;

use orrery_proto::v1::CoordinatorMessage;
use orrery_proto::v1::coordinator_message::Kind;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::pool::Load;
use super::{Leases, message};
use crate::execution::{ByExecution, Execution};
use crate::store::{NewSession, Session};

/// Frames that may wait for a slow agent. Beyond that it is cut off: it resumes when it can read again, and nobody else waits for it.
pub(crate) const FRAMES: usize = 8192;

/// A session whose stream ends here.
pub struct Attached {
    pub id: Uuid,
    pub attachment: i64,
    pub agent: Arc<NewSession>,
    /// Executions that the agent takes beside what it has been given.
    pub credits: usize,
    /// Of its credits, those that are taken for leases on their way to it, and are no longer among `credits`.
    reserved: usize,
    /// What it has been given and has not ended.
    held: ByExecution<Hold>,
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

/// A lease that an agent holds.
#[derive(Clone, Debug)]
pub(crate) struct Hold {
    pub(crate) epoch: i64,
    /// The execution as this coordinator has seen it last, on this attachment; `None` where the lease came with a resumed session.
    pub(crate) known: Option<Arc<Execution>>,
}

impl Attached {
    /// A session on a new stream, without credits. Of the leases that it brings along nothing more is known.
    pub(crate) fn new(
        session: &Session,
        agent: Arc<NewSession>,
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
            reserved: 0,
            held: held.into_iter().map(|(id, epoch)| (id, Hold { epoch, known: None })).collect(),
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
            .filter(|(id, hold)| named.get(*id) != Some(&hold.epoch))
            .map(|(id, hold)| (*id, hold.epoch))
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
    pub(crate) fn load(&self) -> Option<Load> {
        if self.draining || self.credits == 0 || self.cut.is_cancelled() {
            return None;
        }
        let slots = usize::try_from(self.agent.slots).unwrap_or(0);
        Some(Load { slots, running: self.running(), credits: self.credits })
    }

    /// Leases that it holds, or that are on their way to it.
    pub(crate) fn running(&self) -> usize {
        self.held.len() + self.reserved
    }

    /// The agent takes so many executions more; never more than it has slots.
    pub(crate) fn credit(&mut self, slots: usize) {
        let most = usize::try_from(self.agent.slots).unwrap_or(0);
        self.credits = self.credits.saturating_add(slots).min(most);
    }

    /// Takes a credit for a lease that is about to be granted. `false` where there is none.
    pub(crate) fn reserve(&mut self) -> bool {
        let has_credit = self.credits > 0;
        if has_credit {
            self.credits -= 1;
            self.reserved += 1;
        }
        has_credit
    }

    /// Whether it takes more than one of so many of its slots.
    pub(crate) fn has_spare(&self, kept: usize) -> bool {
        self.credits > usize::try_from(self.agent.slots).unwrap_or(0).div_ceil(kept)
    }

    /// Credits that were taken and not used.
    pub(crate) fn give_back(&mut self, credits: usize) {
        let credits = credits.min(self.reserved);
        self.reserved -= credits;
        self.credit(credits);
    }

    /// It is given leases, for `reserved` of which a credit has been taken.
    pub(crate) fn take(&mut self, leases: Vec<Arc<Execution>>, reserved: usize) {
        self.reserved = self.reserved.saturating_sub(reserved);
        self.credits = self.credits.saturating_sub(leases.len().saturating_sub(reserved));
        for known in leases {
            self.held.insert(known.id, Hold { epoch: known.epoch, known: Some(known) });
        }
    }

    /// The leases it holds, by execution.
    pub(crate) fn held(&self) -> &ByExecution<Hold> {
        &self.held
    }

    /// Whether it holds this very lease.
    pub(crate) fn holds(&self, execution: Uuid, epoch: i64) -> bool {
        self.held.get(&execution).is_some_and(|hold| hold.epoch == epoch)
    }

    /// What is known of an execution that it holds by this lease.
    pub(crate) fn known(&self, execution: Uuid, epoch: i64) -> Option<Arc<Execution>> {
        self.held.get(&execution).filter(|hold| hold.epoch == epoch)?.known.clone()
    }

    /// The store has changed an execution. What is known of it is that, as long as it is held; nothing where it was not known before: then
    /// it came from another attachment.
    pub(crate) fn learn(&mut self, execution: Arc<Execution>) {
        if let Some(hold) = self.held.get_mut(&execution.id)
            && hold.epoch == execution.epoch
            && hold.known.is_some()
        {
            hold.known = Some(execution);
        }
    }

    /// Makes what it holds agree with what is stored, given what it held before the store was asked: what was granted meanwhile is not in the
    /// answer.
    pub(crate) fn audited(&mut self, stored: &Leases, before: &Leases) {
        self.held.retain(|id, hold| stored.get(id) == Some(&hold.epoch) || before.get(id) != Some(&hold.epoch));
        for (execution, epoch) in stored {
            self.held.entry(*execution).or_insert(Hold { epoch: *epoch, known: None });
        }
    }

    /// The lease is over.
    pub(crate) fn forget(&mut self, execution: Uuid, epoch: i64) {
        if self.held.get(&execution).is_some_and(|hold| hold.epoch <= epoch) {
            self.held.remove(&execution);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attached() -> (Attached, mpsc::Receiver<CoordinatorMessage>) {
        crate::dispatch::tests::attached(1, 2, 1)
    }

    #[test]
    fn a_lease_is_lost_when_two_heartbeats_in_a_row_do_not_name_it() {
        let (mut session, _outgoing) = attached();
        let (kept, lost) = (Uuid::from_u128(2), Uuid::from_u128(3));
        session.audited(&Leases::from([(kept, 1), (lost, 4)]), &Leases::new());
        let named = Leases::from([(kept, 1), (lost, 3)]);
        assert_eq!(session.lost(&named), [], "it may have crossed the heartbeat");
        assert_eq!(session.lost(&named), [(lost, 4)]);
        // Named once, the count begins anew.
        session.lost(&Leases::from([(kept, 1), (lost, 4)]));
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
        assert!(session.load().is_some());
        assert!(session.send(drain()));
        assert!(!session.send(drain()), "the queue holds one");
        assert!(session.cut.is_cancelled() && session.load().is_none());
    }
}
