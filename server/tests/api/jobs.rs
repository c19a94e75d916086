//! Jobs: define, list, read, replace, delete, fire.

use orrery_proto::v1::ExecutionStatus;
use serde_json::{Value, json};

use crate::world::{EXECUTIONS, JOBS, World, hourly, id};

#[tokio::test]
async fn a_job_is_made_read_and_listed() {
    let world = World::new().await;
    let made = world
        .job("nightly", json!({"description": "é", "tags": ["a", "b"], "timezone": "Europe/Berlin", "priority": 7}))
        .await;
    assert_eq!(made["name"], "nightly");
    assert_eq!(made["status"], "active");
    assert_eq!(made["jobType"], "http");
    assert_eq!(made["timezone"], "Europe/Berlin");
    assert_eq!(made["version"], 1);
    assert_eq!(made["priority"], 7);
    assert_eq!(made["executionCount"], 0);
    assert_eq!(made["maxConcurrent"], 1);
    assert_eq!(made["overlap"], "forbid");
    assert_eq!(made["timeout"], 300);
    assert_eq!(made["queue"], "default");
    for instant in ["createdAt", "updatedAt", "nextExecutionAt"] {
        assert!(made[instant].as_str().is_some_and(|at| at.ends_with('Z')), "{instant}: {made}");
    }
    let answer = world.get(&format!("{JOBS}/{}", id(&made))).await;
    assert_eq!(answer.ok(), made);
    assert_eq!(answer.headers["etag"], "\"1\"");

    world.job("other", json!({"jobType": "shell", "config": {"script": "true"}})).await;
    let listed = |query: &'static str| {
        let world = &world;
        async move {
            let body = world.get(&format!("{JOBS}{query}")).await.ok();
            assert_eq!(body["nextPageToken"], "");
            let names = body["jobs"].as_array().unwrap().iter().map(|j| j["name"].as_str().unwrap().to_owned());
            names.collect::<Vec<_>>()
        }
    };
    assert_eq!(listed("").await, ["other", "nightly"]);
    assert_eq!(listed("?jobType=http").await, ["nightly"]);
    assert_eq!(listed("?tag=b").await, ["nightly"]);
    assert_eq!(listed("?name=NIGHT").await, ["nightly"]);
    assert_eq!(listed("?status=paused").await, [""; 0]);
    assert_eq!(listed("?status=active").await, ["other", "nightly"]);
}

#[tokio::test]
async fn every_digit_survives() {
    let world = World::new().await;
    let config =
        r#"{"url":"https://example.com","body":{"n":30000,"big":123456789012345678901234567890,"d":1.50,"e":0.10}}"#;
    let body = format!(r#"{{"name":"digits","manual":true,"jobType":"http","config":{config}}}"#);
    let made = world.post_text(JOBS, body).await;
    let text = made.text.clone();
    let job = made.ok();
    assert!(text.contains(r#""big":123456789012345678901234567890"#), "{text}");
    assert!(text.contains(r#""n":30000,"#) && text.contains(r#""d":1.50"#) && text.contains(r#""e":0.10"#), "{text}");
    let trigger = format!("{JOBS}/{}/trigger", id(&job));
    let triggered = world.post_text(&trigger, r#"{"parameters":{"p":98765432109876543210.250}}"#).await;
    assert!(triggered.text.contains(r#""parameters":{"p":98765432109876543210.250}"#), "{}", triggered.text);
    let execution = triggered.ok();
    let agent = world.agent().await;
    world.run_all(&agent, r#"{"success":true,"result":{"r":1.50,"m":-12345678901234567890123}}"#).await;
    let read = world.get(&format!("{EXECUTIONS}/{}", id(&execution))).await;
    assert!(
        read.text.contains(r#""r":1.50"#) && read.text.contains(r#""m":-12345678901234567890123"#),
        "{}",
        read.text
    );
    assert_eq!(read.ok()["status"], "completed");
}

#[tokio::test]
async fn a_job_is_replaced_by_version() {
    let world = World::new().await;
    let made = world.job("one", json!({"priority": 5})).await;
    let path = format!("{JOBS}/{}", id(&made));
    let changed = world.put(&path, hourly("two")).await;
    assert_eq!(changed.headers["etag"], "\"2\"");
    let changed = changed.ok();
    assert_eq!((&changed["name"], &changed["priority"], &changed["version"]), (&json!("two"), &json!(0), &json!(2)));
    assert_eq!(changed["createdAt"], made["createdAt"]);

    // What was read can be sent back.
    let again = world.put(&path, changed.clone()).await.ok();
    assert_eq!(again["version"], 3);
    let stale = world.put(&path, changed).await.refused(409, "VERSION_CONFLICT");
    assert_eq!(stale["details"]["currentVersion"], 3);

    let with = |tag: &str| world.client.put(world.url(&path)).header("if-match", tag).body(hourly("two").to_string());
    world.send(with("\"2\"")).await.refused(409, "VERSION_CONFLICT");
    assert_eq!(world.send(with("\"3\"")).await.ok()["version"], 4);
    assert_eq!(world.send(with("*")).await.ok()["version"], 5);
    world.send(with("x")).await.refused(400, "INVALID_ARGUMENT");

    world.job("taken", json!({})).await;
    world.put(&path, hourly("taken")).await.refused(409, "JOB_NAME_TAKEN");
}

#[tokio::test]
async fn a_deleted_job_frees_its_name_and_keeps_its_history() {
    let world = World::new().await;
    let made = world.job("gone", json!({"manual": true, "cronExpression": null})).await;
    let execution = world.trigger(&made).await;
    let path = format!("{JOBS}/{}", id(&made));
    assert_eq!(world.delete(&path).await.ok(), json!({"id": made["id"], "deleted": true}));
    world.get(&path).await.refused(404, "JOB_NOT_FOUND");
    world.delete(&path).await.refused(404, "JOB_NOT_FOUND");
    world.post(&format!("{path}/trigger"), json!({})).await.refused(404, "JOB_NOT_FOUND");
    let ended = world.get(&format!("{EXECUTIONS}/{}", id(&execution))).await.ok();
    assert_eq!((&ended["status"], &ended["errorMessage"]), (&json!("cancelled"), &json!("job deleted")));
    let history = world.get(&format!("{path}/executions")).await.ok();
    assert_eq!(history["executions"].as_array().unwrap().len(), 1);
    world.job("gone", json!({})).await;
}

#[tokio::test]
async fn a_job_is_paused_resumed_and_stopped() {
    let world = World::new().await;
    let made = world.job("switch", json!({"cronExpression": "* * * * * *"})).await;
    let path = format!("{JOBS}/{}", id(&made));
    // Without a body, and without a type of one.
    let bare = |verb: &str| world.client.post(world.url(&format!("{path}/{verb}")));
    let paused = world.send(bare("pause")).await.ok();
    assert_eq!((&paused["status"], &paused["nextExecutionAt"]), (&json!("paused"), &Value::Null));
    assert_eq!(world.send(bare("pause")).await.ok()["version"], paused["version"]);
    // Paused jobs can be triggered.
    let execution = world.send(bare("trigger")).await.ok();
    assert_eq!((&execution["triggerType"], &execution["status"]), (&json!("manual"), &json!("pending")));

    // At least one fire passes meanwhile.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let resumed = world.send(bare("resume")).await.ok();
    assert_eq!(resumed["status"], "active");
    assert!(resumed["nextExecutionAt"].is_string());
    let omissions = world.get(&format!("{path}/omissions")).await.ok();
    assert_eq!(omissions["omissions"][0]["reason"], "paused");
    assert!(omissions["omissions"][0]["count"].as_i64().unwrap() >= 1);

    let stopped = world.send(bare("stop")).await.ok();
    assert_eq!(stopped["status"], "inactive");
    let ended = world.get(&format!("{EXECUTIONS}/{}", id(&execution))).await.ok();
    assert_eq!((&ended["status"], &ended["errorMessage"]), (&json!("cancelled"), &json!("stopped by developer")));
    world.send(bare("trigger")).await.refused(409, "JOB_INACTIVE");
    world.send(bare("pause")).await.refused(409, "JOB_INACTIVE");
    assert_eq!(world.send(bare("resume")).await.ok()["status"], "active");
}

#[tokio::test]
async fn a_trigger_keeps_to_the_limit() {
    let world = World::new().await;
    let agent = world.agent().await;
    let one = world.job("one", json!({})).await;
    world.trigger(&one).await;
    let path = format!("{JOBS}/{}/trigger", id(&one));
    let refused = world.post(&path, json!({})).await.refused(409, "JOB_ALREADY_RUNNING");
    assert_eq!(refused["details"], json!({"active": 1, "maxConcurrent": 1}));
    world.run_all(&agent, "{}").await;
    world.post(&path, json!({})).await.ok();
    // One that is to run later asks for its place then.
    let later = chrono::Utc::now() + chrono::Duration::hours(1);
    let waiting = world.post(&path, json!({"runAt": later.to_rfc3339()})).await.ok();
    assert_eq!(waiting["status"], "pending");

    let free = world.job("free", json!({"maxConcurrent": 0})).await;
    world.trigger(&free).await;
    world.trigger(&free).await;
}

#[tokio::test]
async fn a_repeated_call_answers_as_the_first_did() {
    let world = World::new().await;
    let keyed = |body: Value| {
        let request = world.client.post(world.url(JOBS)).header("idempotency-key", "k-1").body(body.to_string());
        world.send(request)
    };
    let first = keyed(hourly("once")).await.ok();
    assert_eq!(keyed(hourly("once")).await.ok()["id"], first["id"]);
    keyed(hourly("another")).await.refused(409, "IDEMPOTENCY_KEY_REUSED");

    let path = format!("{JOBS}/{}/trigger", id(&first));
    let run = world.post(&path, json!({"idempotencyKey": "k-1"})).await.ok();
    assert_eq!(world.post(&path, json!({"idempotencyKey": "k-1"})).await.ok()["id"], run["id"]);
    world.post(&path, json!({"idempotencyKey": "k-1", "parameters": 1})).await.refused(409, "IDEMPOTENCY_KEY_REUSED");
    let agent = world.agent().await;
    world.run_all(&agent, "{}").await;
    assert_eq!(world.post(&path, json!({"idempotencyKey": "k-1"})).await.ok()["id"], run["id"]);
}

#[tokio::test]
async fn batches_are_all_or_nothing() {
    let world = World::new().await;
    let batch = format!("{JOBS}/batch-create");
    let made = world.post(&batch, json!({"jobs": [hourly("a"), hourly("b")]})).await.ok();
    assert_eq!(made["jobs"][1]["name"], "b");
    let taken = world.post(&batch, json!({"jobs": [hourly("c"), hourly("a")]})).await.refused(409, "JOB_NAME_TAKEN");
    assert!(taken["details"]["fields"]["jobs[1].name"].is_string(), "{taken}");
    let mut bad = hourly("d");
    bad["cronExpression"] = json!("nonsense");
    let wrong = world.post(&batch, json!({"jobs": [hourly("c"), bad]})).await.refused(400, "INVALID_CRON_EXPRESSION");
    assert!(wrong["details"]["fields"]["jobs[1].cronExpression"].is_string(), "{wrong}");
    assert_eq!(world.get(JOBS).await.ok()["jobs"].as_array().unwrap().len(), 2);
    world.post(&batch, json!({"jobs": []})).await.refused(400, "INVALID_ARGUMENT");

    let triggers = format!("{JOBS}/batch-trigger");
    let (a, b) = (&made["jobs"][0]["id"], &made["jobs"][1]["id"]);
    let run = world.post(&triggers, json!({"triggers": [{"id": a}, {"id": b}]})).await.ok();
    assert_eq!(run["executions"][1]["jobId"], *b);
    let full = world.post(&triggers, json!({"triggers": [{"id": b}]})).await.refused(409, "JOB_ALREADY_RUNNING");
    assert_eq!(full["details"]["index"], 0);
    let agent = world.agent().await;
    world.run_all(&agent, "{}").await;
    // Two of one call count for each other.
    let twice = json!({"triggers": [{"id": a}, {"id": a}]});
    let full = world.post(&triggers, twice).await.refused(409, "JOB_ALREADY_RUNNING");
    assert_eq!(full["details"]["index"], 1);
    let unknown = json!({"triggers": [{"id": a}, {"id": uuid::Uuid::nil()}]});
    world.post(&triggers, unknown).await.refused(404, "JOB_NOT_FOUND");
    assert!(world.start(&agent).await.is_empty());
}

#[tokio::test]
async fn a_definition_is_checked_without_being_saved() {
    let world = World::new().await;
    let path = format!("{JOBS}/validate");
    let good = world.post(&path, hourly("x")).await.ok();
    assert_eq!((&good["valid"], good["nextFires"].as_array().unwrap().len()), (&json!(true), 5));
    let bad = json!({"name": "", "cronExpression": "x", "timezone": "Moon", "jobType": "http", "config": {}});
    let bad = world.post(&path, bad).await.ok();
    assert_eq!(bad["valid"], false);
    let codes: Vec<_> = bad["errors"].as_array().unwrap().iter().map(|e| e["code"].as_str().unwrap()).collect();
    assert_eq!(codes, ["INVALID_NAME", "INVALID_TIMEZONE", "INVALID_CRON_EXPRESSION", "INVALID_JOB_CONFIG"]);
    assert_eq!(bad["errors"][3]["field"], "config.url");
    let job = world.job("y", json!({})).await;
    assert_eq!(world.post(&format!("{JOBS}/{}/validate", id(&job)), hourly("z")).await.ok()["valid"], true);
    let nobody = format!("{JOBS}/{}/validate", uuid::Uuid::nil());
    world.post(&nobody, hourly("z")).await.refused(404, "JOB_NOT_FOUND");
    assert_eq!(world.get(JOBS).await.ok()["jobs"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn the_other_schedules_work() {
    let world = World::new().await;
    let every = world.job("every", json!({"cronExpression": null, "intervalMs": 60_000})).await;
    assert_eq!((&every["intervalMs"], &every["cronExpression"]), (&json!(60_000), &json!("")));
    let at = "2100-01-02T03:04:05.123456Z";
    let once = world.job("once", json!({"cronExpression": null, "runAt": at})).await;
    assert_eq!((&once["runAt"], &once["nextExecutionAt"]), (&json!(at), &json!(at)));
    let manual = world.job("manual", json!({"cronExpression": null, "manual": true})).await;
    assert_eq!((&manual["manual"], &manual["nextExecutionAt"]), (&json!(true), &Value::Null));
    let fires = |job: &Value| format!("{JOBS}/{}/next?count=3&after=2100-01-01T00:00:00Z", id(job));
    assert_eq!(world.get(&fires(&once)).await.ok()["fires"].as_array().unwrap().len(), 1);
    assert_eq!(world.get(&fires(&every)).await.ok()["fires"].as_array().unwrap().len(), 3);
    assert_eq!(world.get(&fires(&manual)).await.ok()["fires"], json!([]));
    let late = json!({"startDate": "2090-05-05T10:30:00Z", "endDate": "2090-05-05T12:00:00Z"});
    let bounded = world.job("bounded", late).await;
    assert_eq!(bounded["nextExecutionAt"], "2090-05-05T11:00:00Z");
    let all = world.get(&format!("{JOBS}/{}/next", id(&bounded))).await.ok();
    let all: Vec<_> = all["fires"].as_array().unwrap().iter().map(|f| f["at"].as_str().unwrap()).collect();
    assert_eq!(all, ["2090-05-05T11:00:00Z", "2090-05-05T12:00:00Z"]);
}

#[tokio::test]
async fn a_job_is_explained() {
    let world = World::new().await;
    let job = world.job("why", json!({})).await;
    let why = || async { world.get(&format!("{JOBS}/{}/explain", id(&job))).await.ok() };
    assert_eq!(why().await["reasons"][0]["code"], "NO_AGENT");
    let agent = world.agent().await;
    let answer = why().await;
    assert_eq!(answer["reasons"][0]["code"], "NOT_DUE");
    assert!(answer["reasons"][0]["until"].is_string() && answer["summary"].as_str().unwrap().contains("why"));
    world.trigger(&job).await;
    let grants = world.start(&agent).await;
    assert_eq!(why().await["reasons"][0]["code"], "RUNNING");
    world.finish(&agent, &grants[0], ExecutionStatus::Completed, "{}").await;
}
