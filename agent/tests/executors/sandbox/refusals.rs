use std::os::unix::fs::symlink;

use orrery_agent::executor::ExecutorSettings;
use orrery_proto::v1::ErrorType;
use orrery_sdk::config::SandboxLevel;
use serde_json::{Value, json};

use super::{has, stdout};
use crate::support::{Run, failed, run, succeeded, supervised, task, value};

async fn refused(settings: &ExecutorSettings, sandbox: Value, parts: &[&str]) {
    let outcome = run(settings, "command", json!({"command": "true", "sandbox": sandbox})).await;
    failed(&outcome, ErrorType::ValidationError, parts);
    assert_eq!(outcome.result, None);
}

#[tokio::test]
async fn what_cannot_be_enforced_is_refused_with_what_is_lacking() {
    let alone = ExecutorSettings::default();
    let lacks = "cannot be had on this agent: this agent starts its processes without a supervisor";
    refused(&alone, json!({"level": "process"}), &["config.sandbox.level process, which the job asks for", lacks])
        .await;
    refused(&alone, json!({"memoryMb": 64}), &["config.sandbox.memoryMb cannot be enforced on this agent"]).await;
    let mut settings = supervised();
    settings.sandbox.bubblewrap = "/no/such/bwrap".into();
    let lacks = "bubblewrap (/no/such/bwrap) is not installed";
    refused(&settings, json!({"level": "container"}), &["config.sandbox.level container", lacks]).await;
    settings.sandbox.bubblewrap = "false".into();
    refused(&settings, json!({"level": "container"}), &["bubblewrap could not start it"]).await;
    settings.sandbox.pids = Some(10);
    refused(&settings, json!({"pids": 11}), &["config.sandbox.pids is 11, and this agent allows 10 at most"]).await;
    refused(&settings, json!({"tmpMb": 5}), &["config.sandbox.tmpMb needs the level container"]).await;
}

#[tokio::test]
async fn a_tenant_and_an_agent_can_demand_a_level() {
    let mut settings = supervised();
    if !has(&settings, "a level that is demanded", json!({"level": "process"})).await {
        return;
    }
    let mut demanded = task(json!({"command": "true", "sandbox": {"level": "none"}}));
    demanded.sandbox_level = "process".into();
    let outcome = Run::start(&settings, "command", demanded.clone()).end().await;
    assert_eq!(value(&outcome)["metadata"]["sandbox"]["level"], "process");
    // One that only a newer agent knows.
    demanded.sandbox_level = "vm".into();
    let outcome = Run::start(&settings, "command", demanded).end().await;
    failed(&outcome, ErrorType::ValidationError, &["its tenant demands another", "\"vm\" is no sandbox level"]);
    settings.sandbox.level = SandboxLevel::Process;
    let outcome = run(&settings, "command", json!({"command": "true"})).await;
    assert_eq!(value(&outcome)["metadata"]["sandbox"]["level"], "process");
}

#[tokio::test]
async fn who_may_not_run_shells_runs_none() {
    let dir = tempfile::tempdir().unwrap();
    let tool = dir.path().join("tool");
    symlink("/bin/sh", &tool).unwrap();
    let settings = supervised();
    let attempt = async |kind: &'static str, config: Value| {
        let mut task = task(config);
        task.shell_allowed = false;
        Run::start(&settings, kind, task).end().await
    };
    for (kind, config) in [
        ("shell", json!({"script": "echo ran"})),
        ("command", json!({"command": "sh", "args": ["-c", "echo ran"]})),
        ("command", json!({"command": "/usr/bin/env", "args": ["bash", "-ec", "echo ran"]})),
        ("command", json!({"command": tool, "args": ["-c", "echo ran"]})),
    ] {
        let outcome = attempt(kind, config).await;
        failed(&outcome, ErrorType::ValidationError, &["its tenant may not run shells"]);
        assert_eq!(outcome.result, None);
    }
    let outcome = attempt("command", json!({"command": "printf", "args": ["%s", "sh -c x"]})).await;
    succeeded(&outcome);
    assert_eq!(stdout(&outcome), "sh -c x");
}
