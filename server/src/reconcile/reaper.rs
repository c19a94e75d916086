use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Backoff, POLL, Pace, Signals};
use crate::clock::DatabaseClock;
use crate::dispatch::Dispatch;
use crate::store::{DynStore, Reaped, StoreError, Wake};

/// How long past an attempt's deadline the agent is given to say so itself: its grace for SIGTERM, and some for the way.
const SLACK: Duration = Duration::from_secs(15);

/// A database that was away for less has kept no heartbeat from being written in time.
const OUTAGE: Duration = Duration::from_secs(2);

/// Where another coordinator has said so lately that it lives (they say so every five seconds), the database was there for it.
const QUIET: Duration = Duration::from_secs(6);

/// How much longer than a heartbeat's interval sessions are given after an outage.
const GRACE: Duration = Duration::from_secs(1);

/// Takes back what agents that are gone, or silent past a deadline, have held.
pub struct Reaper {
    pub store: DynStore,
    pub clock: Arc<DatabaseClock>,
    pub signals: Arc<Signals>,
    pub dispatch: Arc<Dispatch>,
    /// This coordinator.
    pub coordinator: Uuid,
    /// How long a session lives.
    pub ttl: Duration,
}

impl Reaper {
    /// Reaps until the end.
    pub async fn run(self, shutdown: CancellationToken) {
        let (mut backoff, mut pace) = (Backoff::default(), Pace::default());
        // Since when the database has been away; at the start it may have been, for all that is known here.
        let mut away = Instant::now().checked_sub(OUTAGE);
        loop {
            let next = match self.round(away).await {
                Ok(reaped) => {
                    backoff.reset();
                    away = None;
                    let pause = pace.after(!reaped.sessions.is_empty() || !reaped.executions.is_empty());
                    self.after(&reaped, pause.min(self.ttl)).await
                }
                Err(error) => {
                    away.get_or_insert_with(Instant::now);
                    tracing::warn!(%error, source = ?std::error::Error::source(&error), "reaping failed; trying again");
                    Instant::now() + backoff.next()
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep_until(next) => {}
            }
        }
    }

    async fn round(&self, away: Option<Instant>) -> Result<Reaped, StoreError> {
        if away.is_some_and(|since| since.elapsed() >= OUTAGE) {
            // No heartbeat could be written meanwhile: agents are given the time to send the next one. One that has given its session up
            // by its own clock has ended its work, and may still resume it and deliver what had ended before.
            let spared = self.store.spare_sessions(self.coordinator, QUIET, self.ttl / 3 + GRACE).await?;
            if spared > 0 {
                tracing::info!(sessions = spared, "the database was away; sessions are given time to be renewed");
            }
        }
        self.store.reap(SLACK, 500).await
    }

    async fn after(&self, reaped: &Reaped, pause: Duration) -> Instant {
        for session in &reaped.sessions {
            tracing::warn!(%session, "an agent's session has expired");
            self.dispatch.expel(*session);
        }
        for (held, execution) in &reaped.executions {
            tracing::warn!(execution = %held.execution_id, epoch = held.epoch, state = execution.state.name(), "a lease was taken back");
            self.dispatch.revoke(*held);
            self.dispatch.observe(execution);
            self.store.changed(&[execution.id]);
        }
        for execution in &reaped.unstarted {
            tracing::warn!(execution = %execution.id, job = %execution.job_name, "not begun by its start deadline; it does not run any more");
            self.dispatch.observe(execution);
            self.store.changed(&[execution.id]);
        }
        if !reaped.executions.is_empty() || !reaped.unstarted.is_empty() {
            self.signals.release.notify_one();
            self.signals.work.notify_one();
            let _ = self.store.wake(Wake::Work).await;
        }
        let now = Instant::now();
        reaped.next.map_or(now + pause, |at| self.clock.local(at).clamp(now + POLL / 20, now + pause))
    }
}
