//! [`Tenants`].

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::audit::note;
use super::commit::commit;
use super::{PgStore, retried, violated};
use crate::audit::Deed;
use crate::error::Error;
use crate::store::rows::tenant;
use crate::store::{ChangeTenant, Notes, Page, Result, SetAside, StoreError, Tenants, text};
use crate::tenant::{Quotas, Tenant};

/// What [`tenant`] reads.
macro_rules! columns {
    () => {
        "t.id, t.name, t.description, t.max_jobs, t.max_executions_per_hour, t.max_concurrent, t.max_log_bytes, t.max_result_bytes,
         t.weight, t.settings, t.suspended_at, t.suspend_reason, t.version, t.created_at, t.created_by, t.updated_at"
    };
}

#[async_trait]
impl Tenants for PgStore {
    async fn create_tenant(&self, tenant: &Tenant) -> Result<Tenant> {
        let (mut said, notes) = (None, self.notes());
        retried!(self, self.try_create_tenant(tenant, &mut said, &notes))
    }

    async fn tenant(&self, id: Uuid) -> Result<Option<Tenant>> {
        let found = sqlx::query(concat!("select ", columns!(), " from tenants t where t.id = $1"))
            .bind(id)
            .fetch_optional(self.identity())
            .await?;
        found.as_ref().map(tenant).transpose()
    }

    async fn tenants(&self, page: &Page) -> Result<Vec<Tenant>> {
        let found = sqlx::query(concat!(
            "select ",
            columns!(),
            " from tenants t where $1::uuid is null or t.id < $1 order by t.id desc limit $2"
        ))
        .bind(page.after)
        .bind(page.limit.max(0))
        .fetch_all(self.identity())
        .await?;
        found.iter().map(tenant).collect()
    }

    async fn change_tenant(&self, id: Uuid, change: &ChangeTenant<'_>) -> Result<Tenant> {
        let (mut said, notes) = (None, self.notes());
        retried!(self, self.try_change_tenant(id, change, &mut said, &notes))
    }

    async fn hour_of(&self, tenant: Uuid) -> Result<i64> {
        let count = "select executions from tenant_hours where tenant_id = $1 and hour = date_trunc('hour', clock_timestamp(), 'UTC')";
        let mut tx = self.read_for(tenant).await?;
        Ok(sqlx::query_scalar(count).bind(tenant).fetch_optional(&mut *tx).await?.unwrap_or(0))
    }

    async fn set_aside(&self, tenant: Uuid, wanted: i64, default: i64) -> Result<SetAside> {
        // One whose outcome is unknown may count twice: what it set aside is not used then.
        retried!(self, self.try_set_aside(tenant, wanted, default))
    }
}

impl PgStore {
    /// `said` as in [`PgStore::try_change_tenant`].
    async fn try_create_tenant(&self, new: &Tenant, said: &mut Option<Tenant>, notes: &Notes) -> Result<Tenant> {
        let mut tx = self.begin_identity().await?;
        let there = locked(&mut tx, new.id).await?;
        if let Some(there) = there.filter(|there| said.as_ref() == Some(there)) {
            return Ok(there);
        }
        let now = super::clock(&mut tx).await?;
        let made = Tenant { version: 1, created_at: Some(now), updated_at: Some(now), ..new.clone() };
        let insert = sqlx::query(
            "insert into tenants (id, name, description, max_jobs, max_executions_per_hour, max_concurrent, max_log_bytes,
                max_result_bytes, weight, settings, suspended_at, suspend_reason, version, created_at, created_by, updated_at)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $14) on conflict (id) do nothing",
        );
        let inserted = written(insert, &made)?.bind(made.version).bind(now).bind(made.created_by).execute(&mut *tx);
        let inserted = inserted.await.map_err(|error| name_taken(error, &made.name))?;
        if inserted.rows_affected() == 0 {
            return Err(StoreError::Refused(Box::new(Error::tenant_exists(made.id))));
        }
        note(&mut tx, &notes.changed(0, || Deed::tenant_created(&made))).await?;
        *said = Some(made.clone());
        commit(tx).await?;
        Ok(made)
    }

    /// `said` is what a try before this one wrote, whose outcome is unknown, and then what this one writes.
    async fn try_change_tenant(
        &self,
        id: Uuid,
        change: &ChangeTenant<'_>,
        said: &mut Option<Tenant>,
        notes: &Notes,
    ) -> Result<Tenant> {
        let mut tx = self.begin_identity().await?;
        // Jobs that are being made are told as well: they are there before this, or find the tenant as it is afterwards.
        self.lock_tenant(&mut tx, id).await?;
        let before = locked(&mut tx, id).await?.ok_or(StoreError::NotFound)?;
        if said.as_ref() == Some(&before) {
            return Ok(before);
        }
        let now = super::clock(&mut tx).await?;
        let after = change(&before, now).map_err(|reason| StoreError::Refused(Box::new(reason)))?;
        if after == before {
            return Ok(before);
        }
        let after = Tenant {
            id,
            version: before.version + 1,
            created_at: before.created_at,
            created_by: before.created_by,
            updated_at: Some(now),
            ..after
        };
        let update = sqlx::query(
            "update tenants set name = $2, description = $3, max_jobs = $4, max_executions_per_hour = $5, max_concurrent = $6,
                max_log_bytes = $7, max_result_bytes = $8, weight = $9, settings = $10, suspended_at = $11, suspend_reason = $12,
                version = $13, updated_at = $14 where id = $1",
        );
        let updated = written(update, &after)?.bind(after.version).bind(now).execute(&mut *tx).await;
        updated.map_err(|error| name_taken(error, &after.name))?;
        if before.suspended_at != after.suspended_at {
            tell_jobs(&mut tx, id, after.suspended_at).await?;
        }
        note(&mut tx, &notes.changed(0, || Deed::tenant_changed(&before, &after))).await?;
        // Before the end, for it may not come back.
        *said = Some(after.clone());
        commit(tx).await?;
        Ok(after)
    }
}

/// Says at a tenant's jobs since when it is suspended, in the order in which all lock jobs.
async fn tell_jobs(tx: &mut PgConnection, tenant: Uuid, since: Option<DateTime<Utc>>) -> Result<()> {
    sqlx::query(
        "with held as materialized (select id from scheduled_jobs where tenant_id = $1 order by id for no key update)
         update scheduled_jobs j set tenant_suspended_at = $2 from held where j.id = held.id",
    )
    .bind(tenant)
    .bind(since)
    .execute(tx)
    .await?;
    Ok(())
}

async fn locked(tx: &mut PgConnection, id: Uuid) -> Result<Option<Tenant>> {
    let found = sqlx::query(concat!("select ", columns!(), " from tenants t where t.id = $1 for update"))
        .bind(id)
        .fetch_optional(tx)
        .await?;
    found.as_ref().map(tenant).transpose()
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Postgres, sqlx::postgres::PgArguments>;

/// Binds the columns that callers decide over, `$1` to `$12`.
fn written<'q>(query: Query<'q>, tenant: &Tenant) -> Result<Query<'q>> {
    let Quotas { max_jobs, max_executions_per_hour, max_concurrent, max_log_bytes, max_result_bytes } = tenant.quotas;
    let settings = serde_json::to_string(&tenant.settings)
        .map_err(|error| StoreError::Corrupt { table: "tenants", reason: error.to_string() })?;
    Ok(query
        .bind(tenant.id)
        .bind(tenant.name.clone())
        .bind(text::plain(&tenant.description).into_owned())
        .bind(max_jobs)
        .bind(max_executions_per_hour)
        .bind(max_concurrent)
        .bind(max_log_bytes)
        .bind(max_result_bytes)
        .bind(tenant.weight)
        .bind(settings)
        .bind(tenant.suspended_at)
        .bind(text::plain(&tenant.suspend_reason).into_owned()))
}

fn name_taken(error: sqlx::Error, name: &str) -> StoreError {
    if violated(&error) == Some("tenants_name") {
        return StoreError::Refused(Box::new(Error::tenant_name_taken(name)));
    }
    error.into()
}
