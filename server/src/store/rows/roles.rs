use orrery_proto::v1::GranteeKind;

use super::Columns;
use crate::store::{Result, Role, RoleBinding};

const ROLES: &str = "roles";
const BINDINGS: &str = "role_bindings";

pub(in crate::store) fn role(row: &impl Columns) -> Result<Role> {
    Ok(Role {
        tenant_id: row.id("tenant_id")?,
        name: row.text("name")?,
        description: row.text("description")?,
        permissions: row.texts(ROLES, "permissions")?,
        created_by: row.id("created_by")?,
        created_at: row.instant(ROLES, "created_at")?,
        updated_at: row.instant(ROLES, "updated_at")?,
    })
}

pub(in crate::store) fn role_binding(row: &impl Columns) -> Result<RoleBinding> {
    Ok(RoleBinding {
        id: row.id("id")?,
        tenant_id: row.id("tenant_id")?,
        role: row.text("role")?,
        kind: row.named(BINDINGS, "principal_kind", GranteeKind::from_json_str)?,
        principal_id: row.id("principal_id")?,
        tag: row.text("tag")?,
        created_by: row.id("created_by")?,
        created_at: row.instant(BINDINGS, "created_at")?,
    })
}
