//! Leases that are granted ahead of the instant of their fire: the agent holds the work before it may begin, so that at the instant itself
//! neither the database nor a coordinator has a part in it.
//!
//! An agent begins by the delay that its lease names, never before, and has stopped trusting its session before the database ends it. So
//! nothing can have begun of a lease that is given back before the instant: it costs no attempt and is no loss. From the instant on it
//! may have begun, and everything is as with any other lease.

use chrono::{DateTime, Utc};
use orrery_proto::v1::{ExecutionStatus, TriggerType};

use super::state::{Event, Rejected, illegal, without_result};
use super::{Execution, Lease, State};

impl Execution {
    /// The instant that its lease was granted ahead of, if it was and has not begun.
    pub fn armed_for(&self) -> Option<DateTime<Utc>> {
        match &self.state {
            State::Leased(lease) if lease.granted_at < self.run_at => Some(self.run_at),
            _ => None,
        }
    }

    /// Whether an agent holds it and may not begin it yet.
    pub fn is_armed(&self, now: DateTime<Utc>) -> bool {
        self.armed_for().is_some_and(|at| now < at)
    }

    /// Whether it is a fire that was given back before its instant: its job has counted it, and its overlap has been decided.
    pub fn was_armed(&self) -> bool {
        self.state == State::Scheduled && self.attempt == 0 && self.epoch > 0
    }

    /// From when the time of its attempt counts, as long as that has not begun.
    pub(super) fn counts_from(&self, lease: &Lease) -> DateTime<Utc> {
        lease.granted_at.max(self.armed_for().unwrap_or(lease.granted_at))
    }
}

/// Grants a planned fire ahead of its instant. What waits for a retry, or was asked for by a person, is granted when it is due.
pub(super) fn arm(next: &mut Execution, event: &Event, lease: Lease, job_version: i64) -> Result<(), Rejected> {
    let is_fire = next.state == State::Scheduled && next.trigger == TriggerType::Scheduled && next.attempt == 0;
    if !is_fire || next.run_at <= lease.granted_at {
        return Err(illegal(next, event));
    }
    next.epoch += 1;
    next.attempt = 1;
    next.job_version = job_version;
    next.state = State::Leased(lease);
    Ok(())
}

/// Takes such a lease back before the instant. The definition may change until it is granted again.
pub(super) fn disarm(next: &mut Execution, lease: &Lease, now: DateTime<Utc>) {
    next.attempt = 0;
    next.job_version = 0;
    next.progress = 0;
    next.state = match next.cancel_requested_at {
        Some(_) => State::Done(without_result(next, ExecutionStatus::Cancelled, None, lease, now)),
        None => State::Scheduled,
    };
}
