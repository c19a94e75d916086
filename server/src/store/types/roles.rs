//! Roles of tenants, and who has them.

use chrono::{DateTime, Utc};
use orrery_proto::v1::GranteeKind;
use uuid::Uuid;

/// A role that a tenant has made.
#[derive(Clone, Debug, PartialEq)]
pub struct Role {
    pub tenant_id: Uuid,
    /// Unique in its tenant.
    pub name: String,
    pub description: String,
    /// `*` or `resource:action`.
    pub permissions: Vec<String>,
    pub created_by: Uuid,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// A role, built in or made, of a user or a key.
#[derive(Clone, Debug, PartialEq)]
pub struct RoleBinding {
    /// UUIDv7 of the moment it was made: lists go by it.
    pub id: Uuid,
    pub tenant_id: Uuid,
    pub role: String,
    pub kind: GranteeKind,
    pub principal_id: Uuid,
    /// For jobs with this tag alone; empty: for the whole tenant.
    pub tag: String,
    pub created_by: Uuid,
    pub created_at: DateTime<Utc>,
}

/// Which bindings somebody wants to see.
#[derive(Clone, Debug, Default)]
pub struct BindingFilter {
    pub role: Option<String>,
    pub principal_id: Option<Uuid>,
}

/// Whose roles are asked for.
#[derive(Clone, Debug)]
pub struct Grantee<'a> {
    pub tenant: Uuid,
    pub kind: GranteeKind,
    pub id: Uuid,
    /// Roles that it has beside those that are bound to it.
    pub roles: &'a [String],
}

/// A role that somebody has.
#[derive(Clone, Debug, PartialEq)]
pub struct Granted {
    pub role: String,
    /// For jobs with this tag alone; empty: for the whole tenant.
    pub tag: String,
    /// What it allows; `None` where it is none that the tenant has made.
    pub permissions: Option<Vec<String>>,
}
