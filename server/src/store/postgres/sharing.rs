//! [`Sharing`]: locks in `scheduler_locks`, by the database's clock, and the generation of caches.

use std::time::Duration;

use async_trait::async_trait;

use super::{PgStore, micros};
use crate::store::{Result, Sharing};

/// A lock that a crash of the database loses would have been lost with its holder's connection anyway: nobody waits for the disk. The setting
/// is of this statement's own transaction.
macro_rules! unsynced {
    ($statement:literal) => {
        concat!("with fast as (select set_config('synchronous_commit', 'off', true)) ", $statement)
    };
}

#[async_trait]
impl Sharing for PgStore {
    async fn lock(&self, key: &str, holder: &str, ttl: Duration) -> Result<bool> {
        let taken = sqlx::query(unsynced!(
            "insert into scheduler_locks as l (lock_key, locked_by, locked_at, expires_at, metadata)
             select $1, $2, clock_timestamp(), clock_timestamp() + $3 * interval '1 microsecond',
                jsonb_build_object('ttlMs', $3 / 1000)
             from fast
             on conflict (lock_key) do update set locked_by = excluded.locked_by, locked_at = excluded.locked_at,
                expires_at = excluded.expires_at, metadata = excluded.metadata
             where l.expires_at <= clock_timestamp() or l.locked_by = excluded.locked_by"
        ))
        .bind(key)
        .bind(holder)
        .bind(micros(ttl))
        .execute(self.pool())
        .await?;
        Ok(taken.rows_affected() == 1)
    }

    async fn extend_lock(&self, key: &str, holder: &str, ttl: Duration) -> Result<bool> {
        let extended = sqlx::query(unsynced!(
            "update scheduler_locks set expires_at = clock_timestamp() + $3 * interval '1 microsecond'
             from fast where lock_key = $1 and locked_by = $2 and expires_at > clock_timestamp()"
        ))
        .bind(key)
        .bind(holder)
        .bind(micros(ttl))
        .execute(self.pool())
        .await?;
        Ok(extended.rows_affected() == 1)
    }

    async fn unlock(&self, key: &str, holder: &str) -> Result<bool> {
        let given_back =
            sqlx::query(unsynced!("delete from scheduler_locks using fast where lock_key = $1 and locked_by = $2"))
                .bind(key)
                .bind(holder)
                .execute(self.pool())
                .await?;
        Ok(given_back.rows_affected() == 1)
    }

    async fn cache_generation(&self) -> Result<i64> {
        Ok(sqlx::query_scalar("select generation from cache_generation").fetch_one(self.pool()).await?)
    }

    async fn next_cache_generation(&self) -> Result<i64> {
        let next = "update cache_generation set generation = generation + 1 returning generation";
        Ok(sqlx::query_scalar(next).fetch_one(self.pool()).await?)
    }
}
