//! Contained processes, against the kernel of this host. Each test says by name what it needs; where the host lacks it, the test says so and
//! passes, but fails where `CI=true`.

mod container;
mod functions;
mod leftovers;
mod limits;
mod network;
mod plain_user;
mod process;
mod refusals;
mod system_calls;

use std::path::{Path, PathBuf};

use orrery_agent::executor::ExecutorSettings;
use orrery_sdk::executor::Outcome;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{run, value};

/// Whether this host gives what a test needs, such as `{"level": "container"}`.
pub(super) async fn has(settings: &ExecutorSettings, test: &str, sandbox: Value) -> bool {
    let outcome = run(settings, "command", json!({"command": "true", "sandbox": sandbox})).await;
    let Some(failure) = outcome.failure else { return true };
    let lacks = format!("{test} needs {sandbox}, and this host does not give it: {}", failure.message);
    assert!(failure.message.contains("on this agent: "), "not refused, but failed: {lacks}");
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{lacks}");
    eprintln!("NOT TESTED: {lacks}");
    false
}

/// Whether the tests run as root, which own users need.
pub(super) fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    assert!(root || std::env::var("CI").as_deref() != Ok("true"), "{test} needs root");
    if !root {
        eprintln!("NOT TESTED: {test} needs root");
    }
    root
}

/// Runs a text by `/bin/sh` at a level.
pub(super) async fn shell(settings: &ExecutorSettings, level: &str, script: &str, args: &[&str]) -> Outcome {
    run(settings, "shell", json!({"script": script, "args": args, "sandbox": {"level": level}})).await
}

/// Runs Python source at a level.
pub(super) async fn python(settings: &ExecutorSettings, sandbox: Value, script: &str, args: &[&str]) -> Outcome {
    run(settings, "python", json!({"script": script, "args": args, "sandbox": sandbox})).await
}

pub(super) fn stdout(outcome: &Outcome) -> String {
    value(outcome)["result"]["stdout"].as_str().unwrap().to_owned()
}

/// A directory outside of all sandboxes that any user may read and write, with a file `secret` in it.
pub(super) fn open_to_all() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("outside");
    std::fs::create_dir(&inner).unwrap();
    std::fs::write(inner.join("secret"), "the agent's key").unwrap();
    for (path, mode) in [(dir.path(), 0o755), (&inner, 0o777), (&inner.join("secret"), 0o666)] {
        open(path, mode);
    }
    (dir, inner)
}

pub(super) fn open(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
}

/// Processes whose command line holds a text.
pub(super) fn with_mark(mark: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let pids =
        processes.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name.parse::<u32>().is_ok());
    pids.filter(|pid| {
        let line = std::fs::read(Path::new("/proc").join(pid).join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(mark) && *pid != std::process::id().to_string()
    })
    .collect()
}
