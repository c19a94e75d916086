use std::sync::Arc;

use orrery_proto::v1::LogStream;
use orrery_sdk::executor::Context;
use serde_json::json;

use super::{has, is_root, open, open_to_all, python, shell, stdout};
use crate::support::{Recorder, Run, executor, failed, run, succeeded, supervised, task, value};

const METACHARACTERS: [&str; 18] = [
    "",
    " ",
    "a b",
    "$HOME",
    "$(touch pwned)",
    "`touch pwned`",
    ";id",
    "&& id",
    "| cat",
    "> out",
    "*",
    "~",
    "'\"'\"'",
    "\\",
    "\n\t\r",
    "--",
    "-n",
    "ü€😀\u{1}\u{7f}",
];

#[tokio::test]
async fn argv_arrives_byte_for_byte_at_every_level() {
    let settings = supervised();
    for level in ["none", "process", "container"] {
        if !has(&settings, "argv at a level", json!({"level": level})).await {
            continue;
        }
        let args: Vec<&str> = ["%s\\0"].iter().chain(&METACHARACTERS).copied().collect();
        let config = json!({"command": "printf", "args": args, "sandbox": {"level": level}});
        let run = Run::start(&settings, "command", task(config));
        let log = run.log.clone();
        succeeded(&run.end().await);
        let expected: Vec<u8> = METACHARACTERS.iter().flat_map(|arg| [arg.as_bytes(), b"\0"].concat()).collect();
        assert_eq!(log.bytes(LogStream::Stdout), expected, "{level}");
    }
}

#[tokio::test]
async fn nothing_outside_of_it_can_be_written_or_read() {
    let settings = supervised();
    let (_dir, outside) = open_to_all();
    let tries = r#"
        cd "$1" 2>/dev/null
        for try in 'echo x > "$1/new"' 'echo x >> "$1/secret"' ': > "$1/secret"' 'cat "$1/secret"' 'rm "$1/secret"' \
            'mv "$1/secret" "$1/moved"' 'ln "$1/secret" "$TMPDIR/hard"' 'ln -s /etc "$1/link"' 'mkdir "$1/dir"' 'ls "$1"' \
            'cp "$1/secret" "$TMPDIR/copy"' 'chmod 0 "$1/secret"; cat "$1/secret"' 'mkfifo "$1/pipe"' \
            'echo x > /dev/shm/orrery-test' 'echo x > /var/tmp/orrery-test' 'cat secret' 'ls /root' 'ls /home' 'ls /'; do
            if sh -c "$try" sh "$1" >/dev/null 2>&1; then echo "DONE: $try"; fi
        done"#;
    for level in ["process", "container"] {
        if !has(&settings, "files of the host", json!({"level": level})).await {
            continue;
        }
        let outcome = shell(&settings, level, tries, &[outside.to_str().unwrap()]).await;
        let done = stdout(&outcome);
        // A container has a root and shared memory of its own, where others see nothing.
        let own = ["DONE: ls /", "DONE: echo x > /dev/shm/orrery-test"];
        let done: Vec<&str> = done.lines().filter(|line| level == "process" || !own.contains(line)).collect();
        assert_eq!(done, [""; 0], "{level}");
        assert_eq!(std::fs::read_to_string(outside.join("secret")).unwrap(), "the agent's key");
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
    }
    assert!(
        !std::path::Path::new("/dev/shm/orrery-test").exists()
            && !std::path::Path::new("/var/tmp/orrery-test").exists()
    );
    // The same does get through where nothing is in its way: the tries are real ones.
    let outcome = shell(&settings, "none", tries, &[outside.to_str().unwrap()]).await;
    assert!(stdout(&outcome).lines().count() > 10, "{}", stdout(&outcome));
    for left in ["/dev/shm/orrery-test", "/var/tmp/orrery-test"] {
        std::fs::remove_file(left).unwrap();
    }
}

#[tokio::test]
async fn its_directory_is_its_own_and_goes() {
    let settings = supervised();
    for level in ["process", "container"] {
        if !has(&settings, "a private directory", json!({"level": level})).await {
            continue;
        }
        let script = "pwd; echo $HOME; echo $TMPDIR; ls -A; echo kept > file; cat file; stat -c %a . ; mount --version >/dev/null";
        for _ in 0..2 {
            let text = stdout(&shell(&settings, level, script, &[]).await);
            let lines: Vec<&str> = text.lines().collect();
            let [pwd, home, tmp, file, mode] = lines.as_slice() else {
                panic!("not empty, or not to be written: {text}")
            };
            assert!(pwd == home && home == tmp && *file == "kept" && *mode == "700", "{text}");
            assert!(level == "container" || !std::path::Path::new(pwd).exists(), "{pwd} is left");
        }
    }
}

#[tokio::test]
async fn it_has_a_user_no_rights_and_no_way_to_more() {
    let settings = supervised();
    for level in ["process", "container"] {
        if !has(&settings, "users and rights", json!({"level": level})).await {
            continue;
        }
        let config = json!({"command": "cat", "args": ["/proc/self/status"], "sandbox": {"level": level}});
        let status = stdout(&run(&settings, "command", config).await);
        let field = |name: &str| {
            let line =
                status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name} in {status}"));
            line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(field("NoNewPrivs:"), ["1"], "{level}");
        assert_eq!(field("Seccomp:"), ["2"], "{level}");
        for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
            assert_eq!(field(set), ["0000000000000000"], "{level} {set}");
        }
        if is_root("a user of its own") {
            let users = field("Uid:");
            assert!(
                users.iter().all(|user| (60578..=61183).contains(&user.parse::<u32>().unwrap())),
                "{level} {users:?}"
            );
            assert_eq!(users, field("Gid:"));
            assert!(field("Groups:").iter().all(|group| *group == users[0] || group == "65534"), "{status}");
        }
    }
}

#[tokio::test]
async fn two_at_once_are_two_users_and_cannot_reach_each_other() {
    let settings = supervised();
    if !is_root("two users") || !has(&settings, "two users", json!({"level": "process"})).await {
        return;
    }
    // Both by one agent, which gives each a user of its own.
    let agent = executor(&settings, "shell");
    let start = |config: serde_json::Value| {
        let log = Arc::new(Recorder::default());
        let context = Context::new(log.clone());
        let (agent, given) = (agent.clone(), context.clone());
        let outcome = tokio::spawn(async move { agent.run(task(config), given).await });
        Run { log, context, outcome }
    };
    let first = start(json!({"script": "echo $$ $HOME $(id -u); sleep 1000", "sandbox": {"level": "process"}}));
    let line = first.log.line().await;
    let [pid, home, user] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
    let reach =
        r#"id -u; kill -0 "$1" && echo KILL; cat "/proc/$1/cmdline" && echo CMDLINE; ls "$2" && echo HOME; true"#;
    let second = start(json!({"script": reach, "args": [pid, home], "sandbox": {"level": "process"}}));
    let text = stdout(&second.end().await);
    assert_ne!(text.trim(), user);
    assert_eq!(text.lines().count(), 1, "{text}");
    first.context.stop(orrery_sdk::executor::StopReason::Revoked);
    first.end().await;
}

#[tokio::test]
async fn the_agents_environment_and_processes_are_out_of_sight() {
    let settings = supervised();
    let agent = std::process::id().to_string();
    let script = r#"
import glob, os, sys
agent = sys.argv[1]
seen = [name for name in os.environ if name.startswith("CARGO")]
for pid in (agent, str(os.getppid()), "1"):
    # Of a container's own first process there is nothing to hide.
    if pid == "1" and sys.argv[2] == "container" or pid == "0":
        continue
    for file in ("environ", "cmdline", "maps", "mem", "status", "stat", "fd", "cwd", "root", "exe", "task", "stack"):
        path = f"/proc/{pid}/{file}"
        try:
            os.listdir(path) if file in ("fd", "task", "cwd", "root") else open(path, "rb").read(1)
            seen.append(path)
        except OSError:
            pass
print(seen)
"#;
    for level in ["process", "container"] {
        if !has(&settings, "other processes", json!({"level": level})).await {
            continue;
        }
        let outcome = python(&settings, json!({"level": level}), script, &[&agent, level]).await;
        let seen = stdout(&outcome);
        // Its own parent in a container is the container's first process.
        let inside = level == "container" && seen.contains("/proc/1/");
        assert!(seen == "[]\n" || inside, "{level}: {seen}");
        assert!(!seen.contains(&format!("/proc/{agent}/")), "{seen}");
    }
    // The tries are real ones.
    let open = stdout(&python(&settings, json!({"level": "none"}), script, &[&agent, "none"]).await);
    assert!(open.contains(&format!("/proc/{agent}/environ")), "{open}");
    assert!(!open.contains("CARGO"), "{open}");
}

#[tokio::test]
async fn what_the_agent_opens_is_open_and_what_is_its_own_is_not() {
    let (_dir, outside) = open_to_all();
    std::fs::create_dir(outside.join("data")).unwrap();
    std::fs::write(outside.join("data/key"), "join key").unwrap();
    std::fs::create_dir(outside.join("shared")).unwrap();
    for (path, mode) in [("data", 0o777), ("data/key", 0o666), ("shared", 0o777)] {
        open(&outside.join(path), mode);
    }
    let mut settings = supervised();
    settings.sandbox.readable = vec![outside.clone()];
    settings.sandbox.writable = vec![outside.join("shared")];
    settings.sandbox.hidden = vec![outside.join("data")];
    let script =
        r#"cat "$1/secret"; cat "$1/data/key"; ls "$1/data"; echo new > "$1/shared/new"; echo x > "$1/more"; true"#;
    for level in ["process", "container"] {
        if !has(&settings, "opened files", json!({"level": level})).await {
            continue;
        }
        let outcome = shell(&settings, level, script, &[outside.to_str().unwrap()]).await;
        assert_eq!(stdout(&outcome), "the agent's key", "{level}");
        assert_eq!(std::fs::read_to_string(outside.join("shared/new")).unwrap(), "new\n");
        std::fs::remove_file(outside.join("shared/new")).unwrap();
        assert!(!outside.join("more").exists());
        let at = |directory: &std::path::Path| json!({"command": "pwd", "workingDirectory": directory, "sandbox": {"level": level}});
        let outcome = run(&settings, "command", at(&outside.join("shared"))).await;
        assert_eq!(stdout(&outcome).trim(), outside.join("shared").canonicalize().unwrap().to_str().unwrap());
        let outcome = run(&settings, "command", at(&outside.join("data"))).await;
        failed(&outcome, orrery_proto::v1::ErrorType::ValidationError, &["config.workingDirectory", "--sandbox-read"]);
    }
}

#[tokio::test]
async fn the_result_says_how_it_was_contained() {
    let settings = supervised();
    if !has(&settings, "metadata", json!({"level": "process"})).await {
        return;
    }
    let outcome = shell(&settings, "process", "true", &[]).await;
    let sandbox = &value(&outcome)["metadata"]["sandbox"];
    assert_eq!((&sandbox["level"], &sandbox["network"]), (&json!("process"), &json!(true)), "{sandbox}");
    let outcome = shell(&settings, "none", "true", &[]).await;
    assert_eq!(value(&outcome).get("metadata"), None);
}
