use std::time::Instant;

use orrery_agent::executor::ExecutorSettings;
use orrery_proto::Json;
use orrery_proto::v1::{ErrorType, LogStream};
use serde_json::{Value, json};

use crate::support::{Run, both, executor, failed, run, succeeded, supervised, task, value};

#[tokio::test]
async fn success_has_output_and_exit_code() {
    for settings in both() {
        let outcome = run(
            &settings,
            "command",
            json!({"command": "printf", "args": ["%s|", "a b", "", "$HOME"], "timeout": 5000}),
        )
        .await;
        succeeded(&outcome);
        let expected = json!({"success": true, "result": {"stdout": "a b||$HOME|", "stderr": "", "exitCode": 0}});
        assert_eq!(value(&outcome), expected);
    }
}

#[tokio::test]
async fn an_exit_code_is_a_failure_with_its_output() {
    for settings in both() {
        let outcome =
            run(&settings, "shell", json!({"script": "echo out; echo err >&2; exit $1", "args": ["3"]})).await;
        failed(&outcome, ErrorType::UserError, &["exited with code 3"]);
        let expected = json!({"success": false, "result": {"stdout": "out\n", "stderr": "err\n", "exitCode": 3}});
        assert_eq!(value(&outcome), expected);
    }
}

#[tokio::test]
async fn a_signal_is_a_failure() {
    for settings in both() {
        let outcome = run(&settings, "shell", json!({"command": "kill -9 $$"})).await;
        failed(&outcome, ErrorType::UserError, &["killed by signal 9 (SIGKILL)"]);
        assert_eq!(value(&outcome)["result"]["exitCode"], 137);
        assert_eq!(value(&outcome)["result"]["signal"], 9);
    }
}

#[tokio::test]
async fn what_does_not_start_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("plain"), "no program").unwrap();
    std::fs::write(path("empty"), [0x7f, 0, 0]).unwrap();
    std::fs::set_permissions(path("empty"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let cases = [
        (json!({"command": "no-such-program-here"}), "config.command: \"no-such-program-here\" was not found"),
        (json!({"command": path("plain")}), "permission denied"),
        (json!({"command": path("empty")}), "no executable file"),
        (json!({"command": "true", "workingDirectory": path("none")}), "config.workingDirectory"),
        (json!({"command": "true", "workingDirectory": path("plain")}), "is no directory"),
        (json!({"command": "echo", "args": ["x".repeat(300_000)]}), "too long"),
    ];
    for settings in both() {
        for (config, part) in &cases {
            let outcome = run(&settings, "command", config).await;
            failed(&outcome, ErrorType::ValidationError, &[part]);
            assert_eq!(outcome.result, None);
        }
        let outcome = run(&settings, "python", json!({"file": "none.py", "workingDirectory": path("")})).await;
        failed(&outcome, ErrorType::ValidationError, &["config.file", "none.py"]);
    }
}

#[tokio::test]
async fn the_environment_is_small_and_tells_the_execution() {
    for settings in both() {
        let mut task = task(json!({"command": "env", "environment": {"COLOUR": "blue", "ORRERY_EPOCH": "forged"}}));
        task.parameters = Some(Json::new(r#"{"n": 1.50}"#));
        let outcome = Run::start(&settings, "command", task).end().await;
        let value = value(&outcome);
        let stdout = value["result"]["stdout"].as_str().unwrap();
        for line in [
            "COLOUR=blue",
            "ORRERY_EXECUTION_ID=e-1",
            "ORRERY_JOB_ID=j-1",
            "ORRERY_JOB_NAME=nightly",
            "ORRERY_TENANT_ID=t-1",
            "ORRERY_EPOCH=7",
            "ORRERY_ATTEMPT=2",
            "ORRERY_SCHEDULED_AT=1970-01-01T00:00:00.000Z",
            "ORRERY_IDEMPOTENCY_KEY=key-1",
            r#"ORRERY_PARAMETERS={"n": 1.50}"#,
            "TRACEPARENT=00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert!(stdout.lines().any(|found| found == line), "{line} is not in {stdout}");
        }
        assert!(stdout.lines().any(|line| line.starts_with("PATH=/")), "{stdout}");
        assert!(!stdout.contains("CARGO"), "the agent's own environment leaks: {stdout}");
    }
}

#[tokio::test]
async fn bytes_that_are_no_text_are_kept_or_replaced() {
    for settings in both() {
        let run = Run::start(&settings, "shell", task(json!({"script": r"printf 'a\000b\377c'"})));
        let log = run.log.clone();
        let outcome = run.end().await;
        assert_eq!(log.bytes(LogStream::Stdout), b"a\0b\xffc");
        assert!(outcome.result.as_ref().unwrap().text.contains(r"a\u0000b"));
        assert_eq!(value(&outcome)["result"]["stdout"], "a\0b\u{fffd}c");
    }
}

#[tokio::test]
async fn ten_megabytes_of_output_are_bounded_and_logged_whole() {
    for settings in both() {
        let script = "echo first; head -c 10000000 /dev/zero | tr '\\0' 'é'; echo last; head -c 9 /dev/zero >&2";
        let run = Run::start(&settings, "shell", task(json!({ "script": script })));
        let log = run.log.clone();
        let outcome = run.end().await;
        succeeded(&outcome);
        let logged = log.bytes(LogStream::Stdout).len();
        assert!(logged >= 10_000_011, "{logged}");
        let text = &outcome.result.as_ref().unwrap().text;
        assert!(text.len() <= settings.max_result_bytes, "{}", text.len());
        let value = value(&outcome);
        let stdout = value["result"]["stdout"].as_str().unwrap();
        assert!(stdout.starts_with("first\n") && stdout.ends_with("last\n") && stdout.contains(" bytes cut ...]"));
        assert_eq!(value["result"]["stdoutTruncated"], true);
        assert_eq!(value["result"]["stdoutBytes"], logged);
        assert_eq!(value["result"]["stderr"], "\0".repeat(9));
        assert_eq!(value["result"].get("stderrTruncated"), None);
    }
}

#[tokio::test]
async fn escapes_do_not_burst_the_result() {
    let settings = ExecutorSettings { max_result_bytes: 10_000, ..ExecutorSettings::default() };
    let outcome = run(&settings, "shell", json!({"script": "head -c 60000 /dev/zero"})).await;
    let text = &outcome.result.as_ref().unwrap().text;
    assert!(text.len() <= 10_000 && text.len() > 2_000, "{}", text.len());
    assert_eq!(value(&outcome)["result"]["stdoutBytes"], 60_000);
}

#[tokio::test]
async fn python_runs_a_script_or_a_file() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("-job.py"), "import sys, os; print(os.getcwd(), sys.argv[1:])").unwrap();
    for settings in both() {
        let outcome =
            run(&settings, "python", json!({"script": "import sys; print(sys.argv[1:])", "args": ["-x"]})).await;
        assert_eq!(value(&outcome)["result"]["stdout"], "['-x']\n");
        let config = json!({"file": "-job.py", "args": ["a"], "workingDirectory": dir.path()});
        let outcome = run(&settings, "python", config).await;
        let expected = format!("{} ['a']\n", dir.path().canonicalize().unwrap().display());
        assert_eq!(value(&outcome)["result"]["stdout"], expected);
    }
    let settings = ExecutorSettings { python: "no-such-python".into(), ..ExecutorSettings::default() };
    let outcome = run(&settings, "python", json!({"script": "1"})).await;
    failed(&outcome, ErrorType::ValidationError, &["the agent's python", "no-such-python"]);
}

#[tokio::test]
async fn what_was_used_is_measured() {
    for settings in both() {
        let script = "b = bytearray(80 << 20)\nfor i in range(0, len(b), 4096): b[i] = 1\nsum(range(3_000_000))";
        let outcome = run(&settings, "python", json!({ "script": script })).await;
        succeeded(&outcome);
        let memory = outcome.usage.memory_peak_mb.unwrap();
        assert!((80.0..200.0).contains(&memory), "{memory}");
        assert!(outcome.usage.cpu_time_ms.unwrap() > 10, "{:?}", outcome.usage);
    }
}

#[tokio::test]
async fn many_at_once_do_not_disturb_each_other() {
    for settings in both() {
        let start = Instant::now();
        let runs: Vec<_> = (0..40)
            .map(|n| Run::start(&settings, "shell", task(json!({"script": format!("echo {n}; exit {}", n % 3)}))))
            .collect();
        for (n, run) in runs.into_iter().enumerate() {
            let value = value(&run.end().await);
            assert_eq!(value["result"], json!({"stdout": format!("{n}\n"), "stderr": "", "exitCode": n % 3}));
        }
        println!("40 processes in {:?}", start.elapsed());
    }
}

#[tokio::test]
async fn a_supervisor_that_is_none_is_a_system_error() {
    for supervisor in ["/bin/true", "/no/such/program"] {
        let settings = ExecutorSettings { supervisor: Some(vec![supervisor.into()]), ..supervised() };
        let outcome = run(&settings, "command", json!({"command": "true"})).await;
        failed(&outcome, ErrorType::SystemError, &["supervisor"]);
    }
}

#[tokio::test]
async fn a_wrong_config_never_runs() {
    for name in ["http", "command", "shell", "python"] {
        let outcome =
            executor(&supervised(), name).run(task("[]"), Run::start(&supervised(), name, task("[]")).context).await;
        failed(&outcome, ErrorType::ValidationError, &["config must be a JSON object"]);
    }
    let outcome = run(&supervised(), "command", json!({"command": "true", "shell": true, "args": [1]})).await;
    failed(&outcome, ErrorType::ValidationError, &["config.shell is not a field of command jobs", "config.args"]);
    assert_eq!(outcome.result.map(|json| json.read::<Value>().unwrap()), None);
}
