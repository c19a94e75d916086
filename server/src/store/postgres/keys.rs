//! [`Keys`].

use std::time::Duration;

use async_trait::async_trait;
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::audit::note;
use super::commit::commit;
use super::{PgStore, micros, rows};
use crate::audit::Deed;
use crate::store::{ApiKey, KeyHash, Keys, KeysOf, Page, PepperId, Result, StoreError, text};

const TABLE: &str = "api_keys";

/// What [`key`] reads.
macro_rules! columns {
    () => {
        "id, tenant_id, name, prefix, hash, pepper_id, permissions, created_by, created_at, expires_at, last_used_at, revoked_at"
    };
}

#[async_trait]
impl Keys for PgStore {
    async fn insert_key(&self, key: &ApiKey) -> Result<()> {
        let notes = self.notes();
        let mut tx = self.begin_identity().await?;
        sqlx::query(
            "insert into api_keys (id, tenant_id, name, prefix, hash, pepper_id, permissions, created_by, created_at, expires_at)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        )
        .bind(key.id)
        .bind(key.tenant_id)
        .bind(text::plain(&key.name))
        .bind(text::plain(&key.prefix))
        .bind(&key.hash.hash[..])
        .bind(key.hash.pepper.as_ref().map(|id| &id[..]))
        .bind(&key.permissions)
        .bind(key.created_by)
        .bind(key.created_at)
        .bind(key.expires_at)
        .execute(&mut *tx)
        .await?;
        note(&mut tx, &notes.changed(0, || Deed::key_created(key))).await?;
        commit(tx).await
    }

    async fn key_by_hash(&self, hashes: &[KeyHash]) -> Result<Option<ApiKey>> {
        let wanted: Vec<&[u8]> = hashes.iter().map(|hash| &hash.hash[..]).collect();
        let found = sqlx::query(concat!(
            "select ",
            columns!(),
            " from api_keys
             where hash = any($1) and revoked_at is null and (expires_at is null or expires_at > clock_timestamp())"
        ))
        .bind(wanted)
        .fetch_all(self.identity())
        .await?;
        let found: Vec<ApiKey> = found.iter().map(key).collect::<Result<_>>()?;
        Ok(found.into_iter().find(|key| hashes.contains(&key.hash)))
    }

    async fn keys(&self, of: KeysOf, page: &Page) -> Result<Vec<ApiKey>> {
        let found = sqlx::query(concat!(
            "select ",
            columns!(),
            " from api_keys
             where ($1::uuid is null or tenant_id = $1) and ($2::uuid is null or id < $2) order by id desc limit $3"
        ))
        .bind(tenant(of))
        .bind(page.after)
        .bind(page.limit.max(0))
        .fetch_all(self.identity())
        .await?;
        found.iter().map(key).collect()
    }

    async fn revoke_key(&self, of: KeysOf, id: Uuid) -> Result<ApiKey> {
        let notes = self.notes();
        let mut tx = self.begin_identity().await?;
        let found = sqlx::query(concat!(
            "with was as (select id as was_id, revoked_at is null as open from api_keys where id = $1 for update)
             update api_keys set revoked_at = coalesce(revoked_at, clock_timestamp()) from was
             where id = was_id and ($2::uuid is null or tenant_id = $2) returning open, ",
            columns!()
        ))
        .bind(id)
        .bind(tenant(of))
        .fetch_optional(&mut *tx)
        .await?;
        let row = found.ok_or(StoreError::NotFound)?;
        let revoked = key(&row)?;
        if row.try_get("open")? {
            note(&mut tx, &notes.changed(0, || Deed::key_revoked(&revoked))).await?;
        }
        commit(tx).await?;
        Ok(revoked)
    }

    async fn keys_used(&self, uses: &[(Uuid, Duration)]) -> Result<()> {
        let (ids, ago): (Vec<Uuid>, Vec<i64>) = uses.iter().map(|(id, ago)| (*id, micros(*ago))).unzip();
        sqlx::query(
            "update api_keys k
             set last_used_at = greatest(k.last_used_at, clock_timestamp() - u.ago * interval '1 microsecond')
             from unnest($1::uuid[], $2::bigint[]) as u (id, ago) where k.id = u.id",
        )
        .bind(ids)
        .bind(ago)
        .execute(self.identity())
        .await?;
        Ok(())
    }
}

fn tenant(of: KeysOf) -> Option<Uuid> {
    match of {
        KeysOf::Tenant(tenant) => Some(tenant),
        KeysOf::Everybody => None,
    }
}

fn key(row: &PgRow) -> Result<ApiKey> {
    let pepper = row.try_get::<Option<&[u8]>, _>("pepper_id")?;
    let pepper = pepper.map(PepperId::try_from).transpose();
    Ok(ApiKey {
        id: row.try_get("id")?,
        tenant_id: row.try_get("tenant_id")?,
        name: row.try_get("name")?,
        prefix: row.try_get("prefix")?,
        hash: KeyHash {
            pepper: pepper.map_err(|_| rows::corrupt(TABLE, "pepper_id", "of another length"))?,
            hash: rows::hash(row, "hash")?,
        },
        permissions: row.try_get("permissions")?,
        created_by: row.try_get("created_by")?,
        created_at: row.try_get("created_at")?,
        expires_at: row.try_get("expires_at")?,
        last_used_at: row.try_get("last_used_at")?,
        revoked_at: row.try_get("revoked_at")?,
    })
}
