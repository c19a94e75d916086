//! What every call needs. **A call that is not in this table does not start**: the layer asks it before gRPC and REST alike, and a test
//! compares it with the contract, call by call.

use std::collections::HashMap;
use std::sync::LazyLock;

use http::Method;

use super::{Principal, Reach};
use crate::error::{Error, Kind};
use crate::gateway;

use Needs::{Anybody, Joins, Nobody, OfJobs, Permission, SignsIn};

/// What a call needs of its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: it is public.
    Nobody,
    /// Its credentials are in its message: a password, or a refresh token.
    SignsIn,
    /// Its credentials are a join token in its message. A whole fleet may join from one address: only wrong tokens count.
    Joins,
    /// Whoever is known: it is about the caller.
    Anybody,
    /// This permission, in the whole tenant. What depends on the request, such as a secret in a job, its handler asks for besides
    /// ([`Principal::needs`]).
    Permission(&'static str),
    /// This permission, in the whole tenant or for jobs with a tag: its handler lets it be about those alone ([`Caller::may_touch`]), and a list
    /// shows no others ([`Caller::tags`]).
    OfJobs(&'static str),
}

/// All calls of the contract, by service. What roles may do follows from it (see [`super::role`]).
#[rustfmt::skip]
pub const CALLS: &[(&str, &[(&str, Needs)])] = &[
    ("AgentService", &[
        ("Session", Permission("agents:connect")),
        ("Logs", Permission("agents:connect")),
        ("Renew", Permission("agents:connect")),
    ]),
    ("AuditService", &[
        ("ListAuditEntries", Permission("audit:read")),
        ("GetAuditEntry", Permission("audit:read")),
        ("GetAuditHead", Permission("audit:read")),
        ("VerifyAudit", Permission("audit:read")),
    ]),
    ("AuthService", &[
        ("Login", SignsIn),
        ("Refresh", SignsIn),
        ("Logout", SignsIn),
        ("GetCaller", Anybody),
        ("ChangePassword", Anybody),
    ]),
    ("DeadLetterService", &[
        ("ListDeadLetters", OfJobs("executions:read")),
        ("GetDeadLetter", OfJobs("executions:read")),
        ("DiscardDeadLetter", OfJobs("executions:cancel")),
        ("ReleaseDeadLetter", OfJobs("jobs:trigger")),
    ]),
    ("EnrolmentService", &[
        ("CreateJoinToken", Permission("agents:enroll")),
        ("ListAgents", Permission("scheduler:read")),
        ("RevokeAgent", Permission("agents:revoke")),
        ("Enroll", Joins),
    ]),
    ("ExecutionService", &[
        ("ListExecutions", OfJobs("executions:read")),
        ("GetExecution", OfJobs("executions:read")),
        ("GetExecutionStats", OfJobs("executions:read")),
        ("CancelExecution", OfJobs("executions:cancel")),
        ("RetryExecution", OfJobs("jobs:trigger")),
        ("ExplainExecution", OfJobs("executions:read")),
        ("WatchExecution", OfJobs("executions:read")),
        ("ListExecutionLogs", OfJobs("logs:read")),
        ("FollowExecutionLogs", OfJobs("logs:read")),
    ]),
    ("JobService", &[
        ("CreateJob", OfJobs("jobs:create")),
        ("BatchCreateJobs", OfJobs("jobs:create")),
        ("ListJobs", OfJobs("jobs:read")),
        ("GetJob", OfJobs("jobs:read")),
        ("UpdateJob", OfJobs("jobs:update")),
        ("DeleteJob", OfJobs("jobs:delete")),
        ("ValidateJob", OfJobs("jobs:read")),
        ("TriggerJob", OfJobs("jobs:trigger")),
        ("BatchTriggerJobs", OfJobs("jobs:trigger")),
        ("PauseJob", OfJobs("jobs:pause")),
        ("ResumeJob", OfJobs("jobs:pause")),
        ("StopJob", OfJobs("jobs:pause")),
        ("PreviewJob", OfJobs("jobs:read")),
        ("ExplainJob", OfJobs("jobs:read")),
        ("ListOmissions", OfJobs("jobs:read")),
    ]),
    ("KeyService", &[
        ("CreateKey", Permission("keys:write")),
        ("ListKeys", Permission("keys:read")),
        ("RevokeKey", Permission("keys:write")),
    ]),
    ("RoleService", &[
        ("CreateRole", Permission("roles:write")),
        ("ListRoles", Permission("roles:read")),
        ("GetRole", Permission("roles:read")),
        ("UpdateRole", Permission("roles:write")),
        ("DeleteRole", Permission("roles:write")),
        ("CreateRoleBinding", Permission("roles:write")),
        ("ListRoleBindings", Permission("roles:read")),
        ("DeleteRoleBinding", Permission("roles:write")),
    ]),
    ("SchedulerService", &[
        ("GetStatus", Permission("scheduler:read")),
        ("GetMetrics", Permission("scheduler:read")),
        ("ListQueues", Permission("scheduler:read")),
        ("SetQueue", Permission("queues:update")),
        ("ListWorkers", Permission("scheduler:read")),
        ("DrainWorker", Permission("workers:drain")),
        ("PreviewCron", OfJobs("scheduler:read")),
        ("ExplainCron", OfJobs("scheduler:read")),
        ("GetHealth", Nobody),
        ("GetReady", Nobody),
    ]),
    ("SecretService", &[
        ("PutSecret", Permission("secrets:write")),
        ("ListSecrets", Permission("secrets:read")),
        ("DeleteSecret", Permission("secrets:write")),
        ("RotateSecrets", Permission("secrets:write")),
    ]),
    ("TenantService", &[
        ("CreateTenant", Permission("tenants:admin")),
        ("ListTenants", Permission("tenants:read")),
        ("GetTenant", Permission("tenants:read")),
        ("GetTenantUsage", Permission("tenants:read")),
        ("UpdateTenant", Permission("tenants:admin")),
        ("SuspendTenant", Permission("tenants:admin")),
        ("ResumeTenant", Permission("tenants:admin")),
    ]),
    ("UserService", &[
        ("CreateUser", Permission("users:write")),
        ("ListUsers", Permission("users:read")),
        ("GetUser", Permission("users:read")),
        ("UpdateUser", Permission("users:write")),
        ("DisableUser", Permission("users:write")),
        ("EnableUser", Permission("users:write")),
        ("ResetPassword", Permission("users:write")),
    ]),
];

/// What the paths of our gRPC calls begin with.
const BELOW: &str = "/orrery.v1.";

static BY_PATH: LazyLock<HashMap<String, Needs>> = LazyLock::new(|| {
    let of = |(service, calls): &(&str, &'static [(&str, Needs)])| {
        let service = (*service).to_owned();
        calls.iter().map(move |(call, needs)| (format!("{BELOW}{service}/{call}"), *needs))
    };
    CALLS.iter().flat_map(of).collect()
});

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// A call of the contract.
    Call(Needs),
    /// One that is not in the table.
    Unlisted,
    /// No call: what is served, if anything, is no handler's.
    Nothing,
}

/// What a request asks for, by gRPC or by REST, and the name of that, such as `JobService/CreateJob`; empty where it is none.
pub(super) fn asked(method: &Method, path: &str) -> (Asked, &'static str) {
    // REST requests are given to the calls whose routes serve them, as the gateway will.
    let rest;
    let call = if path.starts_with(BELOW) {
        path
    } else {
        rest = gateway::called(method, path);
        match rest {
            Some(call) => call,
            None => return (Asked::Nothing, ""),
        }
    };
    match BY_PATH.get_key_value(call) {
        Some((path, needs)) => (Asked::Call(*needs), path.strip_prefix(BELOW).unwrap_or_default()),
        None => (Asked::Unlisted, ""),
    }
}

impl Asked {
    /// What a caller has to have for it, as the audit log names what was denied.
    pub(super) fn action(&self) -> &'static str {
        match self {
            Self::Call(Permission(permission) | OfJobs(permission)) => permission,
            Self::Call(SignsIn) => "sessions:login",
            Self::Call(Joins) => "agents:enroll",
            Self::Call(Nobody | Anybody) => "callers:read",
            Self::Unlisted | Self::Nothing => "calls:unknown",
        }
    }
}

impl Needs {
    /// Lets a caller pass who is known, and says what its call may be about.
    ///
    /// # Errors
    /// PERMISSION_DENIED with what is missing.
    pub(super) fn admit(self, principal: &Principal) -> Result<Reach, Error> {
        let missing = match self {
            Nobody | SignsIn | Joins | Anybody => return Ok(Reach::Everything),
            Permission(permission) => principal.needs(permission),
            OfJobs(permission) => match principal.needs(permission) {
                Err(missing) => {
                    let tagged = principal.tagged.iter().filter(|tagged| tagged.permissions.allow(permission));
                    let tags: Vec<String> = tagged.map(|tagged| tagged.tag.clone()).collect();
                    if !tags.is_empty() {
                        return Ok(Reach::Tags { tags, permission });
                    }
                    Err(missing)
                }
                has => has,
            },
        };
        missing.map(|()| Reach::Everything)
    }

    /// The permission that it takes, if any.
    pub fn permission(self) -> Option<&'static str> {
        match self {
            Nobody | SignsIn | Joins | Anybody => None,
            Permission(permission) | OfJobs(permission) => Some(permission),
        }
    }
}

/// The answer to a call that is not in the table.
pub(super) fn unlisted() -> Error {
    let message = "there is no such call here; a newer version of the coordinator may have it";
    Error::new(Kind::Unimplemented, "UNKNOWN_CALL", message)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost_reflect::DescriptorPool;

    use super::super::PERMISSIONS;
    use super::*;

    #[test]
    fn every_call_of_the_contract_is_in_the_table_and_no_other() {
        let pool = DescriptorPool::decode(orrery_proto::DESCRIPTORS).unwrap();
        let services = pool.services().filter(|service| service.package_name() == "orrery.v1");
        let methods = services.flat_map(|service| service.methods().collect::<Vec<_>>());
        let contract: BTreeSet<String> =
            methods.map(|method| format!("/{}/{}", method.parent_service().full_name(), method.name())).collect();
        let table: BTreeSet<String> = BY_PATH.keys().cloned().collect();
        let missing: Vec<&String> = contract.difference(&table).collect();
        let unknown: Vec<&String> = table.difference(&contract).collect();
        assert!(
            missing.is_empty() && unknown.is_empty(),
            "say in auth/calls.rs what {missing:?} needs; {unknown:?} is no call"
        );
        let lines: usize = CALLS.iter().map(|(_, calls)| calls.len()).sum();
        assert_eq!(lines, table.len(), "a call stands there twice");
    }

    #[test]
    fn every_permission_of_the_table_can_be_given() {
        for (call, needs) in BY_PATH.iter() {
            if let Some(permission) = needs.permission() {
                assert!(PERMISSIONS.contains(&permission), "{call}: {permission} is not listed");
            }
        }
    }

    #[test]
    fn what_is_not_in_the_table_does_not_start() {
        let create = asked(&Method::POST, "/orrery.v1.JobService/CreateJob");
        assert_eq!(create, (Asked::Call(OfJobs("jobs:create")), "JobService/CreateJob"));
        for unknown in ["/orrery.v1.JobService/CreateJobs", "/orrery.v1.JobService/CreateJob/", "/orrery.v1./"] {
            assert_eq!(asked(&Method::POST, unknown).0, Asked::Unlisted, "{unknown}");
        }
    }

    #[test]
    fn a_route_is_the_call_that_serves_it() {
        let jobs = "/api/v1/scheduler/jobs";
        for (method, path, needs) in [
            (Method::GET, jobs.to_owned(), "jobs:read"),
            (Method::HEAD, jobs.to_owned(), "jobs:read"),
            (Method::POST, jobs.to_owned(), "jobs:create"),
            (Method::DELETE, format!("{jobs}/1"), "jobs:delete"),
            (Method::GET, format!("{jobs}/1/executions"), "executions:read"),
            (Method::POST, "/internal/jobs/create".to_owned(), "jobs:create"),
            (Method::POST, "/internal/jobs/1/pause".to_owned(), "jobs:pause"),
        ] {
            assert_eq!(asked(&method, &path).0, Asked::Call(OfJobs(needs)), "{method} {path}");
        }
        for (method, path) in [(Method::GET, "/health"), (Method::HEAD, "/ready"), (Method::GET, "/internal/health")] {
            assert_eq!(asked(&method, path).0, Asked::Call(Nobody), "{method} {path}");
        }
        for path in ["/", "/docs", "/nothing", "/internal/jobs", "/api/v1/auth/login/"] {
            assert_eq!(asked(&Method::GET, path).0, Asked::Nothing, "{path}");
        }
    }
}
