use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::dispatcher::look_for_lanes;
use super::{Dispatch, HandOver, Reservations};
use crate::clock::DatabaseClock;
use crate::config::Limits;
use crate::firing;
use crate::reconcile::{Backoff, Signals};
use crate::store::{Arm, Armed, Candidate, DynStore, StoreError};

/// The most that one round grants, so that its transaction is short beside those of what is due now.
const A_ROUND: usize = 250;

/// What is nearer than this is left for its release: neither is to wait for the other at the instant.
const LEAST: Duration = Duration::from_millis(25);

/// When to look again at fires that are near and could not be granted: no agent was free, or their job was at work.
const AGAIN: Duration = Duration::from_millis(150);

/// How exactly the database's clock is to be known, and how often it is read to know it so.
const EXACT: Duration = Duration::from_micros(200);
const READINGS: usize = 5;

/// Where it is known no better than this, a fire is more exact at its release.
const INEXACT: Duration = Duration::from_millis(10);

const FOR_EVER: Duration = Duration::from_secs(86_400);

/// Grants planned fires to this coordinator's agents ahead of their instant, so that nothing is left to be done at the instant itself, and a
/// coordinator that dies at it delays nothing.
///
/// It takes only what is to spare: while anything waits that agents here could not take at once, nothing; and of each agent, and of what
/// this coordinator's agents may hold, never the last quarter, which is for what comes before the instant.
pub struct Armer {
    pub store: DynStore,
    pub dispatch: Arc<Dispatch>,
    pub hand_over: HandOver,
    pub clock: Arc<DatabaseClock>,
    pub signals: Arc<Signals>,
    pub limits: Arc<Limits>,
}

impl Armer {
    /// Grants until the end.
    pub async fn run(self, shutdown: CancellationToken) {
        if self.limits.arm_ahead().is_zero() {
            return;
        }
        let mut due = self.signals.due.subscribe();
        let mut backoff = Backoff::default();
        // The nearest fire to look for, and not before when.
        let (mut near, mut not_before) = (None, Instant::now());
        loop {
            let look = self.coming(near).map(|at| (at - self.limits.arm_ahead()).max(not_before));
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = due.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let told = *due.borrow_and_update();
                    near = [near, told].into_iter().flatten().filter(|at| self.coming(Some(*at)).is_some()).min();
                    continue;
                }
                () = tokio::time::sleep_until(look.unwrap_or_else(|| Instant::now() + FOR_EVER)) => {}
            }
            let pause = match self.rounds(&mut near).await {
                Ok(()) => {
                    backoff.reset();
                    AGAIN
                }
                Err(error) => {
                    tracing::warn!(%error, source = ?std::error::Error::source(&error), "granting ahead failed; trying again");
                    backoff.next()
                }
            };
            not_before = Instant::now() + pause;
        }
    }

    /// When a fire comes here, unless it has.
    fn coming(&self, at: Option<DateTime<Utc>>) -> Option<Instant> {
        at.map(|at| self.clock.local(at)).filter(|at| *at > Instant::now())
    }

    /// Grants until nothing more is near, or to spare. `near` becomes the nearest fire that is left.
    async fn rounds(&self, near: &mut Option<DateTime<Utc>>) -> Result<(), StoreError> {
        if self.dispatch.spare() > 0 {
            self.look_at_clock().await?;
            // The lane of a job that has never fired is as new as its first fire.
            look_for_lanes(&self.store, &self.dispatch).await?;
        }
        loop {
            let limit = self.dispatch.spare().min(A_ROUND);
            let is_exact = self.clock.error().is_some_and(|error| error <= INEXACT);
            if limit == 0 || !is_exact {
                return Ok(());
            }
            let reserved = self.dispatch.reservations();
            let asked = Instant::now();
            let armed = self.arm(limit, &reserved).await?;
            self.clock.observe(asked, armed.now);
            *near = armed.next;
            let granted = armed.grants.len();
            if granted > 0 {
                tracing::debug!(granted, "granted ahead");
                self.dispatch.claimed(granted);
                self.hand_over.give(armed.grants, reserved).await;
            }
            if granted == 0 || !armed.more {
                return Ok(());
            }
        }
    }

    async fn arm(&self, limit: usize, reserved: &Reservations) -> Result<Armed, StoreError> {
        let lanes = self.dispatch.open_lanes();
        let arm = Arm {
            lanes: &lanes,
            least: LEAST,
            ahead: self.limits.arm_ahead(),
            limit,
            tenant_limit: self.limits.tenant_max_concurrent,
            hourly: self.limits.hourly(),
            timeouts: self.limits.timeouts(),
        };
        let assign = |candidates: &[Candidate<'_>]| {
            // It may be called again, where the transaction is retried.
            reserved.release();
            reserved.reserve_spare(candidates.iter().map(|candidate| candidate.execution.lane_id))
        };
        self.store.arm(&arm, &firing::arm, &assign).await
    }

    /// Reads the database's clock, where the readings that other loops take along do not tell it well enough: the quickest tells it best.
    async fn look_at_clock(&self) -> Result<(), StoreError> {
        for _ in 0..READINGS {
            if self.clock.error().is_some_and(|error| error <= EXACT) {
                break;
            }
            let (asked, now) = self.store.read_clock().await?;
            self.clock.observe(asked, now);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::dispatch::tests::dispatch;

    #[test]
    fn of_what_is_not_due_an_agent_is_given_what_it_has_to_spare() {
        let (dispatch, _outgoing) = dispatch(100);
        let reserved = dispatch.reservations();
        let given = reserved.reserve_spare([1, 1, 1, 1, 1]);
        assert_eq!(given.iter().flatten().count(), 3, "of four slots one is kept");
        assert!(reserved.reserve(1).is_some(), "for what is due now");
        assert!(reserved.reserve(1).is_none());
    }

    #[test]
    fn places_are_kept_for_what_is_due_and_a_backlog_takes_all() {
        let (dispatch, _outgoing) = dispatch(4);
        let reserved = dispatch.reservations();
        assert_eq!((dispatch.spare(), reserved.reserve_spare([1, 1]).iter().flatten().count()), (3, 2));
        assert_eq!(dispatch.spare(), 1);
        dispatch.set_backlog(true);
        assert_eq!((dispatch.spare(), reserved.reserve_spare([1])), (0, vec![None]));
        assert!(reserved.reserve(1).is_some());
        dispatch.set_backlog(false);
        assert_eq!(dispatch.spare(), 0, "the last place is for what is due now");
    }
}
