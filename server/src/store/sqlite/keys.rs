//! API keys.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::SqliteStore;
use super::audit::note;
use super::rows::{before, corrupt, instant, json, maybe_instant, micros, to_json};
use crate::audit::Deed;
use crate::store::text::plain;
use crate::store::{ApiKey, KeyHash, Keys, KeysOf, Page, PepperId, Result, StoreError};

const TABLE: &str = "api_keys";

#[async_trait]
impl Keys for SqliteStore {
    async fn insert_key(&self, key: &ApiKey) -> Result<()> {
        let notes = self.notes();
        let mut work = self.write().await?;
        sqlx::query(
            "insert into api_keys (id, tenant_id, name, prefix, hash, pepper_id, permissions, created_by, created_at, expires_at) \
             values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(key.id)
        .bind(key.tenant_id)
        .bind(plain(&key.name))
        .bind(plain(&key.prefix))
        .bind(key.hash.hash.as_slice())
        .bind(key.hash.pepper.as_ref().map(|id| id.as_slice()))
        .bind(to_json(TABLE, &key.permissions)?)
        .bind(key.created_by)
        .bind(micros(key.created_at))
        .bind(key.expires_at.map(micros))
        .execute(&mut *work.tx)
        .await?;
        note(&mut work, &notes.changed(0, || Deed::key_created(key))).await?;
        work.commit().await
    }

    async fn key_by_hash(&self, hashes: &[KeyHash]) -> Result<Option<ApiKey>> {
        for hash in hashes {
            let row = sqlx::query(
                "select * from api_keys where hash = ?1 and pepper_id is ?2 and revoked_at is null \
                 and (expires_at is null or expires_at > ?3)",
            )
            .bind(hash.hash.as_slice())
            .bind(hash.pepper.as_ref().map(|id| id.as_slice()))
            .bind(micros(self.clock()))
            .fetch_optional(&self.readers)
            .await?;
            if let Some(row) = row {
                return key(&row).map(Some);
            }
        }
        Ok(None)
    }

    async fn keys(&self, of: KeysOf, page: &Page) -> Result<Vec<ApiKey>> {
        let found = sqlx::query(
            "select * from api_keys where (?1 is null or tenant_id = ?1) and (?2 is null or id < ?2) order by id desc limit ?3",
        )
        .bind(tenant(of))
        .bind(page.after)
        .bind(page.limit.max(0))
        .fetch_all(&self.readers)
        .await?;
        found.iter().map(key).collect()
    }

    async fn revoke_key(&self, of: KeysOf, id: Uuid) -> Result<ApiKey> {
        let notes = self.notes();
        let mut work = self.write().await?;
        let was: Option<bool> = sqlx::query_scalar("select revoked_at is null from api_keys where id = ?")
            .bind(id)
            .fetch_optional(&mut *work.tx)
            .await?;
        let row = sqlx::query(
            "update api_keys set revoked_at = coalesce(revoked_at, ?1) where id = ?2 and (?3 is null or tenant_id = ?3) \
             returning *",
        )
        .bind(micros(work.now))
        .bind(id)
        .bind(tenant(of))
        .fetch_optional(&mut *work.tx)
        .await?;
        let revoked = row.as_ref().map(key).ok_or(StoreError::NotFound)??;
        if was == Some(true) {
            note(&mut work, &notes.changed(0, || Deed::key_revoked(&revoked))).await?;
        }
        work.commit().await?;
        Ok(revoked)
    }

    async fn keys_used(&self, uses: &[(Uuid, Duration)]) -> Result<()> {
        let mut work = self.write().await?;
        for (id, ago) in uses {
            sqlx::query("update api_keys set last_used_at = max(coalesce(last_used_at, 0), ?1) where id = ?2")
                .bind(micros(before(work.now, *ago)))
                .bind(id)
                .execute(&mut *work.tx)
                .await?;
        }
        work.commit().await
    }
}

fn tenant(of: KeysOf) -> Option<Uuid> {
    match of {
        KeysOf::Tenant(tenant) => Some(tenant),
        KeysOf::Everybody => None,
    }
}

fn key(row: &SqliteRow) -> Result<ApiKey> {
    let pepper = row.try_get::<Option<&[u8]>, _>("pepper_id")?;
    let pepper = pepper.map(PepperId::try_from).transpose();
    let hash = <[u8; 32]>::try_from(row.try_get::<&[u8], _>("hash")?);
    Ok(ApiKey {
        id: row.try_get("id")?,
        tenant_id: row.try_get("tenant_id")?,
        name: row.try_get("name")?,
        prefix: row.try_get("prefix")?,
        hash: KeyHash {
            pepper: pepper.map_err(|_| corrupt(TABLE, "pepper_id has another length"))?,
            hash: hash.map_err(|_| corrupt(TABLE, "hash has another length"))?,
        },
        permissions: json(row, TABLE, "permissions")?,
        created_by: row.try_get("created_by")?,
        created_at: instant(row, TABLE, "created_at")?,
        expires_at: maybe_instant(row, TABLE, "expires_at")?,
        last_used_at: maybe_instant(row, TABLE, "last_used_at")?,
        revoked_at: maybe_instant(row, TABLE, "revoked_at")?,
    })
}
