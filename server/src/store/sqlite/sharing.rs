//! [`Sharing`]: locks in `scheduler_locks`, and the generation of caches.

use std::time::Duration;

use async_trait::async_trait;

use super::SqliteStore;
use super::rows::{after, micros};
use crate::store::{Result, Sharing};

#[async_trait]
impl Sharing for SqliteStore {
    async fn lock(&self, key: &str, holder: &str, ttl: Duration) -> Result<bool> {
        let mut work = self.write().await?;
        let taken = sqlx::query(
            "insert into scheduler_locks (lock_key, locked_by, locked_at, expires_at, metadata)
             values (?1, ?2, ?3, ?4, json_object('ttlMs', ?5))
             on conflict (lock_key) do update set locked_by = excluded.locked_by, locked_at = excluded.locked_at,
                expires_at = excluded.expires_at, metadata = excluded.metadata
             where scheduler_locks.expires_at <= ?3 or scheduler_locks.locked_by = excluded.locked_by",
        )
        .bind(key)
        .bind(holder)
        .bind(micros(work.now))
        .bind(micros(after(work.now, ttl)))
        .bind(i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX))
        .execute(&mut *work.tx)
        .await?;
        work.commit().await?;
        Ok(taken.rows_affected() == 1)
    }

    async fn extend_lock(&self, key: &str, holder: &str, ttl: Duration) -> Result<bool> {
        let mut work = self.write().await?;
        let extended = sqlx::query(
            "update scheduler_locks set expires_at = ?3 where lock_key = ?1 and locked_by = ?2 and expires_at > ?4",
        )
        .bind(key)
        .bind(holder)
        .bind(micros(after(work.now, ttl)))
        .bind(micros(work.now))
        .execute(&mut *work.tx)
        .await?;
        work.commit().await?;
        Ok(extended.rows_affected() == 1)
    }

    async fn unlock(&self, key: &str, holder: &str) -> Result<bool> {
        let mut work = self.write().await?;
        let given_back = sqlx::query("delete from scheduler_locks where lock_key = ? and locked_by = ?")
            .bind(key)
            .bind(holder)
            .execute(&mut *work.tx)
            .await?;
        work.commit().await?;
        Ok(given_back.rows_affected() == 1)
    }

    async fn cache_generation(&self) -> Result<i64> {
        Ok(sqlx::query_scalar("select generation from cache_generation").fetch_one(&self.readers).await?)
    }

    async fn next_cache_generation(&self) -> Result<i64> {
        let mut work = self.write().await?;
        let next = "update cache_generation set generation = generation + 1 returning generation";
        let generation = sqlx::query_scalar(next).fetch_one(&mut *work.tx).await?;
        work.commit().await?;
        Ok(generation)
    }
}
