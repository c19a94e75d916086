//! Tenants.

use async_trait::async_trait;
use chrono::Utc;
use sqlx::{Sqlite, Transaction};
use uuid::Uuid;

use super::audit::note;
use super::rows::{micros, to_json};
use super::{SqliteStore, Work};
use crate::audit::Deed;
use crate::error::Error;
use crate::store::rows::tenant;
use crate::store::text::plain;
use crate::store::{ChangeTenant, Page, Result, SetAside, StoreError, Tenants};
use crate::tenant::{Quotas, Tenant};

const TABLE: &str = "tenants";
const HOUR: i64 = 3_600_000_000;

#[async_trait]
impl Tenants for SqliteStore {
    async fn create_tenant(&self, tenant: &Tenant) -> Result<Tenant> {
        let notes = self.notes();
        let mut work = self.write().await?;
        if by_id(&mut work.tx, tenant.id).await?.is_some() {
            return Err(StoreError::Refused(Box::new(Error::tenant_exists(tenant.id))));
        }
        let now = Some(work.now);
        let made = Tenant { version: 1, created_at: now, updated_at: now, ..tenant.clone() };
        write(&mut work, &made).await?;
        note(&mut work, &notes.changed(0, || Deed::tenant_created(&made))).await?;
        work.commit().await?;
        Ok(made)
    }

    async fn tenant(&self, id: Uuid) -> Result<Option<Tenant>> {
        let row = sqlx::query("select * from tenants where id = ?").bind(id).fetch_optional(&self.readers).await?;
        row.as_ref().map(tenant).transpose()
    }

    async fn tenants(&self, page: &Page) -> Result<Vec<Tenant>> {
        let rows = sqlx::query("select * from tenants where ?1 is null or id < ?1 order by id desc limit ?2")
            .bind(page.after)
            .bind(page.limit.max(0))
            .fetch_all(&self.readers)
            .await?;
        rows.iter().map(tenant).collect()
    }

    async fn change_tenant(&self, id: Uuid, change: &ChangeTenant<'_>) -> Result<Tenant> {
        let notes = self.notes();
        let mut work = self.write().await?;
        let before = by_id(&mut work.tx, id).await?.ok_or(StoreError::NotFound)?;
        let after = change(&before, work.now).map_err(|reason| StoreError::Refused(Box::new(reason)))?;
        if after == before {
            return Ok(before);
        }
        let after = Tenant {
            id,
            version: before.version + 1,
            created_at: before.created_at,
            created_by: before.created_by,
            updated_at: Some(work.now),
            ..after
        };
        write(&mut work, &after).await?;
        if before.suspended_at != after.suspended_at {
            sqlx::query("update scheduled_jobs set tenant_suspended_at = ? where tenant_id = ?")
                .bind(after.suspended_at.map(micros))
                .bind(id)
                .execute(&mut *work.tx)
                .await?;
        }
        note(&mut work, &notes.changed(0, || Deed::tenant_changed(&before, &after))).await?;
        work.commit().await?;
        Ok(after)
    }

    async fn hour_of(&self, tenant: Uuid) -> Result<i64> {
        let count = "select executions from tenant_hours where tenant_id = ? and hour = ?";
        let hour = hour(self.clock());
        Ok(sqlx::query_scalar(count).bind(tenant).bind(hour).fetch_optional(&self.readers).await?.unwrap_or(0))
    }

    async fn set_aside(&self, tenant: Uuid, wanted: i64, default: i64) -> Result<SetAside> {
        let mut work = self.write().await?;
        let room = room(&mut work, tenant, default).await?;
        let granted = room.map_or(wanted, |room| room.min(wanted));
        if room.is_some() {
            count(&mut work, tenant, granted).await?;
        }
        let now = work.now;
        work.commit().await?;
        Ok(SetAside::of(granted, now, now))
    }
}

/// What a tenant may still begin in this hour; `None` where it has no quota. `default` is that of tenants without one of their own; 0 is none.
pub(super) async fn room(work: &mut Work, tenant: Uuid, default: i64) -> Result<Option<i64>> {
    let own = "select max_executions_per_hour from tenants where id = ?";
    let own: Option<Option<i64>> = sqlx::query_scalar(own).bind(tenant).fetch_optional(&mut *work.tx).await?;
    let most = own.flatten().unwrap_or(default);
    if most <= 0 {
        return Ok(None);
    }
    let used = "select executions from tenant_hours where tenant_id = ? and hour = ?";
    let used: Option<i64> =
        sqlx::query_scalar(used).bind(tenant).bind(hour(work.now)).fetch_optional(&mut *work.tx).await?;
    Ok(Some((most - used.unwrap_or(0)).max(0)))
}

/// Counts executions of a tenant in this hour.
pub(super) async fn count(work: &mut Work, tenant: Uuid, more: i64) -> Result<()> {
    sqlx::query(
        "insert into tenant_hours (tenant_id, hour, executions) values (?, ?, ?) \
         on conflict (tenant_id, hour) do update set executions = executions + excluded.executions",
    )
    .bind(tenant)
    .bind(hour(work.now))
    .bind(more)
    .execute(&mut *work.tx)
    .await?;
    Ok(())
}

/// The hour of the clock that an instant is in, as it is stored.
fn hour(at: chrono::DateTime<Utc>) -> i64 {
    micros(at).div_euclid(HOUR) * HOUR
}

/// Refuses what is made of a tenant that is suspended.
pub(super) async fn refuse_suspended(tx: &mut Transaction<'static, Sqlite>, tenant: Uuid) -> Result<()> {
    let suspended = "select suspend_reason from tenants where id = ? and suspended_at is not null";
    let suspended: Option<String> = sqlx::query_scalar(suspended).bind(tenant).fetch_optional(&mut **tx).await?;
    match suspended {
        Some(reason) => Err(StoreError::Refused(Box::new(Error::tenant_suspended(&reason)))),
        None => Ok(()),
    }
}

async fn by_id(tx: &mut Transaction<'static, Sqlite>, id: Uuid) -> Result<Option<Tenant>> {
    let row = sqlx::query("select * from tenants where id = ?").bind(id).fetch_optional(&mut **tx).await?;
    row.as_ref().map(tenant).transpose()
}

/// Writes a tenant, new or changed.
async fn write(work: &mut Work, tenant: &Tenant) -> Result<()> {
    let taken: Option<Uuid> = sqlx::query_scalar("select id from tenants where name = ? and id <> ?")
        .bind(&tenant.name)
        .bind(tenant.id)
        .fetch_optional(&mut *work.tx)
        .await?;
    if taken.is_some() {
        return Err(StoreError::Refused(Box::new(Error::tenant_name_taken(&tenant.name))));
    }
    let Quotas { max_jobs, max_executions_per_hour, max_concurrent, max_log_bytes, max_result_bytes } = tenant.quotas;
    sqlx::query(
        "insert into tenants (id, name, description, max_jobs, max_executions_per_hour, max_concurrent, max_log_bytes, \
         max_result_bytes, weight, settings, suspended_at, suspend_reason, version, created_at, created_by, updated_at) \
         values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) \
         on conflict (id) do update set name = excluded.name, description = excluded.description, max_jobs = excluded.max_jobs, \
         max_executions_per_hour = excluded.max_executions_per_hour, max_concurrent = excluded.max_concurrent, \
         max_log_bytes = excluded.max_log_bytes, max_result_bytes = excluded.max_result_bytes, weight = excluded.weight, \
         settings = excluded.settings, suspended_at = excluded.suspended_at, suspend_reason = excluded.suspend_reason, \
         version = excluded.version, updated_at = excluded.updated_at",
    )
    .bind(tenant.id)
    .bind(&tenant.name)
    .bind(plain(&tenant.description))
    .bind(max_jobs)
    .bind(max_executions_per_hour)
    .bind(max_concurrent)
    .bind(max_log_bytes)
    .bind(max_result_bytes)
    .bind(tenant.weight)
    .bind(to_json(TABLE, &tenant.settings)?)
    .bind(tenant.suspended_at.map(micros))
    .bind(plain(&tenant.suspend_reason))
    .bind(tenant.version)
    .bind(micros(tenant.created_at.unwrap_or(work.now)))
    .bind(tenant.created_by)
    .bind(micros(tenant.updated_at.unwrap_or(work.now)))
    .execute(&mut *work.tx)
    .await?;
    Ok(())
}
