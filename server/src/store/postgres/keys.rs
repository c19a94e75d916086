//! [`Keys`].

use async_trait::async_trait;
use sqlx::Row;

use super::{PgStore, rows};
use crate::store::{ApiKey, Keys, Result, text};

#[async_trait]
impl Keys for PgStore {
    async fn insert_key(&self, key: &ApiKey) -> Result<()> {
        sqlx::query(
            "insert into api_keys (id, tenant_id, name, prefix, hash, permissions, expires_at, created_at)
             values ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(key.id)
        .bind(key.tenant_id)
        .bind(text::plain(&key.name))
        .bind(text::plain(&key.prefix))
        .bind(&key.hash[..])
        .bind(&key.permissions)
        .bind(key.expires_at)
        .bind(key.created_at)
        .execute(self.pool())
        .await?;
        Ok(())
    }

    async fn key_by_hash(&self, hash: &[u8; 32]) -> Result<Option<ApiKey>> {
        let found = sqlx::query(
            "select id, tenant_id, name, prefix, hash, permissions, expires_at, created_at from api_keys
             where hash = $1 and revoked_at is null and (expires_at is null or expires_at > clock_timestamp())",
        )
        .bind(&hash[..])
        .fetch_optional(self.pool())
        .await?;
        let Some(row) = found else { return Ok(None) };
        Ok(Some(ApiKey {
            id: row.try_get("id")?,
            tenant_id: row.try_get("tenant_id")?,
            name: row.try_get("name")?,
            prefix: row.try_get("prefix")?,
            hash: rows::hash(&row, "hash")?,
            permissions: row.try_get("permissions")?,
            expires_at: row.try_get("expires_at")?,
            created_at: row.try_get("created_at")?,
        }))
    }
}
