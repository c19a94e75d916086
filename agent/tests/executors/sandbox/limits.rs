use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use orrery_proto::v1::{ErrorType, LogStream};
use orrery_sdk::executor::{Context, Output, StopReason};
use serde_json::json;

use super::{has, python, stdout, with_mark};
use crate::support::{Run, both, eventually, executor, failed, run, succeeded, supervised, task, value};

#[tokio::test]
async fn a_memory_hog_is_killed_and_told_why() {
    let settings = supervised();
    let hog = "import os\npid = os.fork()\nb = b'x' * (256 << 20) if pid == 0 else os.wait()\nif pid and b[1]: raise SystemExit(9)";
    for level in ["none", "process", "container"] {
        let sandbox = json!({"level": level, "memoryMb": 64});
        if !has(&settings, "a bound of memory", sandbox.clone()).await {
            continue;
        }
        let parts = ["killed at its limit of 64 MiB of memory (config.sandbox.memoryMb)"];
        // By itself, and by a child: the bound is of all together.
        let outcome = python(&settings, sandbox.clone(), "b = b'x' * (256 << 20)", &[]).await;
        failed(&outcome, ErrorType::UserError, &parts);
        let outcome = python(&settings, sandbox.clone(), hog, &[]).await;
        failed(&outcome, ErrorType::UserError, &parts);
        succeeded(&python(&settings, sandbox, "b = b'x' * (16 << 20)", &[]).await);
    }
}

#[tokio::test]
async fn processes_are_counted_together() {
    let settings = supervised();
    let script = r#"
import os, time
children = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(1000)
        children += 1
except BlockingIOError:
    print(children)
"#;
    for level in ["none", "process", "container"] {
        let sandbox = json!({"level": level, "pids": 20});
        if !has(&settings, "a bound of processes", sandbox.clone()).await {
            continue;
        }
        let outcome = python(&settings, sandbox, script, &[]).await;
        succeeded(&outcome);
        assert_eq!(stdout(&outcome), "19\n", "{level}");
    }
}

#[tokio::test]
async fn a_fork_bomb_ends_with_its_execution() {
    let settings = supervised();
    for level in ["none", "process", "container"] {
        let sandbox = json!({"level": level, "pids": 64});
        if !has(&settings, "a fork bomb", sandbox.clone()).await {
            continue;
        }
        let mark = format!("bomb-at-{level}-{}", std::process::id());
        let script = "import os\nprint('begun', flush=True)\nwhile True:\n  try: os.fork()\n  except OSError: pass";
        let config = json!({"script": script, "args": [mark], "sandbox": sandbox});
        let bomb = Run::start(&settings, "python", task(config));
        assert_eq!(bomb.log.line().await, "begun");
        eventually("it is going off", || with_mark(&mark).len() > 10).await;
        assert!(with_mark(&mark).len() <= 70, "more than its limit and what is around it");
        bomb.context.stop(StopReason::Revoked);
        bomb.end().await;
        eventually("all of it is gone", || with_mark(&mark).is_empty()).await;
    }
}

#[tokio::test]
async fn processor_time_is_bounded_by_its_group() {
    let settings = supervised();
    let script = r#"
import os
for line in open("/proc/self/cgroup"):
    _, controllers, path = line.strip().split(":", 2)
    for file in ("/sys/fs/cgroup/cpu%s/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu,cpuacct%s/cpu.cfs_quota_us", "/sys/fs/cgroup%s/cpu.max"):
        file %= path
        if os.path.exists(file) and ("cpu" in controllers.split(",") or not controllers):
            print(open(file).read().split()[0])
"#;
    let sandbox = json!({"cpus": 0.5});
    if has(&settings, "a bound of processor time", sandbox.clone()).await {
        let text = stdout(&python(&settings, sandbox, script, &[]).await);
        assert!(text.lines().any(|line| line == "50000"), "{text}");
    }
}

#[tokio::test]
async fn a_containers_directory_is_bounded() {
    let settings = supervised();
    let sandbox = json!({"level": "container", "tmpMb": 4});
    if !has(&settings, "a bound of the private directory", sandbox.clone()).await {
        return;
    }
    let script = "head -c 3000000 /dev/zero > a && echo first; head -c 3000000 /dev/zero > b || echo full";
    let outcome = run(&settings, "shell", json!({"script": script, "sandbox": sandbox})).await;
    assert_eq!(stdout(&outcome), "first\nfull\n");
}

#[tokio::test]
async fn groups_go_with_their_execution() {
    let settings = supervised();
    let sandbox = json!({"pids": 50});
    if !has(&settings, "control groups", sandbox.clone()).await {
        return;
    }
    let outcome =
        run(&settings, "command", json!({"command": "cat", "args": ["/proc/self/cgroup"], "sandbox": sandbox})).await;
    let text = stdout(&outcome);
    let name = text.split(['/', '\n']).find(|part| part.starts_with("orrery-")).expect("a group of its own").to_owned();
    let find =
        std::process::Command::new("find").args(["/sys/fs/cgroup", "-maxdepth", "8", "-name", &name]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&find.stdout), "", "it is left");
}

/// Counts what others keep.
#[derive(Default)]
struct Counter(AtomicU64);

impl Output for Counter {
    fn log(&self, _: LogStream, data: Bytes) {
        self.0.fetch_add(data.len() as u64, Ordering::Relaxed);
    }

    fn progress(&self, _: i32) {}
}

#[tokio::test]
async fn a_gigabyte_of_output_is_read_and_little_of_it_kept() {
    const GIGABYTE: u64 = 1_000_000_000;
    for settings in both() {
        let config = json!({"command": "head", "args": ["-c", GIGABYTE.to_string(), "/dev/zero"]});
        let counter = Arc::new(Counter::default());
        let outcome = executor(&settings, "command").run(task(config), Context::new(counter.clone())).await;
        succeeded(&outcome);
        assert_eq!(counter.0.load(Ordering::Relaxed), GIGABYTE);
        assert!(outcome.result.as_ref().unwrap().text.len() <= settings.max_result_bytes);
        let result = value(&outcome);
        assert_eq!(
            (&result["result"]["stdoutBytes"], &result["result"]["stdoutTruncated"]),
            (&json!(GIGABYTE), &json!(true))
        );
    }
}
