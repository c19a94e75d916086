//! What each message of a coordinator does.

use std::time::Duration;

use orrery_proto::v1::{
    Cancel, ExecutionStatus, Finished, HeartbeatAck, Lease, Release, ResultAck, agent_message::Kind,
    coordinator_message,
};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::{Action, Mode, Session, State};
use crate::executor::Outcome;
use crate::worker::finished::{Cause, Ending, Limits, conclude};
use crate::worker::lease::{LeaseKey, leases_of};

/// Agents of a coordinator that goes away move within this time, not all at once.
const SPREAD: Duration = Duration::from_secs(1);

/// The reason of a `Cancel` that ends nothing: what has not begun is wanted back.
const RECALLED: &str = "recalled";

impl State {
    /// Takes one message; `roll` is random, 0 to 1.
    pub(in crate::worker) fn message(&mut self, kind: coordinator_message::Kind, now: Instant, roll: f64) {
        use coordinator_message::Kind as From;
        match kind {
            From::Registered(_) => warn!("the coordinator registers this worker twice; ignored"),
            From::HeartbeatAck(ack) => self.heartbeat_acknowledged(&ack),
            From::Leases(batch) => {
                let mut refused = Vec::new();
                for lease in leases_of(batch) {
                    refused.extend(self.leased(lease, now).map(|key| key.held()));
                }
                if !refused.is_empty() {
                    self.send(Kind::Release(Release { leases: refused }));
                }
            }
            From::Cancel(cancel) => self.cancel(&cancel, now),
            From::Revoke(revoke) => self.revoke_all(&revoke.leases),
            From::ResultAck(ack) => self.result_acknowledged(&ack),
            From::ResultAcks(acks) => {
                for accepted in &acks.accepted {
                    self.result_settled(LeaseKey::from(accepted));
                }
                for refused in &acks.refused {
                    self.result_acknowledged(refused);
                }
            }
            From::Drain(request) if request.reconnect => {
                if let Some(attachment) = &mut self.attachment {
                    attachment.leave_at.get_or_insert(now + SPREAD.mul_f64(roll.clamp(0.0, 1.0)));
                }
            }
            From::Drain(_) => self.drain(),
        }
    }

    fn heartbeat_acknowledged(&mut self, ack: &HeartbeatAck) {
        if let (Some(attachment), Some(session)) = (&mut self.attachment, &mut self.session) {
            attachment.heard = attachment.heard.max(ack.sequence);
            while let Some((sequence, sent)) = attachment.unacknowledged.front().copied() {
                if sequence > ack.sequence {
                    break;
                }
                attachment.unacknowledged.pop_front();
                if sequence == ack.sequence {
                    session.trusted_until = session.trusted_until.max(sent + Session::trust(session.ttl));
                }
            }
            if !attachment.proven {
                attachment.proven = true;
                self.actions.push(Action::Proven);
            }
        }
        self.revoke_all(&ack.revoked);
    }

    /// Takes a lease, or gives its key back where it cannot be begun.
    fn leased(&mut self, lease: Lease, now: Instant) -> Option<LeaseKey> {
        if let Some(attachment) = &mut self.attachment {
            attachment.credits = attachment.credits.saturating_sub(1);
        }
        let key = LeaseKey::from(&lease);
        let others = self.grants_of(&key);
        if others.contains(&key) {
            debug!(lease = %key, "granted twice; ignored");
            return None;
        }
        if others.iter().any(|other| other.epoch > key.epoch) {
            warn!(lease = %key, "granted after a newer grant of the same execution; ignored");
            return None;
        }
        if self.mode != Mode::Serving {
            return Some(key);
        }
        if let Some(cause) = self.early.take(&key, now) {
            self.end_older(&key, &others);
            self.not_begun(&lease, cause, now);
            return None;
        }
        if others.is_empty() && self.used() >= self.terms.slots as usize {
            warn!(lease = %key, "granted beyond the free slots; given back");
            return Some(key);
        }
        if let Some(delay) = Self::delay(&lease) {
            self.end_older(&key, &others);
            self.arm(lease, delay, now);
            return None;
        }
        if others.is_empty() {
            self.start(lease, now);
            return None;
        }
        // A newer grant begins once the last of the older ones has stopped, so that the work is never done twice at once.
        if self.end_older(&key, &others) {
            self.waiting.push(lease);
        } else {
            self.start(lease, now);
        }
        None
    }

    /// Every grant of the same execution that is known here.
    fn grants_of(&self, key: &LeaseKey) -> Vec<LeaseKey> {
        let running = self.tasks.range(LeaseKey::all_of(&key.execution_id)).map(|(other, _)| other.clone());
        let ended = self.results.of(&key.execution_id).cloned();
        let waiting = self.waiting.iter().map(LeaseKey::from).filter(|other| other.execution_id == key.execution_id);
        running.chain(ended).chain(waiting).chain(self.armed.of(key).cloned()).collect()
    }

    /// Ends the older grants of an execution, since there is a newer one. Whether any of them still runs.
    fn end_older(&mut self, newest: &LeaseKey, older: &[LeaseKey]) -> bool {
        self.waiting.retain(|other| LeaseKey::from(other).execution_id != newest.execution_id);
        let mut running = false;
        for key in older {
            self.armed.remove(key);
            running |= self.revoke_task(key);
            if self.results.remove(key) {
                self.actions.push(Action::Forget(key.clone()));
            }
        }
        running
    }

    fn cancel(&mut self, cancel: &Cancel, now: Instant) {
        let key = LeaseKey::new(&cancel.execution_id, cancel.epoch);
        if cancel.reason == RECALLED {
            return self.recall(&key);
        }
        let cause = if cancel.reason == "timeout" { Cause::TimedOut } else { Cause::Cancelled };
        if let Some(task) = self.tasks.get(&key) {
            if !task.revoked {
                self.actions.push(Action::Stop(key, cause));
            }
        } else if let Some(at) = self.waiting.iter().position(|lease| LeaseKey::from(lease) == key) {
            let lease = self.waiting.swap_remove(at);
            self.not_begun(&lease, cause, now);
        } else if let Some(lease) = self.armed.remove(&key) {
            self.not_begun(&lease, cause, now);
        } else if !self.results.contains(&key) && !self.unfinished.contains(&key) {
            self.early.note(key, cause, now);
        }
    }

    /// Tells of a lease that was stopped before it began.
    fn not_begun(&mut self, lease: &Lease, cause: Cause, now: Instant) {
        let key = LeaseKey::from(lease);
        if let Some(finished) = never_begun(&key, lease, cause) {
            self.results.insert(key.clone(), finished, false);
            self.tell(&key, now);
        }
    }

    fn result_acknowledged(&mut self, ack: &ResultAck) {
        let key = LeaseKey::new(&ack.execution_id, ack.epoch);
        if !ack.accepted {
            warn!(lease = %key, reason = ack.reason, "the coordinator refuses the result");
        }
        self.result_settled(key);
    }

    /// A result is wanted no more.
    fn result_settled(&mut self, key: LeaseKey) {
        if self.results.remove(&key) {
            self.actions.push(Action::Forget(key));
        }
    }
}

/// The result of a lease that was stopped before it came, or while it waited for the end of an older grant.
fn never_begun(key: &LeaseKey, lease: &Lease, cause: Cause) -> Option<Finished> {
    let outcome = Outcome::failure(orrery_proto::v1::ErrorType::UserError, "stopped before it began");
    let timeout = Duration::from_millis(u64::try_from(lease.timeout_ms).unwrap_or(0));
    let limits = Limits { result_bytes: 0 };
    let finished = conclude(key, Ending::Returned(outcome), Some(cause), timeout, Duration::ZERO, limits);
    debug_assert!(finished.as_ref().is_none_or(|f| f.status() != ExecutionStatus::Completed));
    finished
}
