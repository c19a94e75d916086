//! The real binary, without a server: what it prints, where, and with which exit code.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::Write;
use std::process::{Command, Output, Stdio};

/// Runs `orrery` with nothing of the environment that could change what it does.
fn orrery(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_orrery"));
    command.args(args);
    for name in ["ORRERY_SERVER", "ORRERY_API_KEY", "NO_COLOR", "DATABASE_URL"] {
        command.env_remove(name);
    }
    command
}

fn run(args: &[&str]) -> Output {
    orrery(args).output().unwrap()
}

fn run_with_stdin(args: &[&str], input: &str) -> Output {
    let mut child = orrery(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

/// The lines that `cron next` prints; it must succeed and say nothing on stderr.
fn next(args: &[&str]) -> Vec<String> {
    let output = run(&[&["cron", "next"], args].concat());
    assert_eq!(code(&output), Some(0), "{args:?}: {}", stderr(&output));
    assert_eq!(stderr(&output), "", "{args:?}");
    stdout(&output).lines().map(str::to_owned).collect()
}

/// What is said on stderr where the call must end with a code and print nothing.
fn refused(args: &[&str], exit: i32) -> String {
    let output = run(args);
    assert_eq!(code(&output), Some(exit), "{args:?}: {}", stderr(&output));
    assert_eq!(stdout(&output), "", "{args:?}");
    stderr(&output)
}

#[test]
fn next_prints_instants_in_utc_and_nothing_else() {
    let after = "2026-01-30T00:00:00Z";
    assert_eq!(
        next(&["0 9 * * *", "--after", after, "--count", "3"]),
        ["2026-01-30T09:00:00Z", "2026-01-31T09:00:00Z", "2026-02-01T09:00:00Z"]
    );
    assert_eq!(
        next(&["*/20 * * * * *", "--after", after, "-n", "2"]),
        ["2026-01-30T00:00:20Z", "2026-01-30T00:00:40Z"]
    );
    assert_eq!(next(&["@monthly", "--after", after, "--count", "1"]), ["2026-02-01T00:00:00Z"]);
    assert_eq!(
        next(&["0 12 L * ?", "--after", after, "--count", "2"]),
        ["2026-01-31T12:00:00Z", "2026-02-28T12:00:00Z"]
    );
    assert_eq!(next(&["0", "9", "1", "*", "*", "--after", after, "--count", "1"]), ["2026-02-01T09:00:00Z"]);
}

#[test]
fn next_is_strictly_after_and_five_by_default() {
    assert_eq!(next(&["0 9 * * *", "--after", "2026-01-30T09:00:00Z"]).len(), 5);
    assert_eq!(next(&["0 9 * * *", "--after", "2026-01-30T09:00:00Z", "-n", "1"]), ["2026-01-31T09:00:00Z"]);
    assert_eq!(next(&["0 9 * * *", "--after", "2026-01-30T08:59:59.999Z", "-n", "1"]), ["2026-01-30T09:00:00Z"]);
    assert_eq!(next(&["0 9 * * *", "--after", "2026-01-30T10:00:00+02:00", "-n", "1"]), ["2026-01-30T09:00:00Z"]);
    assert_eq!(next(&["0 9 * * *", "--after", "2026-01-30", "-n", "1"]), ["2026-01-30T09:00:00Z"]);
    assert_eq!(next(&["* * * * *"]).len(), 5);
}

#[test]
fn weekdays_are_those_of_unix() {
    // 2026-01-30 is a Friday.
    let after = ["--after", "2026-01-30T12:00:00Z", "--count", "2"];
    let days = |expression| next(&[&[expression], &after[..]].concat());
    assert_eq!(days("0 0 9 * * 1-5"), ["2026-02-02T09:00:00Z", "2026-02-03T09:00:00Z"]);
    assert_eq!(days("0 9 * * 0"), ["2026-02-01T09:00:00Z", "2026-02-08T09:00:00Z"]);
    assert_eq!(days("0 9 * * 7"), days("0 9 * * 0"));
    assert_eq!(days("0 9 * * SUN"), days("0 9 * * 0"));
    assert_eq!(days("0 9 * * 6"), ["2026-01-31T09:00:00Z", "2026-02-07T09:00:00Z"]);
    assert_eq!(days("0 9 * * 5L"), ["2026-02-27T09:00:00Z", "2026-03-27T09:00:00Z"]);
    assert_eq!(days("0 9 * * 1#1"), ["2026-02-02T09:00:00Z", "2026-03-02T09:00:00Z"]);
}

#[test]
fn a_zone_moves_with_its_clock() {
    let berlin = ["0 9 * * *", "--tz", "Europe/Berlin", "--after", "2026-03-28T00:00:00Z", "-n", "2"];
    assert_eq!(next(&berlin), ["2026-03-28T08:00:00Z", "2026-03-29T07:00:00Z"]);
    // 02:30 does not exist on the 29th, and comes twice on 2026-10-25.
    let gap = ["30 2 * * *", "--tz", "Europe/Berlin", "--after", "2026-03-28T12:00:00Z", "-n", "2"];
    assert_eq!(next(&gap), ["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]);
    let overlap = ["30 2 * * *", "--tz", "Europe/Berlin", "--after", "2026-10-24T12:00:00Z", "-n", "2"];
    assert_eq!(next(&overlap), ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"]);
    let interval = ["*/30 2 * * *", "--tz", "Europe/Berlin", "--after", "2026-10-24T12:00:00Z", "-n", "4"];
    assert_eq!(
        next(&interval),
        ["2026-10-25T00:00:00Z", "2026-10-25T00:30:00Z", "2026-10-25T01:00:00Z", "2026-10-25T01:30:00Z"]
    );
}

#[test]
fn notes_are_printed_only_when_asked_for() {
    let args = ["30 2 * * *", "--tz", "Europe/Berlin", "--after", "2026-03-28T12:00:00Z", "-n", "2"];
    let noted = next(&[&args[..], &["--notes"]].concat());
    let first: Vec<&str> = noted[0].split('\t').collect();
    assert_eq!(first[..2], ["2026-03-29T01:00:00Z", "2026-03-29T03:00:00+02:00"]);
    assert!(first[2].contains("daylight saving"), "{first:?}");
    assert_eq!(noted[1], "2026-03-30T00:30:00Z\t2026-03-30T02:30:00+02:00");
}

#[test]
fn previous_goes_back() {
    let args = ["0 9 * * *", "--previous", "--after", "2026-01-30T09:00:00Z", "-n", "2"];
    assert_eq!(next(&args), ["2026-01-29T09:00:00Z", "2026-01-28T09:00:00Z"]);
    let overlap =
        ["30 2 * * *", "--previous", "--notes", "--tz", "Europe/Berlin", "--after", "2026-10-25T12:00:00Z", "-n", "1"];
    let noted = next(&overlap);
    assert!(noted[0].starts_with("2026-10-25T00:30:00Z\t2026-10-25T02:30:00+02:00\t"), "{noted:?}");
}

#[test]
fn a_schedule_that_ends_prints_what_there_is() {
    let expression = "0 0 9 1 1 * 2030";
    assert_eq!(next(&[expression, "--after", "2026-01-01", "-n", "9"]), ["2030-01-01T09:00:00Z"]);
    let error = refused(&["cron", "next", expression, "--after", "2031-01-01"], 2);
    assert!(error.contains("has no fire after 2031-01-01T00:00:00Z"), "{error}");
    let error = refused(&["cron", "next", expression, "--previous", "--after", "2026-01-01"], 2);
    assert!(error.contains("has no fire before"), "{error}");
}

#[test]
fn what_is_not_valid_ends_with_2() {
    for expression in
        ["", "  ", "* * * *", "60 * * * *", "* * * * * * * *", "a b c d e", "0 9 * * 8", "@never", "*/0 * * * *"]
    {
        let error = refused(&["cron", "next", expression], 2);
        assert!(error.starts_with("error[INVALID_CRON_EXPRESSION]: "), "{expression:?}: {error}");
        refused(&["cron", "explain", expression], 2);
    }
    let error = refused(&["cron", "next", "* * * * *", "--tz", "Mars/Olympus"], 2);
    assert!(error.starts_with("error[INVALID_TIMEZONE]: "), "{error}");
    for args in [["--count", "0"], ["--count", "10001"], ["--count", "x"], ["--after", "soon"], ["--bogus", "1"]] {
        refused(&[&["cron", "next", "* * * * *"], &args[..]].concat(), 2);
    }
    refused(&["cron", "next"], 2);
}

#[test]
fn what_never_fires_ends_with_2() {
    for expression in ["0 0 30 2 *", "0 0 31 4 *", "0 0 0 1 1 * 2020"] {
        let error = refused(&["cron", "next", expression], 2);
        assert!(error.contains("never fires"), "{expression}: {error}");
    }
}

#[test]
fn programs_get_json() {
    let output = run(&["cron", "next", "0 9 * * *", "--after", "2026-01-30", "-n", "1", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!(json["fires"][0]["at"], "2026-01-30T09:00:00Z");
    let error: serde_json::Value = serde_json::from_str(&refused(&["--json", "cron", "next", "x"], 2)).unwrap();
    assert_eq!(error["error"]["code"], "INVALID_CRON_EXPRESSION");
    assert_eq!(error["exitCode"], 2);
    let output = run(&["cron", "explain", "0 9 * * 1-5", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert!(json["description"].as_str().unwrap().contains("Monday to Friday"), "{json}");
}

#[test]
fn explain_speaks_english() {
    let output = run(&["cron", "explain", "0 0 9 * * 1-5"]);
    assert_eq!(code(&output), Some(0));
    assert_eq!(stdout(&output), "At 09:00, on Monday to Friday\n");
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let mut child = orrery(&["cron", "next", "* * * * * *", "--count", "10000", "--notes"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(code(&output), Some(0));
    assert_eq!(stderr(&output), "");
}

#[test]
fn completions_exist_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(&["completions", shell]);
        assert_eq!(code(&output), Some(0), "{shell}");
        assert!(stdout(&output).contains("orrery"), "{shell}");
    }
    refused(&["completions", "dos"], 2);
}

#[test]
fn every_command_has_help() {
    let job =
        ["create", "list", "get", "update", "delete", "validate", "trigger", "pause", "resume", "stop", "next", "why"];
    let execution = ["list", "get", "logs", "cancel", "why", "retry", "watch", "stats"];
    let top = ["dev", "server", "agent", "migrate", "job", "execution", "cron", "status", "key", "completions"];
    let mut commands: Vec<Vec<&str>> = vec![vec![], vec!["agent", "list"], vec!["key", "create"], vec!["cron", "next"]];
    commands.extend(top.map(|name| vec![name]));
    commands.extend(job.map(|name| vec!["job", name]));
    commands.extend(execution.map(|name| vec!["execution", name]));
    for command in commands {
        let output = run(&[&command[..], &["--help"]].concat());
        assert_eq!(code(&output), Some(0), "{command:?}");
        assert!(stdout(&output).contains("Usage: orrery"), "{command:?}");
    }
    assert!(stdout(&run(&["--help"])).contains("Exit codes:"));
    assert!(stdout(&run(&["--version"])).starts_with("orrery "));
    refused(&["job", "explode"], 2);
    refused(&[], 2);
}

#[test]
fn a_server_that_is_not_there_ends_with_6() {
    // A port that was free a moment ago, and that nobody listens on.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = format!("http://127.0.0.1:{port}");
    for args in
        [&["job", "list"][..], &["status"], &["execution", "get", "x"], &["agent", "list"], &["job", "get", "a"]]
    {
        let error = refused(&[&["--server", &server], args].concat(), 6);
        assert!(error.starts_with(&format!("error[UNAVAILABLE]: {server} cannot be reached")), "{error}");
    }
    let error = refused(&["--json", "--server", &server, "job", "list"], 6);
    assert!(error.starts_with('{'), "{error}");
    let output = orrery(&["job", "list"]).env("ORRERY_SERVER", &server).output().unwrap();
    assert_eq!(code(&output), Some(6));
    let error = refused(&["--server", "ftp://x", "job", "list"], 2);
    assert!(error.starts_with("error[INVALID_ENDPOINT]"), "{error}");
}

#[test]
fn a_file_that_cannot_be_used_ends_with_2() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("job.yaml");
    std::fs::write(&path, "name: a\ncron: '* * * * *'\n").unwrap();
    let path = path.to_str().unwrap();
    let error = refused(&["job", "create", "-f", path], 2);
    assert_eq!(error, format!("error[INVALID_FILE]: {path}:2:1: unknown field `cron`; did you mean cronExpression?\n"));
    assert!(refused(&["job", "create", "-f", "/does/not/exist.yaml"], 2).contains("cannot be read"));
    let output = run_with_stdin(&["job", "update", "x", "-f", "-"], "- name: a\n- name: b\n");
    assert_eq!(code(&output), Some(2));
    assert!(stderr(&output).contains("stdin holds 2 definitions"), "{}", stderr(&output));
    refused(&["job", "trigger", "x", "--param", "{"], 2);
}
