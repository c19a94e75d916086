//! An agent that is not root, as packages run it: its processes have its own user, and Landlock keeps them from it.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use serde_json::json;

use super::{has, is_root, open, open_to_all, python, stdout};
use crate::support::supervised;

const OUTSIDE: &str = "EXECUTORS_TEST_OUTSIDE";
/// A user without anything.
const NOBODY: u32 = 65534;

#[tokio::test]
async fn its_processes_do_not_reach_it() {
    if !is_root("an agent of another user") {
        return;
    }
    let (_dir, outside) = open_to_all();
    // Copies, since what is built may lie where only its owner looks.
    let program = outside.join("tests");
    let agent = outside.join("orrery-agent");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_orrery-agent"), &agent).unwrap();
    for file in [&program, &agent] {
        open(file, 0o755);
    }
    let done = Command::new(&program)
        .args(["--ignored", "--exact", "sandbox::plain_user::as_nobody", "--nocapture"])
        .env(OUTSIDE, &outside)
        .current_dir(&outside)
        .uid(NOBODY)
        .gid(NOBODY)
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success() && said.contains("1 passed"), "{said}");
}

#[tokio::test]
#[ignore = "started by the other test of this module, as another user"]
async fn as_nobody() {
    let Some(outside) = std::env::var_os(OUTSIDE).map(std::path::PathBuf::from) else { return };
    let mut settings = supervised();
    settings.supervisor = Some(vec![outside.join("orrery-agent").to_str().unwrap().to_owned(), "supervise".into()]);
    let script = r#"
import os, signal, sys
agent, outside = int(sys.argv[1]), sys.argv[2]
def attempt(name, what):
    try:
        what()
        print(name)
    except OSError:
        pass
for pid in (agent, os.getppid()):
    attempt("signal", lambda: os.kill(pid, 0))
    attempt("end", lambda: os.kill(pid, signal.SIGURG))
    for file in ("environ", "mem", "maps", "cmdline"):
        attempt(file, lambda: open(f"/proc/{pid}/{file}", "rb").read(1))
attempt("read", lambda: open(outside + "/secret").read())
attempt("write", lambda: open(outside + "/new", "w"))
attempt("truncate", lambda: os.truncate(outside + "/secret", 0))
print(os.getuid())
"#;
    let args = [std::process::id().to_string(), outside.to_str().unwrap().to_owned()];
    let args = [args[0].as_str(), args[1].as_str()];
    if has(&settings, "an agent that is not root", json!({"level": "process"})).await {
        let text = stdout(&python(&settings, json!({"level": "process"}), script, &args).await);
        assert_eq!(text, format!("{NOBODY}\n"));
    }
    let text = stdout(&python(&settings, json!({"level": "none"}), script, &args).await);
    assert!(
        text.contains("signal\n") && text.contains("read\n") && text.contains("write\n"),
        "the tries are real: {text}"
    );
    if has(&settings, "a container of an agent that is not root", json!({"level": "container"})).await {
        let text = stdout(&python(&settings, json!({"level": "container", "network": false}), script, &args).await);
        assert!(!text.contains("read\n") && !text.contains("write\n") && !text.contains("truncate\n"), "{text}");
    }
}
