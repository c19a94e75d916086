//! A client in any language: every call by what reflection tells, without a line of generated code.

use std::collections::BTreeSet;

use prost_reflect::DynamicMessage;

use crate::dynamic::{DynamicClient, code_of, text};
use crate::engine::Engine;
use crate::world::World;

/// Calls and remembers what was called.
struct Caller {
    client: DynamicClient,
    called: BTreeSet<String>,
}

impl Caller {
    async fn ok(&mut self, method: &str, request: &str) -> Vec<DynamicMessage> {
        self.called.insert(method.to_owned());
        let before = self.written().await;
        let answer = self.client.call(method, request).await;
        let answer = answer.unwrap_or_else(|status| panic!("{method} {request}: {status:?}"));
        let is_written = self.written().await != before;
        assert_eq!(is_written, changes(method), "{method} {request}: whether it is in the audit log");
        answer
    }

    /// The newest changes in the audit logs: of the caller's tenant, and of the deployment. Denied calls are written a moment later.
    async fn written(&mut self) -> [String; 2] {
        let mut newest = [String::new(), String::new()];
        for (of, newest) in ["", r#"tenant_id: "00000000-0000-0000-0000-000000000000""#].iter().zip(&mut newest) {
            let listed = self
                .client
                .call("ListAuditEntries", &format!("page_size: 1 outcome: AUDIT_OUTCOME_CHANGED {of}"))
                .await
                .unwrap();
            let entries = listed[0].get_field_by_name("entries").unwrap().into_owned();
            let entry = entries.as_list().unwrap().first().map(|entry| text(entry.as_message().unwrap(), "id"));
            *newest = entry.unwrap_or_default();
        }
        newest
    }

    async fn refused(&mut self, method: &str, request: &str, code: &str) {
        self.called.insert(method.to_owned());
        let status = self.client.call(method, request).await.unwrap_err();
        assert_eq!(code_of(&status), code, "{method} {request}: {status:?}");
    }

    /// Calls and tells the `id` of what it answers.
    async fn id(&mut self, method: &str, request: &str) -> String {
        text(&self.ok(method, request).await[0], "id")
    }
}

/// Whether a call that goes well has changed something, by its name: whoever adds a call that changes something has it written down.
fn changes(method: &str) -> bool {
    const READS: [&str; 8] = ["Get", "List", "Watch", "Follow", "Explain", "Preview", "Validate", "Verify"];
    !READS.iter().any(|reads| method.starts_with(reads))
}

const CONFIG: &str = r#"job_type: JOB_TYPE_COMMAND manual: true config { text: "{\"command\": \"echo\"}" }"#;

#[tokio::test]
async fn a_generic_client_calls_everything() {
    let world = World::new(Engine::Sqlite).await;
    let server = world.dev(&["--no-demo"]).await;
    let rest = server.rest();
    let client = DynamicClient::reflect(&server.grpc).await;
    let mut caller = Caller { client, called: BTreeSet::new() };

    let job = caller.id("CreateJob", &format!(r#"name: "one" {CONFIG}"#)).await;
    let this = format!(r#"id: "{job}""#);
    jobs(&mut caller, &this, &job).await;
    let run = caller.id("TriggerJob", &this).await;
    rest.finished(&run).await;
    executions(&mut caller, &format!(r#"id: "{run}""#)).await;
    dead_letters(&mut caller, &run).await;
    identity(&mut caller).await;
    secrets(&mut caller).await;
    tenants(&mut caller).await;
    audit(&mut caller).await;
    roles(&mut caller).await;
    scheduler(&mut caller, rest.workers().await[0]["id"].as_str().unwrap()).await;
    caller.ok("StopJob", &this).await;
    caller.refused("TriggerJob", &this, "JOB_INACTIVE").await;
    caller.ok("DeleteJob", &this).await;
    caller.refused("GetJob", &this, "JOB_NOT_FOUND").await;
    assert_eq!(caller.called, caller.client.methods(), "calls that this test leaves out");
}

async fn jobs(caller: &mut Caller, this: &str, job: &str) {
    caller.refused("CreateJob", &format!(r#"name: "one" {CONFIG}"#), "JOB_NAME_TAKEN").await;
    caller.ok("BatchCreateJobs", &format!(r#"jobs {{ name: "two" {CONFIG} }}"#)).await;
    caller.ok("ListJobs", "status: JOB_STATUS_ACTIVE").await;
    caller.ok("GetJob", this).await;
    caller.ok("UpdateJob", &format!(r#"{this} name: "one" description: "changed" max_concurrent: 0 {CONFIG}"#)).await;
    caller.ok("ValidateJob", r#"name: "x" cron_expression: "never" job_type: JOB_TYPE_HTTP"#).await;
    caller.refused("CreateJob", r#"name: "x" cron_expression: "never""#, "INVALID_CRON_EXPRESSION").await;
    caller.ok("BatchTriggerJobs", &format!("triggers {{ {this} }}")).await;
    caller.ok("PauseJob", this).await;
    caller.ok("ResumeJob", this).await;
    caller.ok("PreviewJob", this).await;
    caller.ok("ExplainJob", this).await;
    caller.ok("ListOmissions", &format!(r#"job_id: "{job}""#)).await;
    caller.refused("GetJob", r#"id: "nonsense""#, "INVALID_ID").await;
}

async fn executions(caller: &mut Caller, this: &str) {
    caller.ok("ListExecutions", "trigger_type: TRIGGER_TYPE_MANUAL page_size: 5").await;
    caller.ok("GetExecution", this).await;
    caller.ok("GetExecutionStats", "").await;
    caller.refused("CancelExecution", this, "EXECUTION_ALREADY_FINISHED").await;
    caller.ok("RetryExecution", this).await;
    caller.ok("ExplainExecution", this).await;
    caller.ok("ListExecutionLogs", this).await;
    let seen = caller.ok("WatchExecution", this).await;
    assert_eq!(seen.len(), 1, "one that is over is told once, and then the stream ends");
    caller.ok("FollowExecutionLogs", this).await;
    let nobody = r#"id: "00000000-0000-7000-8000-000000000000""#;
    caller.refused("WatchExecution", nobody, "EXECUTION_NOT_FOUND").await;
}

async fn dead_letters(caller: &mut Caller, run: &str) {
    caller.ok("ListDeadLetters", "state: DEAD_LETTER_STATE_OPEN").await;
    let this = format!(r#"execution_id: "{run}""#);
    for method in ["GetDeadLetter", "DiscardDeadLetter", "ReleaseDeadLetter"] {
        caller.refused(method, &this, "DEAD_LETTER_NOT_FOUND").await;
    }
}

async fn scheduler(caller: &mut Caller, worker: &str) {
    for method in ["GetStatus", "GetMetrics", "ListQueues", "ListWorkers", "GetHealth", "GetReady"] {
        caller.ok(method, "").await;
    }
    let fires = caller.ok("PreviewCron", r#"expression: "0 0 9 * * 1-5" timezone: "Europe/Berlin" count: 3"#).await;
    assert_eq!(fires[0].get_field_by_name("fires").unwrap().as_list().unwrap().len(), 3);
    caller.refused("PreviewCron", r#"expression: "* * *""#, "INVALID_CRON_EXPRESSION").await;
    assert_ne!(text(&caller.ok("ExplainCron", r#"expression: "@daily""#).await[0], "description"), "");
    caller.ok("SetQueue", r#"name: "mail" max_concurrent: 3"#).await;
    caller.refused("SetQueue", r#"name: "" max_concurrent: 3"#, "INVALID_QUEUE").await;
    // In development there is no authority that would let agents in.
    caller.refused("CreateJoinToken", "", "ENROLMENT_DISABLED").await;
    caller.refused("Enroll", r#"join_token: "orj_x""#, "ENROLMENT_DISABLED").await;
    caller.ok("ListAgents", "").await;
    caller.refused("RevokeAgent", r#"id: "00000000-0000-7000-8000-000000000000""#, "AGENT_NOT_FOUND").await;
    caller.ok("DrainWorker", &format!(r#"id: "{worker}""#)).await;
    caller.refused("DrainWorker", r#"id: "00000000-0000-7000-8000-000000000000""#, "WORKER_NOT_FOUND").await;
}

async fn identity(caller: &mut Caller) {
    caller.ok("CreateKey", r#"name: "ci" permissions: "jobs:read""#).await;
    caller.ok("ListKeys", "").await;
    caller.refused("RevokeKey", r#"id: "00000000-0000-7000-8000-000000000000""#, "KEY_NOT_FOUND").await;
    let user = caller.id("CreateUser", r#"name: "anna" password: "correct horse battery""#).await;
    let this = format!(r#"id: "{user}""#);
    for method in ["GetUser", "DisableUser", "EnableUser"] {
        caller.ok(method, &this).await;
    }
    caller.ok("ListUsers", "").await;
    caller.ok("UpdateUser", &format!(r#"{this} roles: "admin""#)).await;
    caller.ok("ResetPassword", &format!(r#"{this} password: "correct horse staple""#)).await;
    let signed = caller.ok("Login", r#"name: "anna" password: "correct horse staple""#).await;
    let refresh = format!(r#"refresh_token: "{}""#, text(&signed[0], "refresh_token"));
    caller.ok("Refresh", &refresh).await;
    caller.refused("Refresh", &refresh, "REFRESH_TOKEN_REUSED").await;
    let signed = caller.ok("Login", r#"name: "anna" password: "correct horse staple""#).await;
    caller.ok("Logout", &format!(r#"refresh_token: "{}""#, text(&signed[0], "refresh_token"))).await;
    caller.ok("GetCaller", "").await;
    caller.refused("ChangePassword", r#"current_password: "x" new_password: "y""#, "WRONG_CREDENTIALS").await;
}

async fn audit(caller: &mut Caller) {
    caller.ok("ListAuditEntries", r#"action: "jobs:*" outcome: AUDIT_OUTCOME_CHANGED page_size: 5"#).await;
    let [newest, _] = caller.written().await;
    assert_eq!(text(&caller.ok("GetAuditEntry", &format!(r#"id: "{newest}""#)).await[0], "id"), newest);
    caller.ok("GetAuditHead", "").await;
    caller.ok("VerifyAudit", "page_size: 100").await;
}

async fn roles(caller: &mut Caller) {
    caller.ok("CreateRole", r#"name: "mailer" permissions: "jobs:trigger""#).await;
    caller.refused("CreateRole", r#"name: "viewer" permissions: "*""#, "INVALID_NAME").await;
    caller.ok("ListRoles", "page_size: 100").await;
    caller.ok("GetRole", r#"name: "viewer""#).await;
    caller.ok("UpdateRole", r#"name: "mailer" permissions: "jobs:read""#).await;
    let somebody = r#"principal_kind: GRANTEE_KIND_USER principal_id: "00000000-0000-7000-8000-000000000000""#;
    let bound = caller.id("CreateRoleBinding", &format!(r#"role: "mailer" tag: "mail" {somebody}"#)).await;
    caller.ok("ListRoleBindings", r#"role: "mailer""#).await;
    caller.refused("DeleteRole", r#"name: "mailer""#, "ROLE_IN_USE").await;
    caller.ok("DeleteRoleBinding", &format!(r#"id: "{bound}""#)).await;
    caller.ok("DeleteRole", r#"name: "mailer""#).await;
}

async fn secrets(caller: &mut Caller) {
    let put = caller.ok("PutSecret", r#"name: "DB_PASSWORD" value: "correct horse battery""#).await;
    assert_eq!(text(&put[0], "name"), "DB_PASSWORD");
    caller.refused("PutSecret", r#"name: "SHORT" value: "x""#, "INVALID_SECRET_VALUE").await;
    caller.ok("ListSecrets", "").await;
    caller.ok("RotateSecrets", "data_keys: true").await;
    caller.ok("DeleteSecret", r#"name: "DB_PASSWORD""#).await;
    caller.refused("DeleteSecret", r#"name: "DB_PASSWORD""#, "SECRET_NOT_FOUND").await;
}

async fn tenants(caller: &mut Caller) {
    let tenant = caller.id("CreateTenant", r#"name: "acme" weight: 2 quotas { max_jobs: 5 }"#).await;
    let this = format!(r#"id: "{tenant}""#);
    caller.refused("CreateTenant", r#"name: "acme""#, "TENANT_NAME_TAKEN").await;
    caller.ok("ListTenants", "page_size: 1").await;
    for method in ["GetTenant", "GetTenantUsage"] {
        caller.ok(method, &this).await;
    }
    caller
        .ok("UpdateTenant", &format!(r#"{this} name: "acme" settings {{ min_sandbox: SANDBOX_LEVEL_PROCESS }}"#))
        .await;
    caller.ok("SuspendTenant", &format!(r#"{this} reason: "unpaid""#)).await;
    caller.ok("ResumeTenant", &this).await;
    let default = r#"id: "00000000-0000-0000-0000-000000000001""#;
    caller.refused("SuspendTenant", default, "DEFAULT_TENANT").await;
    caller.refused("GetTenant", r#"id: "00000000-0000-7000-8000-000000000000""#, "TENANT_NOT_FOUND").await;
}
