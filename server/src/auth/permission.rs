//! What calls may need, by name: `resource:action`.

/// All permissions that a call may need.
pub const PERMISSIONS: &[&str] = &[
    "agents:connect",
    "agents:enroll",
    "agents:revoke",
    "audit:read",
    "executions:cancel",
    "executions:read",
    "jobs:create",
    "jobs:delete",
    "jobs:pause",
    "jobs:read",
    "jobs:trigger",
    "jobs:update",
    "keys:read",
    "keys:write",
    "logs:read",
    "queues:update",
    "scheduler:read",
    "secrets:read",
    "secrets:write",
    "shell:run",
    "tenants:admin",
    "tenants:read",
    "users:read",
    "users:write",
    "workers:drain",
];

/// What a principal may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Permissions {
    All,
    /// `resource:action`.
    Only(Vec<String>),
}

impl Permissions {
    /// Whether `resource:action` is among them.
    pub fn allow(&self, permission: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(named) => named.iter().any(|n| n == permission || n == "*"),
        }
    }
}
