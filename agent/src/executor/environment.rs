use std::collections::BTreeMap;
use std::path::Path;

use orrery_sdk::executor::Task;

/// What a process gets of the agent's own environment. Anything else there, such as tokens, is not a job's business.
const INHERITED: [&str; 3] = ["PATH", "LANG", "TZ"];
/// What it gets beside where it is as any process of the agent's user.
const OF_USER: [&str; 3] = ["HOME", "USER", "TMPDIR"];
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// The agent's own PATH.
pub(super) fn path() -> String {
    std::env::var("PATH").unwrap_or_else(|_| DEFAULT_PATH.into())
}

/// The environment of a process that runs a task: of the agent's the least, then the job's, then what it may know of its execution. A
/// contained process has a home of its own.
pub(super) fn environment(task: &Task, own: BTreeMap<String, String>, home: Option<&Path>) -> BTreeMap<String, String> {
    let mut all = BTreeMap::from([("PATH".to_owned(), path())]);
    let inherited = |names: &'static [&'static str]| {
        names.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)))
    };
    all.extend(inherited(&INHERITED));
    match home {
        None => all.extend(inherited(&OF_USER)),
        Some(home) => {
            let home = home.to_string_lossy().into_owned();
            all.extend(["HOME", "TMPDIR"].map(|name| (name.to_owned(), home.clone())));
        }
    }
    all.extend(own);
    let told = [
        ("ORRERY_EXECUTION_ID", Some(task.execution_id.clone())),
        ("ORRERY_JOB_ID", Some(task.job_id.clone())),
        ("ORRERY_JOB_NAME", Some(task.job_name.clone())),
        ("ORRERY_TENANT_ID", Some(task.tenant_id.clone())),
        ("ORRERY_EPOCH", Some(task.epoch.to_string())),
        ("ORRERY_ATTEMPT", Some(task.attempt.to_string())),
        ("ORRERY_SCHEDULED_AT", task.scheduled_at.map(|at| at.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())),
        ("ORRERY_IDEMPOTENCY_KEY", Some(task.idempotency_key.clone())),
        ("ORRERY_PARAMETERS", task.parameters.as_ref().map(|parameters| parameters.text.clone())),
        ("TRACEPARENT", task.traceparent.clone()),
    ];
    all.extend(told.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    all
}
