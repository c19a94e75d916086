//! What a tenant's settings say of a definition that is about to be saved. They are asked again whenever it runs, by what is sent with its
//! leases. Pure.

use orrery_agent::egress;
use orrery_proto::v1::JobType;
use orrery_sdk::config::{SandboxLevel, shell_problem};
use serde::Deserialize;

use crate::error::FieldProblem;
use crate::job::JobSpec;
use crate::tenant::Rules;

/// What of a config is bounded.
#[derive(Default, Deserialize)]
struct Bounded {
    #[serde(default)]
    url: Option<String>,
    #[serde(default)]
    sandbox: Option<Sandbox>,
}

#[derive(Deserialize)]
struct Sandbox {
    #[serde(default)]
    level: Option<SandboxLevel>,
}

/// What stands in the way of a definition. `prefix` stands before the names of its fields.
pub(super) fn problems(rules: &Rules, spec: &JobSpec, prefix: &str) -> Vec<FieldProblem> {
    let mut problems = Vec::new();
    let mut add = |field: &str, code, message: String| {
        problems.push(FieldProblem { field: format!("{prefix}{field}"), code, message });
    };
    let job_type = spec.job_type.as_json_str();
    if !rules.shell_allowed
        && let Some((field, _)) = shell_problem(job_type, &spec.config)
    {
        let message = "the tenant may not run shells; give a command job with the program and its args, or have allowShell of the tenant set";
        add(&field, "SHELL_NOT_ALLOWED", message.to_owned());
    }
    let config: Bounded = serde_json::from_str(&spec.config).unwrap_or_default();
    let asked = config.sandbox.and_then(|sandbox| sandbox.level);
    if let Some(level) = asked.filter(|level| *level < rules.min_sandbox) {
        let least = rules.min_sandbox;
        let message = format!("{level} is less than the tenant's minSandbox; give {least}, or leave it out");
        add("config.sandbox.level", "SANDBOX_TOO_LOW", message);
    }
    if spec.job_type == JobType::Http
        && let Some(url) = config.url
    {
        let closed: egress::Rules = rules.egress_deny.iter().filter_map(|rule| rule.parse().ok()).collect();
        if closed.close_url(&url) {
            add(
                "config.url",
                "EGRESS_DENIED",
                "its host is closed by the tenant's egressDeny; call another".to_owned(),
            );
        }
    }
    problems
}
