//! What a bare commit takes meanwhile: by it, a slower disk is told from a slower product.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::PgPool;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::task::AbortOnDropHandle;

use super::error::{Result, failed};
use super::samples::Samples;

/// Time between two of them.
const PAUSE: Duration = Duration::from_millis(100);

/// Commits of one row each, one after the other, until it is dropped.
pub(super) struct Commits {
    took: Arc<Mutex<Vec<Duration>>>,
    task: AbortOnDropHandle<sqlx::Result<()>>,
}

impl Commits {
    /// Begins, with a table of its own.
    ///
    /// # Errors
    /// Where the table cannot be made.
    pub(super) async fn start(pool: &PgPool) -> Result<Self> {
        sqlx::query("create table bench_commits (at timestamptz not null)").execute(pool).await?;
        let took = Arc::default();
        let task = AbortOnDropHandle::new(tokio::spawn(steady(pool.clone(), Arc::clone(&took))));
        Ok(Self { took, task })
    }

    /// How long those since the last call of this took.
    ///
    /// # Errors
    /// Where one has failed.
    pub(super) async fn take(&mut self) -> Result<Samples> {
        if self.task.is_finished() {
            (&mut self.task).await.map_err(|error| failed(error.to_string()))??;
        }
        let took = std::mem::take(&mut *self.took.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Samples::of_times(took))
    }
}

async fn steady(pool: PgPool, took: Arc<Mutex<Vec<Duration>>>) -> sqlx::Result<()> {
    let mut connection = pool.acquire().await?;
    let mut ticks = interval(PAUSE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let began = Instant::now();
        sqlx::query("insert into bench_commits values (now())").execute(&mut *connection).await?;
        took.lock().unwrap_or_else(PoisonError::into_inner).push(began.elapsed());
    }
}
