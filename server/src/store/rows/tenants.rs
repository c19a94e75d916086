use super::Columns;
use crate::store::Result;
use crate::tenant::{Quotas, Tenant};

const TABLE: &str = "tenants";

pub(in crate::store) fn tenant(row: &impl Columns) -> Result<Tenant> {
    Ok(Tenant {
        id: row.id("id")?,
        name: row.text("name")?,
        description: row.text("description")?,
        quotas: Quotas {
            max_jobs: row.maybe_number("max_jobs")?,
            max_executions_per_hour: row.maybe_number("max_executions_per_hour")?,
            max_concurrent: row.maybe_small("max_concurrent")?,
            max_log_bytes: row.maybe_number("max_log_bytes")?,
            max_result_bytes: row.maybe_number("max_result_bytes")?,
        },
        weight: row.small("weight")?,
        settings: row.json(TABLE, "settings")?,
        suspended_at: row.maybe_instant(TABLE, "suspended_at")?,
        suspend_reason: row.text("suspend_reason")?,
        version: row.number("version")?,
        created_at: Some(row.instant(TABLE, "created_at")?),
        created_by: row.maybe_id("created_by")?,
        updated_at: Some(row.instant(TABLE, "updated_at")?),
    })
}
