use orrery_proto::v1::ErrorType;
use orrery_sdk::executor::StopReason;
use serde_json::json;

use super::{has, shell, stdout};
use crate::support::{Run, failed, run, supervised, task, value};

const CONTAINER: &str = "container";

async fn is_there(test: &str) -> bool {
    has(&supervised(), test, json!({"level": CONTAINER})).await
}

#[tokio::test]
async fn it_has_a_world_of_its_own() {
    if !is_there("namespaces").await {
        return;
    }
    let script = "hostname; ls /proc | grep -c '^[0-9]'; ls / | tr '\\n' ' '; echo; ls -A /tmp /run/orrery; ls /dev | grep -c sd; \
                  touch /new /usr/new /etc/new 2>/dev/null; mount -t tmpfs none /mnt 2>/dev/null; unshare -U true 2>/dev/null; cat /etc/shadow \
                  2>/dev/null; ls -l /proc/self/fd | grep -c socket; true";
    let text = stdout(&shell(&supervised(), CONTAINER, script, &[]).await);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "orrery", "{text}");
    assert!(lines[1].parse::<u32>().unwrap() < 10, "processes of the host are to be seen: {text}");
    for hidden in ["root", "home", "var ", "boot", "mnt", "srv"] {
        assert!(!lines[2].contains(hidden), "{hidden}: {text}");
    }
    assert_eq!(
        lines[3..],
        ["/run/orrery:", "", "/tmp:", "0", "0"],
        "something is there, made, read or handed on: {text}"
    );
}

#[tokio::test]
async fn exit_codes_and_what_is_missing_are_told() {
    if !is_there("exit codes").await {
        return;
    }
    let settings = supervised();
    for code in [1, 3] {
        let outcome = shell(&settings, CONTAINER, &format!("echo out; exit {code}"), &[]).await;
        failed(&outcome, ErrorType::UserError, &[&format!("exited with code {code}")]);
        assert_eq!(value(&outcome)["result"]["stdout"], "out\n");
    }
    for program in ["no-such-program-here", "/no/such/program"] {
        let outcome = run(&settings, "command", json!({"command": program, "sandbox": {"level": CONTAINER}})).await;
        failed(&outcome, ErrorType::ValidationError, &["config.command", "was not found"]);
    }
}

#[tokio::test]
async fn it_is_asked_to_end_before_it_is_killed() {
    if !is_there("an end in good order").await {
        return;
    }
    let script = "trap 'echo bye; exit 0' TERM; echo begun; while :; do sleep 0.01; done";
    let run = Run::start(&supervised(), "shell", task(json!({"script": script, "sandbox": {"level": CONTAINER}})));
    assert_eq!(run.log.line().await, "begun");
    run.context.stop(StopReason::Cancelled);
    let log = run.log.clone();
    failed(&run.end().await, ErrorType::SystemError, &["cancelled"]);
    assert_eq!(log.stdout(), "begun\nbye\n");
}

#[tokio::test]
async fn the_environment_is_not_bubblewraps() {
    if !is_there("the environment").await {
        return;
    }
    let config = json!({
        "script": "echo \"$A|$LD_PRELOAD|$HOME\"; env | grep -c CARGO; true",
        "environment": {"A": "b\nc", "LD_PRELOAD": "/no/such.so"},
        "sandbox": {"level": CONTAINER},
    });
    let outcome = run(&supervised(), "shell", config).await;
    assert_eq!(stdout(&outcome), "b\nc|/no/such.so|/tmp\n0\n");
    let stderr = value(&outcome)["result"]["stderr"].as_str().unwrap().to_owned();
    assert!(!stderr.contains("bwrap"), "it was loaded into bubblewrap: {stderr}");
}
