use serde_json::json;

use super::{has, with_mark};
use crate::support::{Run, eventually, failed, run, signal, succeeded, supervised, task};

#[tokio::test]
async fn who_leaves_the_group_of_processes_ends_all_the_same() {
    let settings = supervised();
    for level in ["none", "process", "container"] {
        let sandbox = json!({"level": level, "pids": 100});
        if !has(&settings, "a kill of all", sandbox.clone()).await {
            continue;
        }
        let mark = format!("{}.75", 10_000 + std::process::id());
        // A daemon as of old: a session of its own, and a parent that is gone.
        let script = "begun=${TMPDIR:-/tmp}/begun-$1; (setsid sh -c 'setsid sleep \"$0\" & : > \"$1\"; sleep \"$0\"' \"$1\" \"$begun\" \
                      >/dev/null 2>&1 &); until [ -e \"$begun\" ]; do :; done; rm \"$begun\"; echo done";
        let outcome = run(&settings, "shell", json!({"script": script, "args": [mark], "sandbox": sandbox})).await;
        succeeded(&outcome);
        eventually("all are gone", || with_mark(&mark).is_empty()).await;
    }
}

#[tokio::test]
async fn a_killed_supervisor_takes_all_along() {
    let settings = supervised();
    for level in ["process", "container"] {
        let sandbox = json!({"level": level, "pids": 100});
        if !has(&settings, "a killed supervisor", sandbox.clone()).await {
            continue;
        }
        let mark = format!("{}.25", 20_000 + std::process::id());
        let script = "setsid sleep \"$1\" & echo begun; sleep \"$1\"";
        let run = Run::start(&settings, "shell", task(json!({"script": script, "args": [mark], "sandbox": sandbox})));
        assert_eq!(run.log.line().await, "begun");
        let inside = with_mark(&mark);
        assert!(!inside.is_empty());
        let supervisor = supervisor_of(&inside[0]);
        signal(&supervisor, "KILL");
        failed(&run.end().await, orrery_proto::v1::ErrorType::SystemError, &["the supervisor of the process failed"]);
        eventually("all are gone", || with_mark(&mark).is_empty()).await;
    }
}

/// The ancestor that is a supervisor.
fn supervisor_of(pid: &str) -> String {
    let mut pid = pid.to_owned();
    loop {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        if String::from_utf8_lossy(&line).ends_with("\0supervise\0") {
            return pid;
        }
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        pid = stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap().to_owned();
        assert_ne!(pid, "1", "no supervisor");
    }
}
