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
    "roles:read",
    "roles:write",
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
    /// These permissions, each once; `*` is all.
    pub fn of(named: impl IntoIterator<Item = String>) -> Self {
        let mut named: Vec<String> = named.into_iter().collect();
        if named.iter().any(|permission| permission == "*") {
            return Self::All;
        }
        named.sort_unstable();
        named.dedup();
        Self::Only(named)
    }

    /// Whether `resource:action` is among them.
    pub fn allow(&self, permission: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(named) => named.iter().any(|n| n == permission || n == "*"),
        }
    }
}
