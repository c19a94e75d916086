//! Connections for what is one statement and has no time to lose: kept at hand, so that none is looked for or tested in the way of a call.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::{PgConnection, PgPool, Postgres};
use tokio::time::Instant;

use super::reach::{Evict, answers};
use crate::store::Result;

/// One that has been idle for longer is tested first: its host may be gone.
const FRESH: Duration = Duration::from_millis(500);
/// How long one is used.
const LIFE: Duration = Duration::from_secs(600);

/// Connections at hand. They come from a pool of their own, and never go back into it.
pub(super) struct Hot {
    pool: PgPool,
    evict: Evict,
    idle: Mutex<Vec<Taken>>,
}

/// A connection that is in use. Dropped, it is closed: whoever goes away in the middle of a statement leaves nobody its answer.
pub(super) struct Taken {
    connection: PoolConnection<Postgres>,
    made: Instant,
    used: Instant,
}

impl Hot {
    pub(super) fn new(pool: PgPool, evict: Evict) -> Self {
        Self { pool, evict, idle: Mutex::default() }
    }

    pub(super) async fn take(&self) -> Result<Taken> {
        while let Some(mut taken) = self.next_idle() {
            let now = Instant::now();
            let is_usable = now - taken.made < LIFE && self.evict.allows(now, now - taken.made);
            if is_usable
                && (now - taken.used < FRESH || matches!(answers(&mut taken.connection, &self.evict).await, Ok(true)))
            {
                return Ok(taken);
            }
        }
        let mut connection = self.pool.acquire().await?;
        connection.close_on_drop();
        // What is prepared here is planned once. With the lengths of its arrays in view PostgreSQL would think each call worth a plan of its
        // own, which takes longer than the call.
        sqlx::query("select set_config('plan_cache_mode', 'force_generic_plan', false)")
            .execute(&mut *connection)
            .await?;
        let now = Instant::now();
        Ok(Taken { connection, made: now, used: now })
    }

    /// Keeps a connection for the next call.
    pub(super) fn keep(&self, mut taken: Taken) {
        taken.used = Instant::now();
        if !self.pool.is_closed() {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(taken);
        }
    }

    pub(super) async fn close(&self) {
        let idle = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        drop(idle);
        self.pool.close().await;
    }

    fn next_idle(&self) -> Option<Taken> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}

impl Taken {
    pub(super) fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}
