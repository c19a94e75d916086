use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Backoff, Pace, Ramp, Signals, rest};
use crate::clock::DatabaseClock;
use crate::firing;
use crate::store::{DynStore, Places, Releases, StoreError, Wake};
use crate::telemetry::Metrics;

/// Executions of one round.
const A_ROUND: usize = 250;

/// The least pause after a round that could do nothing: others are at the rows that are due.
const PAUSE: Duration = Duration::from_millis(1);

/// Turns executions whose instant has come into pending ones, or into omissions, at that instant.
pub struct Releaser {
    pub store: DynStore,
    pub clock: Arc<DatabaseClock>,
    pub signals: Arc<Signals>,
    pub metrics: Metrics,
    /// Executions that a tenant may begin in an hour, where it has no quota of its own; 0 is no limit.
    pub hourly: i64,
}

impl Releaser {
    /// Releases until the end.
    pub async fn run(self, shutdown: CancellationToken) {
        let (mut backoff, mut pace, mut ramp) = (Backoff::default(), Pace::default(), Ramp::new(A_ROUND));
        loop {
            let began = Instant::now();
            let next = match self.round(ramp.places()).await {
                Ok(done) => {
                    backoff.reset();
                    let ramp = if done.late > 0 { ramp.after(began.elapsed()) } else { Duration::ZERO };
                    self.after(&done, &mut pace, ramp).await
                }
                Err(error) => {
                    tracing::warn!(%error, source = ?std::error::Error::source(&error), "releasing failed; trying again");
                    Instant::now() + backoff.next()
                }
            };
            if !rest(&self.signals.release, next, &shutdown).await {
                return;
            }
        }
    }

    async fn round(&self, places: Places) -> Result<Releases, StoreError> {
        let asked = Instant::now();
        let done = self.store.release_within(places, self.hourly, &firing::judge).await?;
        self.clock.observe(asked, done.now);
        Ok(done)
    }

    /// Wakes who has to do with what was released, and says when to look again: where something was late after `ramp`, unless as much was on
    /// time as a round takes.
    async fn after(&self, done: &Releases, pace: &mut Pace, ramp: Duration) -> Instant {
        if done.released > 0 {
            self.signals.work.notify_one();
            self.metrics.fire_lag(done.worst_lag);
            let _ = self.store.wake(Wake::Work).await;
        }
        if done.omitted > 0 {
            self.metrics.omitted("overlap", done.omitted as u64);
            // A job whose outstanding fires used up its maximum may plan another one now.
            self.signals.plan.notify_one();
        }
        if !done.cancelled.is_empty() {
            let _ = self.store.wake(Wake::Cancel).await;
        }
        // Also where it is the same as before: what was given away ahead may have come back meanwhile.
        self.signals.due.send_replace(done.next_due);
        let now = Instant::now();
        let on_time = (done.released + done.omitted).saturating_sub(done.late);
        if done.late > 0 && on_time < A_ROUND / 2 {
            return now + ramp;
        }
        if done.released + done.omitted >= A_ROUND {
            return now;
        }
        let idle = done.released + done.omitted == 0;
        let poll = now + pace.after(!idle);
        let least = if idle { now + PAUSE } else { now };
        done.next_due.map_or(poll, |at| self.clock.local(at).clamp(least, poll))
    }
}
