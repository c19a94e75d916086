use std::time::{Duration, Instant};

use orrery_agent::executor::ExecutorSettings;
use orrery_proto::v1::ErrorType;
use orrery_sdk::executor::StopReason;
use serde_json::json;

use crate::support::{Run, both, eventually, failed, gone, runs, signal, succeeded, supervised, task, value, waits};

const NEVER: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn no_grandchild_outlives_its_parent() {
    for settings in both() {
        let run = Run::start(&settings, "shell", task(json!({"script": "sleep 1000 & echo $!"})));
        let start = Instant::now();
        let grandchild = run.log.line().await;
        let outcome = run.end().await;
        succeeded(&outcome);
        assert!(start.elapsed() < Duration::from_secs(10), "its pipe was waited for");
        eventually("the grandchild is gone", || !runs(&grandchild)).await;
    }
}

#[tokio::test]
async fn who_left_the_group_is_killed_by_a_supervisor_and_not_waited_for_without() {
    for settings in both() {
        // It ends once it is told to, so that the escaped one has surely left the group by then.
        let script = "setsid sh -c 'echo $$; exec sleep 1000' & until [ -e \"$1\" ]; do sleep 0.05; done";
        let flag = tempfile::tempdir().unwrap();
        let path = flag.path().join("go");
        let run = Run::start(&settings, "shell", task(json!({"script": script, "args": [path]})));
        let escaped = run.log.line().await;
        std::fs::write(&path, "").unwrap();
        succeeded(&run.end().await);
        if settings.supervisor.is_some() {
            gone(&escaped).await;
        } else {
            signal(&escaped, "KILL");
        }
    }
}

#[tokio::test]
async fn cancel_lets_it_end_in_good_order() {
    for mut settings in both() {
        settings.grace = NEVER;
        for (reason, message) in
            [(StopReason::Cancelled, "cancelled"), (StopReason::TimedOut, "timed out after 60000 ms")]
        {
            let script = "sleep 1000 & trap 'echo bye; kill $!; exit 0' TERM; echo $!; wait";
            let run = Run::start(&settings, "shell", task(json!({ "script": script })));
            let grandchild = run.log.line().await;
            run.context.stop(reason);
            let outcome = run.end().await;
            failed(&outcome, ErrorType::SystemError, &[message]);
            assert!(value(&outcome)["result"]["stdout"].as_str().unwrap().ends_with("bye\n"), "{outcome:?}");
            assert_eq!(value(&outcome)["success"], false);
            gone(&grandchild).await;
        }
    }
}

#[tokio::test]
async fn after_the_grace_it_is_killed() {
    for mut settings in both() {
        settings.grace = Duration::from_millis(200);
        let script = "trap '' TERM; sleep 1000 & echo $! $$; while :; do wait; done";
        let run = Run::start(&settings, "shell", task(json!({ "script": script })));
        let line = run.log.line().await;
        let start = Instant::now();
        run.context.stop(StopReason::Cancelled);
        let outcome = run.end().await;
        assert!(start.elapsed() >= settings.grace);
        failed(&outcome, ErrorType::SystemError, &["cancelled"]);
        assert_eq!(value(&outcome)["result"]["signal"], 9);
        for pid in line.split(' ') {
            eventually("all are gone", || !runs(pid)).await;
        }
    }
}

#[tokio::test]
async fn a_lost_lease_kills_at_once_also_during_the_grace() {
    for mut settings in both() {
        settings.grace = NEVER;
        for stopping in [false, true] {
            let script = "trap 'echo term' TERM; echo $$; while :; do sleep 0.1; done";
            let run = Run::start(&settings, "shell", task(json!({ "script": script })));
            let pid = run.log.line().await;
            if stopping {
                run.context.stop(StopReason::Cancelled);
                eventually("SIGTERM has arrived", || run.log.stdout().contains("term")).await;
            }
            run.context.stop(StopReason::Revoked);
            run.end().await;
            gone(&pid).await;
        }
    }
}

#[tokio::test]
async fn what_is_stopped_before_it_begins_does_not_begin() {
    let dir = tempfile::tempdir().unwrap();
    for settings in both() {
        let path = dir.path().join("ran");
        let run = Run::start(&settings, "shell", task(json!({"script": "touch \"$1\"", "args": [path]})));
        // On a runtime of one thread the run has not yet begun.
        run.context.stop(StopReason::Cancelled);
        let outcome = run.end().await;
        failed(&outcome, ErrorType::SystemError, &["cancelled"]);
        assert!(!path.exists());
    }
}

#[tokio::test]
async fn dropping_a_run_kills_the_group() {
    for settings in both() {
        let run =
            Run::start(&settings, "shell", task(json!({"script": "trap '' TERM; sleep 1000 & echo $! $$; wait"})));
        let line = run.log.line().await;
        run.outcome.abort();
        for pid in line.split(' ') {
            eventually("all are gone", || !runs(pid)).await;
        }
    }
}

#[test]
fn the_end_of_the_runtime_kills_the_group() {
    for settings in both() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let line = runtime.block_on(async {
            Run::start(&settings, "shell", task(json!({"script": "trap '' TERM; sleep 1000 & echo $! $$; wait"})))
                .log
                .line()
                .await
        });
        drop(runtime);
        let check = tokio::runtime::Runtime::new().unwrap();
        for pid in line.split(' ') {
            check.block_on(eventually("all are gone", || !runs(pid)));
        }
    }
}

#[tokio::test]
async fn a_stopped_supervisor_is_no_way_out() {
    let settings = ExecutorSettings { grace: NEVER, ..supervised() };
    // The supervisor is stopped by its child, most often before it has told of it.
    let script = r#"
        setsid sh -c 'echo $$ > "$1.part"; mv "$1.part" "$1"; exec sleep 1000' sh "$1" &
        kill -STOP $PPID
        until [ -e "$1" ]; do sleep 0.05; done
        echo $PPID $$ $(cat "$1")
        exec sleep 1000"#;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("escaped");
    let run = Run::start(&settings, "shell", task(json!({"script": script, "args": [path]})));
    let line = run.log.line().await;
    run.context.stop(StopReason::Revoked);
    run.end().await;
    for pid in line.split(' ') {
        gone(pid).await;
    }
}

#[tokio::test]
async fn a_killed_supervisor_is_a_system_error_and_leaves_nothing() {
    let run = Run::start(&supervised(), "shell", task(json!({"script": "echo $PPID $$; exec sleep 1000"})));
    let line = run.log.line().await;
    let (supervisor, pid) = line.split_once(' ').unwrap();
    // The process may write before its supervisor has told of it; once that waits for something to happen, it has.
    eventually("the supervisor waits", || waits(supervisor)).await;
    signal(supervisor, "KILL");
    failed(&run.end().await, ErrorType::SystemError, &["the supervisor of the process failed"]);
    eventually("the process is gone", || !runs(pid)).await;
}

#[tokio::test]
async fn a_supervisor_passes_sigterm_on() {
    let run = Run::start(
        &supervised(),
        "shell",
        task(json!({"script": "trap 'exit 5' TERM; echo $PPID; while :; do sleep 0.05; done"})),
    );
    signal(&run.log.line().await, "TERM");
    failed(&run.end().await, ErrorType::UserError, &["exited with code 5"]);
}
