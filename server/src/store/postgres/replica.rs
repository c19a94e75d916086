//! Reads from a replica: what people look at, and nothing that decides.
//!
//! A replica is used while it is known to be at most [`MOST_LAG`] behind. That is measured without its clock: it has to have replayed what the
//! primary had written at an instant of this process's monotonic clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

use super::PgStore;
use super::bound::{self, Mode, Tx};
use super::isolation::API;
use super::reach::settle;
use crate::store::{Result, StoreError};

/// How far behind a replica may be.
const MOST_LAG: Duration = Duration::from_secs(5);

/// How often that is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// How long a read may wait for a connection to it before the primary is asked.
const ACQUIRE: Duration = Duration::from_millis(500);

/// A replica, whether it is there or not.
pub(super) struct Replica {
    pool: PgPool,
    is_near: Arc<AtomicBool>,
    /// Ends the task when the store goes.
    _tasks: JoinSet<()>,
}

impl Replica {
    /// Begins to look for it.
    pub(super) fn start(url: &str, name: &str, path: Option<&str>, connections: u32, primary: PgPool) -> Result<Self> {
        let connect = url.parse::<sqlx::postgres::PgConnectOptions>()?.application_name(name);
        let path = path.map(ToOwned::to_owned);
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(ACQUIRE)
            .after_connect(move |connection, _| {
                let path = path.clone();
                Box::pin(async move {
                    settle(connection, path.as_deref(), API, Duration::from_secs(15), Duration::from_secs(5)).await?;
                    Ok(())
                })
            })
            .connect_lazy_with(connect);
        let is_near = Arc::<AtomicBool>::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(watch(primary, pool.clone(), is_near.clone()));
        Ok(Self { pool, is_near, _tasks: tasks })
    }

    pub(super) async fn close(&self) {
        self.pool.close().await;
    }
}

impl PgStore {
    /// What the replica says in a transaction bound to a tenant; `None` where there is none, or it is away or too far behind: the primary
    /// is to be asked.
    pub(super) async fn on_replica<T, F>(&self, tenant: Uuid, mode: Mode, read: impl FnOnce(Tx) -> F) -> Option<T>
    where
        F: Future<Output = Result<T>>,
    {
        let replica = self.inner.replica.as_ref()?;
        if !replica.is_near.load(Ordering::Acquire) {
            return None;
        }
        let asked = async {
            let tx = bound::begin(&replica.pool, mode, tenant).await?;
            read(tx).await
        };
        match asked.await {
            Ok(found) => Some(found),
            Err(error) => {
                // Away, or a read that was ended because it stood in the way of replaying.
                if matches!(error, StoreError::Unavailable(sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut)) {
                    replica.is_near.store(false, Ordering::Release);
                }
                tracing::debug!(%error, "the replica does not answer; the primary is asked");
                None
            }
        }
    }
}

/// Where the primary was at an instant.
struct Mark {
    at: Instant,
    position: String,
}

/// Keeps an eye on how far behind the replica is, until the end.
async fn watch(primary: PgPool, replica: PgPool, is_near: Arc<AtomicBool>) {
    let mut mark: Option<Mark> = None;
    // The latest instant of which the replica has everything.
    let mut reached: Option<Instant> = None;
    loop {
        if mark.is_none() {
            let at = Instant::now();
            let asked = sqlx::query_scalar("select pg_current_wal_lsn()::text").fetch_one(&primary).await;
            mark = asked.ok().map(|position| Mark { at, position });
        }
        if let Some(Mark { at, position }) = &mark
            && has_replayed(&replica, position).await.unwrap_or(false)
        {
            reached = Some(*at);
            mark = None;
        }
        let near = reached.is_some_and(|at| at.elapsed() <= MOST_LAG);
        if is_near.swap(near, Ordering::AcqRel) != near {
            tracing::info!(near, "reads of a replica");
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether a replica has come so far. One that has been promoted is a replica no more.
async fn has_replayed(replica: &PgPool, position: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar("select pg_is_in_recovery() and coalesce(pg_last_wal_replay_lsn() >= $1::text::pg_lsn, false)")
        .bind(position)
        .fetch_one(replica)
        .await
}
