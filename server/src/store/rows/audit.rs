use std::sync::Arc;

use orrery_proto::v1::AuditOutcome;

use super::Columns;
use crate::audit::{Author, Deed, Resource};
use crate::store::{AuditEntry, AuditRow, Result};

const TABLE: &str = "audit_entries";

/// An entry, and whether it is sealed.
pub(in crate::store) fn audit_row(row: &impl Columns) -> Result<AuditRow> {
    Ok(AuditRow { entry: audit_entry(row)?, is_sealed: row.flag("is_sealed")? })
}

pub(in crate::store) fn audit_entry(row: &impl Columns) -> Result<AuditEntry> {
    let author = Author {
        kind: row.text("actor_kind")?,
        id: row.id("actor_id")?,
        name: row.text("actor_name")?,
        address: row.text("address")?,
        request_id: row.text("request_id")?,
    };
    let resource =
        Resource { kind: row.text("resource_type")?, id: row.text("resource_id")?, name: row.text("resource_name")? };
    Ok(AuditEntry {
        id: row.id("id")?,
        at: row.instant(TABLE, "at")?,
        author: Arc::new(author),
        deed: Deed {
            tenant: row.id("tenant_id")?,
            action: row.text("action")?,
            resource,
            before: row.maybe_text("before")?,
            after: row.maybe_text("after")?,
        },
        outcome: row.named(TABLE, "outcome", AuditOutcome::from_json_str)?,
    })
}
