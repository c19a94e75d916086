//! The attempts under way, and what becomes of those that do not end: told to stop, aborted, given up.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::Instant;
use tracing::warn;

use super::attempt::{ABORT, REVOKED_GRACE};
use super::finished::Cause;
use super::lease::{ByLease, LeaseKey};
use super::line::{Attempt, Line};
use super::reports::Reports;
use crate::executor::{Context, StopReason};

/// All attempts that have not ended.
pub(super) struct Crew {
    members: ByLease<Member>,
    /// When something is to be done about each.
    dues: BTreeSet<(Instant, LeaseKey)>,
    /// How long a stopped task may take before it is aborted.
    grace: Duration,
    /// Those that begin in this turn.
    beginning: Vec<Attempt>,
    line: Arc<Line>,
    reports: Arc<Reports>,
}

/// An attempt under way.
pub(super) struct Member {
    pub(super) context: Context,
    pub(super) begin: Instant,
    pub(super) timeout: Duration,
    /// Why it was stopped, if it was.
    pub(super) cause: Option<Cause>,
    phase: Phase,
    due: Instant,
    abort: Option<AbortHandle>,
}

/// What is done about an attempt when it is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It works; then its time is over.
    Working,
    /// It was told to stop; then it is aborted.
    Stopping,
    /// It was aborted; then it is left behind.
    Aborted,
}

impl Crew {
    pub(super) fn new(grace: Duration, reports: Arc<Reports>) -> Self {
        let line = Arc::new(Line::new(reports.clone()));
        Self { members: ByLease::default(), dues: BTreeSet::new(), grace, beginning: Vec::new(), line, reports }
    }

    /// An attempt begins. It is polled once [`Crew::set_off`] is called.
    pub(super) fn begin(&mut self, attempt: Attempt, now: Instant) {
        let Attempt { key, task, context, .. } = &attempt;
        let timeout = task.timeout;
        let due = now + timeout;
        self.dues.insert((due, key.clone()));
        let context = context.clone();
        let member = Member { context, begin: now, timeout, cause: None, phase: Phase::Working, due, abort: None };
        self.members.insert(key.clone(), member);
        self.beginning.push(attempt);
    }

    /// Lets all begin that are to.
    pub(super) fn set_off(&mut self) {
        if !self.beginning.is_empty() {
            self.line.join(&mut self.beginning);
        }
    }

    /// An attempt has been polled and goes on; `abort` ends its task where it waits.
    pub(super) fn goes_on(&mut self, key: &LeaseKey, abort: AbortHandle) {
        match self.members.get_mut(key) {
            Some(member) if member.phase != Phase::Aborted => member.abort = Some(abort),
            // Given up in its first poll, it waits at last.
            _ => abort.abort(),
        }
    }

    /// An attempt does not come out of its first poll: others take over from who polls it.
    pub(super) fn held_up(&mut self, key: LeaseKey) {
        self.reports.overdue(key);
        self.line.hire();
    }

    /// It has ended, or nobody waits for its end any more.
    pub(super) fn end(&mut self, key: &LeaseKey) -> Option<Member> {
        let (key, member) = self.members.remove_entry(key)?;
        self.dues.remove(&(member.due, key));
        Some(member)
    }

    /// Tells one to stop. The first cause holds, but for the loss of the lease, which overrides every other and shortens the grace.
    pub(super) fn stop(&mut self, key: &LeaseKey, cause: Cause, now: Instant) {
        let Some(member) = self.members.get_mut(key) else { return };
        if member.cause.is_none() || cause == Cause::Revoked {
            member.cause = Some(cause);
        }
        member.context.stop(match cause {
            Cause::Cancelled | Cause::ShutDown => StopReason::Cancelled,
            Cause::TimedOut => StopReason::TimedOut,
            Cause::Revoked => StopReason::Revoked,
        });
        let grace = if cause == Cause::Revoked { REVOKED_GRACE.min(self.grace) } else { self.grace };
        match member.phase {
            Phase::Working => self.set(key, Phase::Stopping, now + grace),
            Phase::Stopping if now + grace < member.due => self.set(key, Phase::Stopping, now + grace),
            Phase::Stopping | Phase::Aborted => {}
        }
    }

    fn set(&mut self, key: &LeaseKey, phase: Phase, due: Instant) {
        let Some(member) = self.members.get_mut(key) else { return };
        self.dues.remove(&(member.due, key.clone()));
        self.dues.insert((due, key.clone()));
        (member.phase, member.due) = (phase, due);
    }

    /// When [`Crew::tick`] has something to do next.
    pub(super) fn due(&self) -> Option<Instant> {
        self.dues.first().map(|(due, _)| *due)
    }

    /// Does what is due. Answers with those that did not even end by their abort: they may still compute.
    pub(super) fn tick(&mut self, now: Instant) -> Vec<LeaseKey> {
        let mut left_behind = Vec::new();
        while let Some((_, key)) = self.dues.first().filter(|(due, _)| *due <= now).cloned() {
            match self.members.get(&key).map(|member| member.phase) {
                Some(Phase::Working) => self.stop(&key, Cause::TimedOut, now),
                Some(Phase::Stopping) => {
                    warn!(lease = %key, "the task did not stop within its grace; aborted");
                    if let Some(abort) = self.members.get(&key).and_then(|member| member.abort.as_ref()) {
                        abort.abort();
                    }
                    self.set(&key, Phase::Aborted, now + ABORT);
                }
                Some(Phase::Aborted) => {
                    self.dues.pop_first();
                    left_behind.push(key);
                }
                None => {
                    self.dues.pop_first();
                }
            }
        }
        left_behind
    }
}

impl Drop for Crew {
    /// Tasks are dropped where they wait.
    fn drop(&mut self) {
        self.line.close();
        self.reports.close();
        for member in self.members.values() {
            if let Some(abort) = &member.abort {
                abort.abort();
            }
        }
    }
}
