//! The roles that every tenant has.

use super::permission::Permissions;

/// The role that may do everything in its tenant.
pub const ADMIN: &str = "admin";

/// A role that is there without being made, and cannot be changed.
#[derive(Debug)]
pub struct BuiltIn {
    pub name: &'static str,
    pub description: &'static str,
    /// Whose permissions it has as well.
    extends: Option<&'static str>,
    /// What it may do beside.
    own: &'static [&'static str],
}

/// From the one that may least to the one that may everything.
pub const BUILT_IN: [BuiltIn; 5] = [
    BuiltIn {
        name: "viewer",
        description: "Sees jobs, executions, their logs, and the state of the scheduler.",
        extends: None,
        own: &["executions:read", "jobs:read", "logs:read", "scheduler:read"],
    },
    BuiltIn {
        name: "operator",
        description: "Keeps jobs running: triggers, pauses, cancels, drains, decides over dead letters. Defines nothing.",
        extends: Some("viewer"),
        own: &["executions:cancel", "jobs:pause", "jobs:trigger", "queues:update", "workers:drain"],
    },
    BuiltIn {
        name: "developer",
        description: "Defines jobs and secrets, and does what an operator does. Runs no shells.",
        extends: Some("operator"),
        own: &["jobs:create", "jobs:delete", "jobs:update", "secrets:read", "secrets:write"],
    },
    BuiltIn {
        name: "auditor",
        description: "Sees everything that can be read, who may do what and the audit log included. Changes nothing.",
        extends: Some("viewer"),
        own: &["audit:read", "keys:read", "roles:read", "secrets:read", "tenants:read", "users:read"],
    },
    BuiltIn { name: ADMIN, description: "Does everything in its tenant.", extends: None, own: &["*"] },
];

/// The built-in role of a name.
pub(crate) fn built_in(name: &str) -> Option<&'static BuiltIn> {
    BUILT_IN.iter().find(|role| role.name == name)
}

impl BuiltIn {
    /// All that it may do.
    pub fn permissions(&self) -> Vec<String> {
        let mut all = self.extends.and_then(built_in).map(Self::permissions).unwrap_or_default();
        all.extend(self.own.iter().map(ToString::to_string));
        all.sort_unstable();
        all
    }

    /// Whether it may do something.
    pub fn may(&self, permission: &str) -> bool {
        Permissions::Only(self.permissions()).allow(permission)
    }
}

#[cfg(test)]
mod tests {
    use super::super::PERMISSIONS;
    use super::*;

    fn may(name: &str) -> Vec<String> {
        built_in(name).unwrap().permissions()
    }

    #[test]
    fn whoever_only_looks_changes_nothing() {
        for role in ["viewer", "auditor"] {
            let writes: Vec<String> = may(role).into_iter().filter(|p| !p.ends_with(":read")).collect();
            assert!(writes.is_empty(), "{role}: {writes:?}");
        }
        let unread: Vec<&&str> =
            PERMISSIONS.iter().filter(|p| p.ends_with(":read") && !built_in("auditor").unwrap().may(p)).collect();
        assert!(unread.is_empty(), "an auditor does not see {unread:?}");
    }

    #[test]
    fn each_role_may_exactly_this() {
        let viewer = ["executions:read", "jobs:read", "logs:read", "scheduler:read"];
        assert_eq!(may("viewer"), viewer);
        let operator = ["executions:cancel", "jobs:pause", "jobs:trigger", "queues:update", "workers:drain"];
        let developer = ["jobs:create", "jobs:delete", "jobs:update", "secrets:read", "secrets:write"];
        let sorted = |parts: &[&[&str]]| {
            let mut all: Vec<String> = parts.concat().iter().map(ToString::to_string).collect();
            all.sort_unstable();
            all
        };
        assert_eq!(may("operator"), sorted(&[&viewer, &operator]));
        assert_eq!(may("developer"), sorted(&[&viewer, &operator, &developer]));
        assert_eq!(may(ADMIN), ["*"]);
    }

    #[test]
    fn what_a_role_may_do_is_a_permission() {
        for role in &BUILT_IN {
            for permission in role.permissions() {
                assert!(permission == "*" || PERMISSIONS.contains(&permission.as_str()), "{}: {permission}", role.name);
            }
        }
    }
}
