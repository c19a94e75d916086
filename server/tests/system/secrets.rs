//! Secrets from end to end: a job has them, and nobody else does.

use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::engine::Engine;
use crate::rest::{Rest, list};
use crate::target::Target;
use crate::wait::{SOON, until};
use crate::world::{Server, World};

/// Told apart by nothing but themselves, with what encoders escape.
pub(crate) const CANARY: &str = "kX9-canary \"7&Q\"/zP+w";
const SENSITIVE: &str = "sensitive-canary-8Jm2";
pub(crate) const KEY: &str = "first:MDEyMzQ1Njc4OWFiY2RlZmdoaWprbG1ub3BxcnN0dXY=";

on_each_engine!(a_canary_reaches_its_job_and_nothing_else, what_is_missing_fails_the_attempt_in_so_many_words);

/// Every form of a value that is looked for.
fn forms(value: &str) -> Vec<Vec<u8>> {
    let bytes = value.as_bytes();
    let escaped = json!(value).to_string();
    let twice = json!(escaped).to_string();
    [
        value.to_owned(),
        escaped[1..escaped.len() - 1].to_owned(),
        twice[3..twice.len() - 3].to_owned(),
        STANDARD.encode(bytes).trim_end_matches('=').to_owned(),
        bytes.iter().map(|byte| format!("%{byte:02X}")).collect(),
        bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        // PostgreSQL writes bytes so.
        format!("\\\\x{}", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
    ]
    .map(String::into_bytes)
    .to_vec()
}

pub(crate) fn assert_without(what: &str, bytes: &[u8]) {
    for form in [CANARY, SENSITIVE].into_iter().flat_map(forms) {
        let found = bytes.windows(form.len()).any(|part| part == form);
        assert!(!found, "{:?} is in {what}", String::from_utf8_lossy(&form));
    }
}

/// All files under a directory: what processes printed, their journals, and the database where it is a file.
fn assert_no_file_holds_it(directory: &Path) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            assert_no_file_holds_it(&path);
        } else if let Ok(bytes) = std::fs::read(&path) {
            assert_without(&path.display().to_string(), &bytes);
        }
    }
}

/// A server and an agent that say all they can say.
async fn system(world: &World) -> (Server, Option<crate::process::Process>) {
    if world.is_sqlite() {
        return (world.dev(&["--no-demo", "--log-level", "debug"]).await, None);
    }
    let server = world.server(&[("ORRERY_ENCRYPTION_KEY", KEY), ("LOG_LEVEL", "debug")]).await;
    let agent = world.agent("a", &[&server], &["--log-level", "debug"]).await;
    (server, Some(agent))
}

/// Prints its canary in every way, in pieces with pauses, and fails with it.
const PRINTER: &str = r#"
import base64, json, os, sys, time, urllib.parse
value = os.environ['CANARY']
print('plain', value)
print('quoted', json.dumps({'v': value}), repr(value), urllib.parse.quote(value), urllib.parse.quote_plus(value))
print('base64', base64.b64encode(value.encode()).decode(), base64.b64encode(('user:' + value).encode()).decode())
print('wrapped', base64.encodebytes((value * 5).encode()).decode(), value.encode().hex())
for stream in (sys.stdout, sys.stderr):
    for letter in value:
        stream.write(letter); stream.flush(); time.sleep(0.002)
    stream.write('\n')
print('args', sys.argv[1])
print('sensitive', os.environ['SENSITIVE'])
print('ok' if len(value) == int(os.environ['LENGTH']) else 'not the value')
raise ValueError('failed with ' + value)
"#;

/// What an execution has printed, one stream after the other: pieces of lines of both come in any order.
async fn log_of(rest: &Rest, execution: &str) -> String {
    let text = async || {
        let entries = list(&rest.get(&format!("/executions/{execution}/logs?pageSize=1000")).await.ok(), "entries");
        let of = |stream: &str| {
            let pieces = entries.iter().filter(|entry| entry["stream"] == stream);
            pieces.map(|entry| entry["text"].as_str().unwrap()).collect::<String>()
        };
        of("stdout") + &of("stderr")
    };
    until("the log has its end", SOON, async || Some(text().await).filter(|text| text.contains("ValueError"))).await
}

async fn a_canary_reaches_its_job_and_nothing_else(world: World) {
    let (server, _agent) = system(&world).await;
    let rest = server.rest();
    rest.put("/secrets/CANARY", json!({"value": CANARY})).await.ok();
    let environment = json!({"CANARY": "${secret:CANARY}", "SENSITIVE": SENSITIVE, "LENGTH": CANARY.len().to_string()});
    let config = json!({"script": PRINTER, "args": ["--password=${secret:CANARY}"], "environment": environment});
    let definition = json!({"name": "printer", "manual": true, "jobType": "python", "config": config, "sensitive": ["environment.SENSITIVE"]});
    let made = rest.post("/jobs", definition).await;
    let job = crate::rest::id(&made.ok());
    let run = rest.run(&job).await;
    assert_eq!((&run["status"], &run["errorType"]), (&json!("failed"), &json!("USER_ERROR")), "{run:#}");
    let log = log_of(&rest, run["id"].as_str().unwrap()).await;
    assert!(log.contains("ok\n"), "the job had its value: {log}");
    assert!(
        log.contains("plain ***\n") && log.contains("args --password=***\n") && log.contains("sensitive ***\n"),
        "{log}"
    );
    assert!(run["result"]["result"]["stdout"].as_str().unwrap().contains("plain ***"), "{run:#}");

    // A sensitive script is put back whole, and its lines are as secret as it is.
    let script = format!("A={SENSITIVE}\ntest ${{#A}} = {}\n", SENSITIVE.len());
    let definition = json!({"name": "hidden", "manual": true, "jobType": "shell", "config": {"script": script}, "sensitive": ["script"]});
    let hidden = rest.run(&crate::rest::id(&rest.post("/jobs", definition).await.ok())).await;
    assert_eq!(hidden["status"], "completed", "{hidden:#}");

    // What a target hears is the value; what it answers with is none.
    let target = Target::answering(|_, arrival| arrival.body.clone()).await;
    let body = json!({"token": "${secret:CANARY}"});
    let http =
        json!({"url": target.url("/hook"), "method": "POST", "headers": {"X-Token": "${secret:CANARY}"}, "body": body});
    let heard = rest.run(&rest.create_manual("http", "http", http).await).await;
    let arrival = target.after(1, SOON).await.remove(0);
    assert_eq!((arrival.header("x-token"), arrival.text()), (CANARY, json!({"token": CANARY}).to_string().as_str()));
    assert_eq!(heard["result"]["result"], json!({"token": "***"}), "{heard:#}");

    let shown = [made.text, run.to_string(), heard.to_string(), log];
    for (what, text) in ["the job", "the result", "the answer", "the log"].iter().zip(&shown) {
        assert_without(what, text.as_bytes());
    }
    for path in ["/jobs", "/secrets", "/executions?pageSize=100", &format!("/jobs/{job}/explain")] {
        assert_without(path, rest.get(path).await.text.as_bytes());
    }
    assert_without("the database", &world.dump());
    assert_no_file_holds_it(world.directory());
}

async fn what_is_missing_fails_the_attempt_in_so_many_words(world: World) {
    let (server, _agent) = system(&world).await;
    let rest = server.rest();
    rest.put("/secrets/GONE", json!({"value": CANARY})).await.ok();
    let config = json!({"command": "true", "environment": {"X": "${secret:GONE}"}});
    let job = rest.create_manual("needs-it", "command", config).await;
    let well = rest.run(&job).await;
    assert_eq!(well["status"], "completed", "{well:#}");
    rest.delete("/secrets/GONE").await.ok();
    let run = until("the deletion is noticed", SOON, async || {
        let run = rest.run(&job).await;
        Some(run).filter(|run| run["status"] == "failed")
    })
    .await;
    assert_eq!(run["errorType"], "VALIDATION_ERROR", "{run:#}");
    let message = run["errorMessage"].as_str().unwrap();
    assert!(message.contains("config.environment.X") && message.contains("no secret GONE"), "{message}");
    // Neither its place nor its slot is lost.
    let others = rest.create_manual("other", "command", json!({"command": "true"})).await;
    for _ in 0..6 {
        assert_eq!(rest.run(&others).await["status"], "completed");
    }
    rest.put("/secrets/GONE", json!({"value": CANARY})).await.ok();
    assert_eq!(rest.run(&job).await["status"], "completed", "and it runs again once it is there");
}

/// A server that is set up so does not start, and says why without showing a key.
async fn refused(world: &World, environment: &[(&str, &str)], told: &str) {
    let mut process = world.start_server(environment);
    let status = process.ended(SOON).await;
    let text = process.stderr();
    assert_eq!(status.code(), Some(2), "{environment:?}: {text}");
    assert!(text.contains(told), "{told:?} is not in: {text}");
    for (_, value) in environment {
        assert!(value.len() < 8 || value.starts_with('/') || !text.contains(value), "{text}");
    }
}

#[tokio::test]
async fn encryption_that_is_off_or_broken_stops_the_start() {
    let world = World::new(Engine::Sqlite).await;
    let missing = world.path("none.key").display().to_string();
    let cases: [(&[(&str, &str)], &str); 5] = [
        (&[("ORRERY_ENCRYPTION_KEY", "")], "is empty"),
        (&[("ORRERY_ENCRYPTION_KEY", "off")], "key 1 is none"),
        (&[("ORRERY_ENCRYPTION_KEY", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")], "repeats"),
        (&[("ORRERY_ENCRYPTION_KEY_FILE", missing.as_str())], "cannot be read"),
        (&[("ORRERY_ENCRYPTION_KEY", KEY), ("ORRERY_ENCRYPTION_KEY_FILE", missing.as_str())], "both given"),
    ];
    for (environment, told) in cases {
        refused(&world, environment, told).await;
    }
    // Without a key all else works, and the first use of a secret says what is missing.
    let mut server = world.server(&[]).await;
    let error =
        server.rest().put("/secrets/A", json!({"value": CANARY})).await.refused(409, "ENCRYPTION_NOT_CONFIGURED");
    assert!(error["message"].as_str().unwrap().contains("ORRERY_ENCRYPTION_KEY"), "{error}");
    let mut definition =
        json!({"name": "a", "manual": true, "jobType": "command", "config": {"command": "true", "args": [SENSITIVE]}});
    definition["sensitive"] = json!(["args.0"]);
    server.rest().post("/jobs", definition).await.refused(409, "ENCRYPTION_NOT_CONFIGURED");
    server.process.kill();
    let mut server = world.server(&[("ORRERY_ENCRYPTION_KEY", KEY)]).await;
    server.rest().put("/secrets/A", json!({"value": CANARY})).await.ok();
    server.process.kill();
    refused(&world, &[], "the database holds secrets, under the key first").await;
    let other = KEY.replace("first", "other");
    refused(
        &world,
        &[("ORRERY_ENCRYPTION_KEY", other.as_str())],
        "under the key first, which is not among those given",
    )
    .await;
    let changed = KEY.replace("MDEy", "NDEy");
    refused(&world, &[("ORRERY_ENCRYPTION_KEY", changed.as_str())], "is not the one of that id").await;
}

/// The key file of a running server is changed, and the old key taken away.
#[tokio::test]
async fn the_key_of_a_deployment_is_changed_while_it_runs() {
    let world = World::new(Engine::Postgres).await;
    let file = world.path("keys");
    std::fs::write(&file, KEY).unwrap();
    let path = file.display().to_string();
    let setting = [("ORRERY_ENCRYPTION_KEY_FILE", path.as_str())];
    let (one, two) = (world.server(&setting).await, world.server(&setting).await);
    let _agent = world.agent("a", &[&two], &[]).await;
    let rest = one.rest();
    rest.put("/secrets/A", json!({"value": CANARY})).await.ok();
    let length = format!("test ${{#A}} = {}", CANARY.len());
    let config = json!({"command": "sh", "args": ["-c", length], "environment": {"A": "${secret:A}"}});
    let job = rest.create_manual("a", "command", config).await;
    assert_eq!(rest.run(&job).await["status"], "completed");

    let new = "second:QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY=";
    std::fs::write(&file, format!("{new}\n{KEY}\n")).unwrap();
    let rotated: Value = rest.post("/secrets/rotate", json!({})).await.ok();
    assert_eq!((&rotated["keyId"], &rotated["retiredKeys"]), (&json!("second"), &json!(["first"])), "{rotated}");
    // The other server has not been told, and reads the file when it meets the key.
    let run = until("what it knew is forgotten", SOON, async || {
        let run = rest.run(&job).await;
        two.process.stderr().contains("was read again").then_some(run)
    })
    .await;
    assert_eq!(run["status"], "completed", "{run:#}");
    drop((one, two));
    let alone = world.server(&[("ORRERY_ENCRYPTION_KEY", new)]).await;
    alone.rest().get("/secrets").await.ok();
    assert_without("the new key's database", &world.dump());
}

#[tokio::test]
async fn the_command_line_puts_lists_and_deletes() {
    let world = World::new(Engine::Sqlite).await;
    let server = world.dev(&["--no-demo"]).await;
    let orrery = |args: &[&str], input: &[u8]| {
        let file = world.path("input");
        std::fs::write(&file, input).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_orrery"));
        command.args(args).env_clear().env("ORRERY_SERVER", &server.grpc).stdin(std::fs::File::open(&file).unwrap());
        let output = command.output().unwrap();
        std::fs::remove_file(&file).unwrap();
        assert_without("the command's output", &[output.stdout.as_slice(), &output.stderr].concat());
        (output.status.code(), String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = orrery(&["secret", "put", "A"], format!("{CANARY}\n").as_bytes());
    assert_eq!((code, said.as_str()), (Some(0), "secret A is at version 1\n"));
    let config =
        json!({"command": "sh", "args": ["-c", "printf %s \"$A\" | wc -c"], "environment": {"A": "${secret:A}"}});
    let run = server.rest().run(&server.rest().create_manual("a", "command", config).await).await;
    assert_eq!(
        run["result"]["result"]["stdout"].as_str().unwrap().trim(),
        CANARY.len().to_string(),
        "without the line's end"
    );
    let (code, said) = orrery(&["secret", "list"], b"");
    assert!(code == Some(0) && said.contains("A") && said.contains('1'), "{said}");
    assert_eq!(orrery(&["secret", "put", "A"], b"abc").0, Some(2), "too short");
    assert_eq!(orrery(&["secret", "rotate", "--data-keys"], b"").0, Some(0));
    assert_eq!(orrery(&["secret", "delete", "A"], b"").0, Some(0));
    assert_eq!(orrery(&["secret", "delete", "A"], b"").0, Some(3));
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(world.path("orrery-data/encryption.key")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
}
