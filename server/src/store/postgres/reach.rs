//! The connections: what they are set to, and which are not to be used again.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool};
use tokio::time::Instant;

use super::bound::is_clean;
use super::isolation::API;
use crate::store::StoreError;

/// What monotonic instants are counted from.
static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);

/// How long a connection may take to answer when nothing is asked of it.
const A_PING: Duration = Duration::from_secs(2);

/// How long after its last use a connection of callers is taken to be well: their BEGIN is repeated where it was not.
const FRESH: Duration = Duration::from_millis(500);

/// What the connections of a pool may cost.
pub(super) struct Bounds {
    pub connections: u32,
    /// How long a call waits for a connection.
    pub acquire: Duration,
    /// The longest a statement may run, and wait for a lock.
    pub statement: Duration,
    pub lock: Duration,
}

/// When connections were last found to lead to a server that cannot be written to: the primary of before a failover. Older ones are closed when
/// they are next taken.
#[derive(Clone, Default)]
pub(super) struct Evict(Arc<AtomicU64>);

impl Evict {
    /// Takes note of an error, if it speaks against the connections that there are.
    pub(super) fn note(&self, error: &StoreError) {
        if let StoreError::Unavailable(sqlx::Error::Database(db)) = error
            && db.code().as_deref() == Some("25006")
        {
            tracing::warn!("the database is read-only: its connections are given up, and made anew");
            self.all();
        }
    }

    /// Gives up all connections that there are.
    fn all(&self) {
        self.0.store(millis(Instant::now()), Ordering::Release);
    }

    /// Whether a connection of this age may still be used.
    pub(super) fn allows(&self, now: Instant, age: Duration) -> bool {
        let before = self.0.load(Ordering::Acquire);
        before == 0 || millis(now).saturating_sub(u64::try_from(age.as_millis()).unwrap_or(0)) > before
    }
}

fn millis(at: Instant) -> u64 {
    // From 1, for 0 is never.
    u64::try_from(at.saturating_duration_since(*BEGINNING).as_millis()).unwrap_or(u64::MAX).saturating_add(1)
}

/// A pool of connections to the primary, none made yet, all of which take a role. A standby is no place to write: until it is promoted, its
/// connections are refused.
pub(super) fn pool(
    connect: PgConnectOptions,
    path: Option<&str>,
    role: &'static str,
    bounds: &Bounds,
    evict: &Evict,
) -> PgPool {
    LazyLock::force(&BEGINNING);
    let is_of_callers = role == API;
    let (path, evict, released) = (path.map(ToOwned::to_owned), evict.clone(), evict.clone());
    let (statement, lock) = (bounds.statement, bounds.lock);
    PgPoolOptions::new()
        .max_connections(bounds.connections)
        .acquire_timeout(bounds.acquire)
        .after_connect(move |connection, _| {
            let path = path.clone();
            Box::pin(async move {
                if settle(connection, path.as_deref(), role, statement, lock).await? {
                    return Err(sqlx::Error::Protocol("this server is a standby".into()));
                }
                Ok(())
            })
        })
        // Tested below, within a time: a host that is gone leaves connections open that never answer.
        .test_before_acquire(false)
        .before_acquire(move |connection, meta| {
            let evict = evict.clone();
            Box::pin(async move {
                if !evict.allows(Instant::now(), meta.age) {
                    return Ok(false);
                }
                if is_of_callers && meta.idle_for < FRESH {
                    return Ok(true);
                }
                answers(connection, &evict).await
            })
        })
        .after_release(move |connection, _| {
            let evict = released.clone();
            Box::pin(async move {
                match is_of_callers {
                    true => in_time(is_clean(connection), &evict).await,
                    false => answers(connection, &evict).await,
                }
            })
        })
        .connect_lazy_with(connect)
}

/// Whether a connection answers, in time. Where it does not, the others of its time are no better.
pub(super) async fn answers(connection: &mut PgConnection, evict: &Evict) -> sqlx::Result<bool> {
    in_time(async { connection.ping().await.map(|()| true) }, evict).await
}

async fn in_time(answer: impl Future<Output = sqlx::Result<bool>>, evict: &Evict) -> sqlx::Result<bool> {
    match tokio::time::timeout(A_PING, answer).await {
        Ok(answer) => answer,
        Err(_) => {
            tracing::warn!("a connection to the database is dead; all are made anew");
            evict.all();
            Err(sqlx::Error::Protocol("the server does not answer".into()))
        }
    }
}

/// Settings of every connection: nothing may hold a lock, or wait for one, for long; and what is hot is in memory, where an index is no
/// dearer than a table. Takes a role. Answers with whether the server is a standby.
pub(super) async fn settle(
    connection: &mut PgConnection,
    path: Option<&str>,
    role: &str,
    statement: Duration,
    lock: Duration,
) -> sqlx::Result<bool> {
    let settings = "select set_config('statement_timeout', $2, false), set_config('lock_timeout', $3, false),
        set_config('idle_in_transaction_session_timeout', $2, false), set_config('jit', 'off', false),
        set_config('timezone', 'UTC', false),
        set_config('random_page_cost', '1.1', false),
        set_config('search_path', coalesce($1, current_setting('search_path')), false),
        set_config('role', $4, false)";
    let ms = |time: Duration| format!("{}ms", time.as_millis());
    sqlx::query(settings).bind(path).bind(ms(statement)).bind(ms(lock)).bind(role).execute(&mut *connection).await?;
    sqlx::query_scalar("select pg_is_in_recovery()").fetch_one(connection).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_from_before_a_read_only_answer_are_given_up() {
        let at = |seconds| *BEGINNING + Duration::from_secs(seconds);
        let evict = Evict::default();
        assert!(evict.allows(at(10), Duration::from_secs(5)));
        evict.0.store(millis(at(10)), Ordering::Release);
        assert!(!evict.allows(at(12), Duration::from_secs(5)));
        assert!(evict.allows(at(12), Duration::from_secs(1)));
    }
}
