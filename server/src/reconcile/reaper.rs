use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Backoff, POLL, Signals};
use crate::clock::DatabaseClock;
use crate::dispatch::Dispatch;
use crate::store::{DynStore, Reaped, Wake};

/// How long past an attempt's deadline the agent is given to say so itself: its grace for SIGTERM, and some for the way.
const SLACK: Duration = Duration::from_secs(15);

/// Takes back what agents that are gone, or silent past a deadline, have held.
pub struct Reaper {
    pub store: DynStore,
    pub clock: Arc<DatabaseClock>,
    pub signals: Arc<Signals>,
    pub dispatch: Arc<Dispatch>,
}

impl Reaper {
    /// Reaps until the end.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut backoff = Backoff::default();
        loop {
            let next = match self.store.reap(SLACK, 500).await {
                Ok(reaped) => {
                    backoff.reset();
                    self.after(&reaped).await
                }
                Err(error) => {
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

    async fn after(&self, reaped: &Reaped) -> Instant {
        for session in &reaped.sessions {
            tracing::warn!(%session, "an agent's session has expired");
            self.dispatch.expel(*session);
        }
        for (held, execution) in &reaped.executions {
            tracing::warn!(execution = %held.execution_id, epoch = held.epoch, state = execution.state.name(), "a lease was taken back");
            self.dispatch.revoke(*held);
            self.dispatch.observe(execution);
            let _ = self.store.wake(Wake::Execution(execution.id)).await;
        }
        for execution in &reaped.unstarted {
            tracing::warn!(execution = %execution.id, job = %execution.job_name, "not begun by its start deadline; it does not run any more");
            self.dispatch.observe(execution);
            let _ = self.store.wake(Wake::Execution(execution.id)).await;
        }
        if !reaped.executions.is_empty() || !reaped.unstarted.is_empty() {
            self.signals.release.notify_one();
            self.signals.work.notify_one();
            let _ = self.store.wake(Wake::Work).await;
        }
        let now = Instant::now();
        reaped.next.map_or(now + POLL, |at| self.clock.local(at).clamp(now + POLL / 20, now + POLL))
    }
}
