//! API keys.

use async_trait::async_trait;
use sqlx::Row;

use super::SqliteStore;
use super::rows::{instant, json, maybe_instant, micros, to_json};
use crate::store::text::plain;
use crate::store::{ApiKey, Keys, Result};

const TABLE: &str = "api_keys";

#[async_trait]
impl Keys for SqliteStore {
    async fn insert_key(&self, key: &ApiKey) -> Result<()> {
        let mut work = self.write().await?;
        sqlx::query(
            "insert into api_keys (id, tenant_id, name, prefix, hash, permissions, expires_at, created_at) \
             values (?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(key.id)
        .bind(key.tenant_id)
        .bind(plain(&key.name))
        .bind(plain(&key.prefix))
        .bind(key.hash.as_slice())
        .bind(to_json(TABLE, &key.permissions)?)
        .bind(key.expires_at.map(micros))
        .bind(micros(key.created_at))
        .execute(&mut *work.tx)
        .await?;
        work.commit().await
    }

    async fn key_by_hash(&self, hash: &[u8; 32]) -> Result<Option<ApiKey>> {
        let row = sqlx::query(
            "select id, tenant_id, name, prefix, permissions, expires_at, created_at from api_keys \
             where hash = ? and revoked_at is null and (expires_at is null or expires_at > ?)",
        )
        .bind(hash.as_slice())
        .bind(micros(self.clock()))
        .fetch_optional(&self.readers)
        .await?;
        row.map(|row| {
            Ok(ApiKey {
                id: row.try_get("id")?,
                tenant_id: row.try_get("tenant_id")?,
                name: row.try_get("name")?,
                prefix: row.try_get("prefix")?,
                hash: *hash,
                permissions: json(&row, TABLE, "permissions")?,
                expires_at: maybe_instant(&row, TABLE, "expires_at")?,
                created_at: instant(&row, TABLE, "created_at")?,
            })
        })
        .transpose()
    }
}
