//! Loops that bring the world towards what the store says. They take no input: a signal or a timer wakes them, and they look for
//! themselves, so that normal running and recovery are one path.

mod planner;
mod ramp;
mod reaper;
mod releaser;
mod sealer;
mod totals;
mod upkeep;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

pub use planner::Planner;
use ramp::Ramp;
pub use reaper::Reaper;
pub use releaser::Releaser;
pub use sealer::Sealer;
pub use totals::Totals;
pub use upkeep::Upkeep;

use crate::store::Wake;

/// How long ahead fires are planned at the least, so that at the instant their executions are already there. Not a whole number of seconds: cron
/// fires on whole ones, and planning is not to stand in the way of what fires at that moment.
const PLAN_AHEAD: Duration = Duration::from_millis(5500);

/// How long before they may be handed to agents.
const BEFORE_ARMED: Duration = Duration::from_millis(500);

/// How long ahead fires are planned that may be handed to agents so long before their instant.
pub(crate) fn plan_ahead(arm_ahead: Duration) -> Duration {
    PLAN_AHEAD.max(arm_ahead + BEFORE_ARMED)
}

/// How often a loop looks although nobody woke it.
pub const POLL: Duration = Duration::from_secs(1);

/// How often it looks where it has found nothing for a while. Hints get lost, and what a coordinator knew of alone dies with it: then this is
/// how late others find it.
pub const IDLE: Duration = Duration::from_millis(2500);

/// The pause between two looks: [`POLL`] where there was something to do, longer and longer, up to [`IDLE`], where there was not.
#[derive(Debug)]
pub(crate) struct Pace(Duration);

impl Default for Pace {
    fn default() -> Self {
        Self(POLL)
    }
}

impl Pace {
    /// The pause after a look that found something, or nothing.
    pub(crate) fn after(&mut self, found: bool) -> Duration {
        self.0 = if found { POLL } else { self.0.mul_f64(1.5).min(IDLE) };
        self.0
    }
}

/// What wakes the loops of one coordinator. Each permit is kept until its loop looks, so that no wake is lost between look and sleep.
#[derive(Debug, Default)]
pub struct Signals {
    pub plan: Notify,
    pub release: Notify,
    pub work: Notify,
    /// A place has become free: a reason to claim where something waits for one.
    pub room: Notify,
    pub cancel: Notify,
    /// The nearest instant at which something comes due, as the releaser knows it.
    pub due: watch::Sender<Option<DateTime<Utc>>>,
}

impl Signals {
    /// Wakes the loops that a hint concerns.
    pub(crate) fn heard(&self, hint: Wake) {
        match hint {
            Wake::Plan => self.plan.notify_one(),
            Wake::Work => {
                self.release.notify_one();
                self.work.notify_one();
            }
            Wake::Room => self.room.notify_one(),
            Wake::Cancel => self.cancel.notify_one(),
        }
    }
}

/// Sleeps until a signal, an instant, or the end; `false` at the end.
pub(crate) async fn rest(signal: &Notify, until: tokio::time::Instant, shutdown: &CancellationToken) -> bool {
    tokio::select! {
        () = shutdown.cancelled() => false,
        () = signal.notified() => true,
        () = tokio::time::sleep_until(until) => true,
    }
}

/// A pause after a failure, growing from 100 ms to 5 s, so that a database that is down is not hammered.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The pause after one more failure.
    pub(crate) fn next(&mut self) -> Duration {
        self.failures = (self.failures + 1).min(6);
        Duration::from_millis(50 << self.failures).min(Duration::from_secs(5))
    }
}

/// Passes the store's hints on to the loops, until the end.
pub async fn forward_hints(store: crate::store::DynStore, signals: Arc<Signals>, shutdown: CancellationToken) {
    use tokio::sync::broadcast::error::RecvError;
    let mut hints = store.hints();
    loop {
        let hint = tokio::select! {
            () = shutdown.cancelled() => return,
            hint = hints.recv() => hint,
        };
        match hint {
            Ok(hint) => signals.heard(hint),
            // Hints were missed: look everywhere.
            Err(RecvError::Lagged(_)) => {
                for hint in [Wake::Plan, Wake::Work, Wake::Cancel] {
                    signals.heard(hint);
                }
            }
            Err(RecvError::Closed) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fires_are_planned_before_they_may_be_handed_to_agents() {
        let ahead = |ms| plan_ahead(Duration::from_millis(ms)).as_millis();
        assert_eq!([ahead(0), ahead(1500), ahead(5000), ahead(60_000)], [5500, 5500, 5500, 60_500]);
    }
}
