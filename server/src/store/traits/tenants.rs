use async_trait::async_trait;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::error::Error;
use crate::store::*;
use crate::tenant::Tenant;

/// Tenants. Whatever changes one goes through [`Tenants::change_tenant`].
#[async_trait]
pub trait Tenants: Send + Sync {
    /// Makes a tenant as it is given, at version 1.
    ///
    /// # Errors
    /// [`StoreError::Refused`] (TENANT_EXISTS, TENANT_NAME_TAKEN).
    async fn create_tenant(&self, tenant: &Tenant) -> Result<Tenant>;

    /// One tenant; `None` where it has no row.
    async fn tenant(&self, id: Uuid) -> Result<Option<Tenant>>;

    /// Tenants, newest first by id.
    async fn tenants(&self, page: &Page) -> Result<Vec<Tenant>>;

    /// Reads a tenant under a lock, lets `change` decide, and writes what it says at the next version. Where that suspends the tenant, or ends
    /// its suspension, its jobs are told in the same transaction, also those that are being made.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Refused`] with what `change` refused, and (TENANT_NAME_TAKEN).
    async fn change_tenant(&self, id: Uuid, change: &ChangeTenant<'_>) -> Result<Tenant>;

    /// The executions that are counted for a tenant in this hour.
    async fn hour_of(&self, tenant: Uuid) -> Result<i64>;

    /// Counts up to so many executions of a tenant in this hour, as far as its quota lets; all of them where it has none. `default` is the
    /// quota of tenants without one of their own; 0 is none.
    async fn set_aside(&self, tenant: Uuid, wanted: i64, default: i64) -> Result<SetAside>;
}

/// Decides over a change of a tenant: sees it as it stands and the database's clock. The store sets `version` and `updated_at`.
pub type ChangeTenant<'a> = dyn Fn(&Tenant, DateTime<Utc>) -> std::result::Result<Tenant, Error> + Send + Sync + 'a;
