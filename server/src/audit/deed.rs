//! What entries say of what was done. Pure; no secret gets in: what is shown is what the API shows.

use std::time::Duration;

use orrery_proto::v1::{ExecutionStatus, JobStatus, TriggerType};
use serde_json::{Value, json};
use uuid::Uuid;

use super::DEPLOYMENT;
use crate::execution::Execution;
use crate::job::{Job, Timeouts};
use crate::store::{
    AgentScope, ApiKey, DeadLetter, EnrolledAgent, JoinToken, Role, RoleBinding, SecretRow, Trigger, User,
};
use crate::tenant::{Quotas, Tenant};

/// Something that was done, or that somebody was not let do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deed {
    /// Whose chain it goes into.
    pub tenant: Uuid,
    /// `resource:verb`.
    pub action: String,
    pub resource: Resource,
    /// JSON.
    pub before: Option<String>,
    /// JSON.
    pub after: Option<String>,
}

/// What it was done to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resource {
    /// Such as `job`.
    pub kind: String,
    pub id: String,
    /// For people.
    pub name: String,
}

impl Resource {
    /// A resource with a name.
    pub fn new(kind: &str, id: impl ToString, name: &str) -> Self {
        Self { kind: kind.to_owned(), id: id.to_string(), name: name.to_owned() }
    }
}

impl Deed {
    /// Anything, with what it was and what it has become.
    pub fn new(tenant: Uuid, action: &str, resource: Resource) -> Self {
        Self { tenant, action: action.to_owned(), resource, before: None, after: None }
    }

    /// With what it was.
    #[must_use]
    pub fn before(self, before: &Value) -> Self {
        Self { before: Some(before.to_string()), ..self }
    }

    /// With what it has become.
    #[must_use]
    pub fn after(self, after: &Value) -> Self {
        Self { after: Some(after.to_string()), ..self }
    }

    /// A job that is new.
    pub fn job_created(job: &Job) -> Self {
        Self { after: shown(job), ..Self::of_job("jobs:create", job) }
    }

    /// A job that was changed. `stops`: what waits and runs of it was ended.
    pub fn job_changed(before: &Job, after: &Job, stops: bool) -> Self {
        let action = match (before.status, after.status) {
            _ if after.deleted_at.is_some() => "jobs:delete",
            _ if stops => "jobs:stop",
            (before, after) if before == after => "jobs:update",
            (_, JobStatus::Paused) => "jobs:pause",
            (_, JobStatus::Active) => "jobs:resume",
            _ => "jobs:stop",
        };
        let left = after.deleted_at.is_none().then(|| shown(after)).flatten();
        Self { before: shown(before), after: left, ..Self::of_job(action, before) }
    }

    fn of_job(action: &str, job: &Job) -> Self {
        Self::new(job.tenant_id, action, Resource::new("job", job.id, &job.spec.name))
    }

    /// Executions of one job that somebody asked for in one call.
    pub fn triggered(trigger: &Trigger, job_name: &str, executions: &[Uuid]) -> Self {
        let made = json!({ "executions": executions });
        match (trigger.kind, trigger.retry_of) {
            (TriggerType::Retry, Some(of)) => {
                let made = json!({ "executions": executions, "retryOf": of, "jobId": trigger.job });
                Self::new(trigger.tenant, "executions:retry", Resource::new("execution", of, job_name)).after(&made)
            }
            _ => Self::new(trigger.tenant, "jobs:trigger", Resource::new("job", trigger.job, job_name)).after(&made),
        }
    }

    /// An execution that is to end.
    pub fn cancelled(after: &Execution, reason: &str) -> Self {
        // What nobody runs ends at once; what runs is asked to.
        let was = if after.is_done() { ExecutionStatus::Pending } else { after.status() };
        Self::new(after.tenant_id, "executions:cancel", Resource::new("execution", after.id, &after.job_name))
            .before(&json!({ "status": was }))
            .after(&json!({ "status": after.status(), "reason": reason }))
    }

    /// A dead letter that was decided over.
    pub fn dead_letter(action: &str, before: &DeadLetter, after: &DeadLetter) -> Self {
        let shown = |letter: &DeadLetter| json!({ "state": letter.state, "note": letter.note, "releasedAs": letter.released_as });
        Self::new(before.tenant_id, action, Resource::new("dead_letter", before.execution_id, &before.job_name))
            .before(&shown(before))
            .after(&shown(after))
    }

    /// The limit of a queue; 0 is none.
    pub fn queue_limited(tenant: Uuid, queue: &str, was: i32, is: i32) -> Self {
        Self::new(tenant, "queues:update", Resource::new("queue", queue, queue))
            .before(&json!({ "maxConcurrent": was }))
            .after(&json!({ "maxConcurrent": is.max(0) }))
    }

    /// An agent's session that takes no further work.
    pub fn drained(tenant: Option<Uuid>, session: Uuid, name: &str) -> Self {
        let resource = Resource::new("worker", session, name);
        Self::new(tenant.unwrap_or(DEPLOYMENT), "workers:drain", resource).after(&json!({ "draining": true }))
    }

    /// A tenant that is new. Tenants are the deployment's things.
    pub fn tenant_created(tenant: &Tenant) -> Self {
        Self { after: Some(tenant_shown(tenant).to_string()), ..Self::of_tenant("tenants:create", tenant) }
    }

    /// A tenant that was changed.
    pub fn tenant_changed(before: &Tenant, after: &Tenant) -> Self {
        let action = match (before.suspended_at.is_some(), after.suspended_at.is_some()) {
            (false, true) => "tenants:suspend",
            (true, false) => "tenants:resume",
            _ => "tenants:update",
        };
        Self::of_tenant(action, before).before(&tenant_shown(before)).after(&tenant_shown(after))
    }

    fn of_tenant(action: &str, tenant: &Tenant) -> Self {
        Self::new(DEPLOYMENT, action, Resource::new("tenant", tenant.id, &tenant.name))
    }

    /// A key that is new.
    pub fn key_created(key: &ApiKey) -> Self {
        Self { after: Some(key_shown(key).to_string()), ..Self::of_key("keys:create", key) }
    }

    /// A key that opens nothing any more.
    pub fn key_revoked(key: &ApiKey) -> Self {
        let was = ApiKey { revoked_at: None, ..key.clone() };
        Self::of_key("keys:revoke", key).before(&key_shown(&was)).after(&key_shown(key))
    }

    fn of_key(action: &str, key: &ApiKey) -> Self {
        Self::new(key.tenant_id.unwrap_or(DEPLOYMENT), action, Resource::new("key", key.id, &key.name))
    }

    /// A role that is new.
    pub fn role_created(role: &Role) -> Self {
        Self::new(role.tenant_id, "roles:create", of_role(role)).after(&shown_role(role))
    }

    /// What a role allows was replaced.
    pub fn role_changed(before: &Role, after: &Role) -> Self {
        Self::new(after.tenant_id, "roles:update", of_role(after)).before(&shown_role(before)).after(&shown_role(after))
    }

    /// A role was deleted.
    pub fn role_deleted(role: &Role) -> Self {
        Self::new(role.tenant_id, "roles:delete", of_role(role)).before(&shown_role(role))
    }

    /// A role was given to somebody (`roles:bind`), or taken away again (`roles:unbind`).
    pub fn role_binding(action: &str, binding: &RoleBinding) -> Self {
        let RoleBinding { id, tenant_id, role, kind, principal_id, tag, .. } = binding;
        let shown = json!({"role": role, "principalKind": kind.as_json_str(), "principalId": principal_id, "tag": tag});
        let deed = Self::new(*tenant_id, action, Resource::new("role_binding", id, role));
        if action == "roles:unbind" { deed.before(&shown) } else { deed.after(&shown) }
    }

    /// A user that is new.
    pub fn user_created(user: &User) -> Self {
        Self { after: Some(user_shown(user).to_string()), ..Self::of_user("users:create", user) }
    }

    /// A user who was changed; `with_password`: it has another one.
    pub fn user_changed(before: &User, after: &User, with_password: bool) -> Self {
        let action = match (before.disabled_at.is_some(), after.disabled_at.is_some()) {
            (false, true) => "users:disable",
            (true, false) => "users:enable",
            _ if with_password => "users:password",
            _ => "users:update",
        };
        let mut shown = user_shown(after);
        if with_password && let Some(fields) = shown.as_object_mut() {
            fields.insert("password".to_owned(), json!("***"));
        }
        Self::of_user(action, before).before(&user_shown(before)).after(&shown)
    }

    fn of_user(action: &str, user: &User) -> Self {
        Self::new(user.tenant_id, action, Resource::new("user", user.id, &user.name))
    }

    /// A session of somebody who signs in or out.
    pub fn session(action: &str, tenant: Uuid, session: Uuid, user_name: &str) -> Self {
        Self::new(tenant, action, Resource::new("session", session, user_name))
    }

    /// Another version of a secret.
    pub fn secret_put(tenant: Uuid, row: &SecretRow) -> Self {
        let was = row.versions.iter().rev().find(|version| **version < row.version);
        let put = Self::new(tenant, "secrets:put", Resource::new("secret", &row.name, &row.name));
        let after = json!({ "version": row.version, "value": "***" });
        match was {
            Some(was) => put.before(&json!({ "version": was, "value": "***" })).after(&after),
            None => put.after(&after),
        }
    }

    /// A secret, or a version of it, that is gone.
    pub fn secret_deleted(tenant: Uuid, name: &str, version: Option<i64>, newest: i64) -> Self {
        Self::new(tenant, "secrets:delete", Resource::new("secret", name, name))
            .before(&json!({ "version": version.unwrap_or(newest), "value": "***" }))
    }

    /// Secrets that are encrypted under another key.
    pub fn secrets_rotated(tenant: Uuid, versions: u64, key: &str) -> Self {
        let resource = Resource::new("encryption_key", key, key);
        Self::new(tenant, "secrets:rotate", resource).after(&json!({ "versions": versions, "keyId": key }))
    }

    /// A token by which an agent may join.
    pub fn join_token(token: &JoinToken, life: Duration) -> Self {
        let mut shown = scope_shown(&token.scope);
        if let Some(fields) = shown.as_object_mut() {
            fields.insert("ttlSeconds".to_owned(), json!(life.as_secs()));
        }
        let tenant = token.scope.tenant_id.unwrap_or(DEPLOYMENT);
        Self::new(tenant, "agents:invite", Resource::new("join_token", token.id, &token.scope.name)).after(&shown)
    }

    /// An agent's identity: given, renewed or taken away.
    pub fn agent(action: &str, agent: &EnrolledAgent) -> Self {
        let mut shown = scope_shown(&agent.scope);
        if let Some(fields) = shown.as_object_mut() {
            fields.insert("serial".to_owned(), json!(agent.certificate.serial));
            fields.insert("expiresAt".to_owned(), json!(agent.certificate.expires_at));
            fields.insert("revoked".to_owned(), json!(agent.revoked_at.is_some()));
        }
        let tenant = agent.scope.tenant_id.unwrap_or(DEPLOYMENT);
        Self::new(tenant, action, Resource::new("agent", agent.id, &agent.scope.name)).after(&shown)
    }
}

/// A job as the API shows it, its time-out as it was given.
fn shown(job: &Job) -> Option<String> {
    const AS_GIVEN: Timeouts =
        Timeouts { default: Duration::from_secs(300), cap: Duration::from_secs(u32::MAX as u64) };
    serde_json::to_string(&crate::api::shown_job(job, AS_GIVEN)).ok()
}

fn tenant_shown(tenant: &Tenant) -> Value {
    let Quotas { max_jobs, max_executions_per_hour, max_concurrent, max_log_bytes, max_result_bytes } = tenant.quotas;
    json!({
        "name": tenant.name,
        "description": tenant.description,
        "maxJobs": max_jobs,
        "maxExecutionsPerHour": max_executions_per_hour,
        "maxConcurrent": max_concurrent,
        "maxLogBytes": max_log_bytes,
        "maxResultBytes": max_result_bytes,
        "weight": tenant.weight,
        "settings": tenant.settings,
        "suspendedAt": tenant.suspended_at,
        "suspendReason": tenant.suspend_reason,
    })
}

fn key_shown(key: &ApiKey) -> Value {
    json!({
        "name": key.name,
        "prefix": key.prefix,
        "permissions": key.permissions,
        "expiresAt": key.expires_at,
        "revoked": key.revoked_at.is_some(),
    })
}

fn user_shown(user: &User) -> Value {
    json!({
        "name": user.name,
        "displayName": user.display_name,
        "roles": user.roles,
        "disabled": user.disabled_at.is_some(),
    })
}

fn scope_shown(scope: &AgentScope) -> Value {
    json!({ "name": scope.name, "queues": scope.queues, "labels": scope.labels, "shared": scope.tenant_id.is_none() })
}

fn of_role(role: &Role) -> Resource {
    Resource::new("role", &role.name, &role.name)
}

fn shown_role(role: &Role) -> Value {
    json!({"description": role.description, "permissions": role.permissions})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> ApiKey {
        ApiKey {
            id: Uuid::from_u128(3),
            tenant_id: None,
            name: "ci".to_owned(),
            prefix: "ork_ab".to_owned(),
            hash: crate::store::KeyHash { pepper: None, hash: [7; 32] },
            permissions: vec!["jobs:read".to_owned()],
            created_by: None,
            created_at: chrono::DateTime::UNIX_EPOCH,
            expires_at: None,
            last_used_at: None,
            revoked_at: Some(chrono::DateTime::UNIX_EPOCH),
        }
    }

    #[test]
    fn what_is_of_no_tenant_is_the_deployments() {
        let revoked = Deed::key_revoked(&key());
        assert_eq!(revoked.tenant, DEPLOYMENT);
        assert!(revoked.before.unwrap().contains(r#""revoked":false"#));
        assert!(revoked.after.unwrap().contains(r#""revoked":true"#));
    }

    #[test]
    fn a_secret_shows_its_versions_and_no_value() {
        let row = |version, versions: &[i64]| SecretRow {
            name: "db".to_owned(),
            version,
            versions: versions.to_vec(),
            created_at: chrono::DateTime::UNIX_EPOCH,
            updated_at: chrono::DateTime::UNIX_EPOCH,
            updated_by: Uuid::nil(),
        };
        let first = Deed::secret_put(Uuid::nil(), &row(1, &[1]));
        assert_eq!((first.before, first.after.as_deref()), (None, Some(r#"{"value":"***","version":1}"#)));
        let third = Deed::secret_put(Uuid::nil(), &row(3, &[1, 2, 3]));
        assert_eq!(third.before.as_deref(), Some(r#"{"value":"***","version":2}"#));
    }
}
