//! What the clients of other languages send without asking anybody: it is taken where it is clear, and refused with a way out.

use serde_json::{Value, json};

use crate::world::{EXECUTIONS, JOBS, World, hourly, id, merge};

#[tokio::test]
async fn null_means_absent() {
    let world = World::new().await;
    let mut definition = hourly("nulls");
    for field in [
        "description",
        "timezone",
        "retryConfig",
        "timeout",
        "maxConcurrent",
        "priority",
        "startDate",
        "endDate",
        "maxExecutions",
        "tags",
        "intervalMs",
        "runAt",
        "manual",
        "queue",
        "selector",
        "overlap",
        "idempotencyKey",
    ] {
        definition[field] = Value::Null;
    }
    let job = world.post(JOBS, definition.clone()).await.ok();
    assert_eq!((job["timezone"].as_str(), job["timeout"].as_i64()), (Some("UTC"), Some(300)));
    assert_eq!((&job["tags"], &job["selector"]), (&json!([]), &json!({})));
    definition["name"] = json!("nulls within");
    definition["retryConfig"] = json!({"maxRetries": 2, "retryDelayMs": null, "retryOnErrorTypes": null});
    assert_eq!(world.post(JOBS, definition).await.ok()["retryConfig"]["maxRetries"], 2);
    let mut nothing = hourly("nothing");
    nothing["jobType"] = Value::Null;
    world.post(JOBS, nothing).await.refused(400, "INVALID_JOB_CONFIG");
}

#[tokio::test]
async fn a_whole_number_may_be_written_with_a_point() {
    let world = World::new().await;
    let text = |timeout: &str| hourly("x").to_string().replacen('{', &format!("{{\"timeout\": {timeout},"), 1);
    for (index, timeout) in ["60", "60.0", "6e1", "\"60\""].into_iter().enumerate() {
        let named = text(timeout).replace("\"x\"", &format!("\"job {index}\""));
        assert_eq!(world.post_text(JOBS, named).await.ok()["timeout"], 60, "{timeout}");
    }
    for timeout in ["60.5", "2147483648", "1e300", "\"x\"", "true", "[]"] {
        let error = world.post_text(JOBS, text(timeout)).await.refused(400, "INVALID_ARGUMENT");
        let message = error["details"]["fields"]["timeout"].as_str().unwrap_or_else(|| panic!("{timeout}: {error}"));
        assert!(message.contains("a whole number from -2147483648 to 2147483647"), "{timeout}: {message}");
    }
}

#[tokio::test]
async fn a_byte_order_mark_is_passed_over() {
    let world = World::new().await;
    world.post_text(JOBS, format!("\u{feff}{}", hourly("marked"))).await.ok();
}

#[tokio::test]
async fn a_body_that_is_no_object_is_told_so() {
    let world = World::new().await;
    for (text, part) in [
        ("[[", "an array"),
        ("[]", "an array"),
        ("\"x\"", "string"),
        ("null", "null"),
        ("{\"retryConfig\": [1]}", "an array"),
    ] {
        let error = world.post_text(JOBS, text).await.refused(400, "INVALID_ARGUMENT");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(part) && message.contains("expected an object"), "{text}: {message}");
        assert!(!message.contains("orrery") && !message.contains("[0]"), "{text}: {message}");
    }
}

#[tokio::test]
async fn json_that_others_could_not_read_is_refused() {
    let world = World::new().await;
    let function = |parameters: &str| {
        format!(
            "{{\"name\": \"f\", \"manual\": true, \"jobType\": \"function\", \"config\": \
             {{\"modulePath\": \"a\", \"functionName\": \"b\", \"parameters\": {parameters}}}}}"
        )
    };
    let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    for (parameters, part) in [
        (format!("{{\"a\": {}}}", deep(10_000)), "levels"),
        (format!("{{\"a\": {}}}", deep(101)), "levels"),
        ("{\"a\": 1, \"b\": {\"c\": 1, \"c\": 2}}".to_owned(), "\"c\" twice"),
        ("{\"a\": 1, \"\\u0061\": 2}".to_owned(), "\"a\" twice"),
    ] {
        let error = world.post_text(JOBS, function(&parameters)).await.refused(400, "INVALID_JOB_CONFIG");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(part), "{message}");
    }
    let job = world.post_text(JOBS, function(&format!("{{\"a\": {}, \"b\": {{\"a\": 1}}}}", deep(90)))).await.ok();
    let trigger = format!("{JOBS}/{}/trigger", id(&job));
    world.post_text(&trigger, format!("{{\"parameters\": {}}}", deep(200))).await.refused(400, "INVALID_PARAMETERS");
}

#[tokio::test]
async fn an_empty_parameter_is_no_filter() {
    let world = World::new().await;
    world.job("one", json!({})).await;
    for query in ["status=&jobType=&tag=&name=&pageSize=&pageToken=", "status", "&&pageSize=10&status="] {
        let page = world.get(&format!("{JOBS}?{query}")).await.ok();
        assert_eq!(page["jobs"].as_array().map(Vec::len), Some(1), "{query}");
    }
    world.get(&format!("{EXECUTIONS}?jobId=&status=&triggerType=&from=&to=&pageSize=")).await.ok();
    world.get(&format!("{EXECUTIONS}/stats?jobId=&from=&to=")).await.ok();
    assert_eq!(world.get(&format!("{JOBS}?status=paused&tag=")).await.ok()["jobs"], json!([]));
}

#[tokio::test]
async fn what_is_wrong_with_a_query_is_named() {
    let world = World::new().await;
    for (query, field, part) in [
        ("status=active&status=paused", "status", "once"),
        ("pageSize=1&name=x&pageSize=2", "pageSize", "once"),
        ("pageSize=1.5", "pageSize", "whole number"),
        ("pageSize=99999999999", "pageSize", "whole number"),
    ] {
        let error = world.get(&format!("{JOBS}?{query}")).await.refused(400, "INVALID_ARGUMENT");
        let message = error["details"]["fields"][field].as_str().unwrap_or_else(|| panic!("{query}: {error}"));
        assert!(message.contains(part), "{query}: {message}");
    }
    // A plus sign in a query is a space.
    let error =
        world.get(&format!("{EXECUTIONS}?from=2026-01-01T00:00:00+02:00")).await.refused(400, "INVALID_ARGUMENT");
    assert!(error["message"].as_str().unwrap().contains("%2B"), "{error}");
}

#[tokio::test]
async fn a_path_that_is_nearly_right_leads_on() {
    let world = World::new().await;
    for (path, better) in [
        (format!("{JOBS}/"), JOBS.to_owned()),
        (format!("{EXECUTIONS}/stats/"), format!("{EXECUTIONS}/stats")),
        ("/health/".to_owned(), "/health".to_owned()),
    ] {
        let error = world.get(&path).await.refused(404, "ROUTE_NOT_FOUND");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(&format!("without the slash at its end: {better}")), "{message}");
    }
    let message = world.get("/nothing/").await.refused(404, "ROUTE_NOT_FOUND")["message"].to_string();
    assert!(!message.contains("slash"), "{message}");
}

#[tokio::test]
async fn a_job_that_was_read_can_be_checked() {
    let world = World::new().await;
    let job = world.job("read", json!({})).await;
    let path = format!("{JOBS}/{}/validate", id(&job));
    assert_eq!(world.post(&path, job.clone()).await.ok()["valid"], true);
    assert_eq!(world.post(&format!("{JOBS}/validate"), job.clone()).await.ok()["valid"], true);
    let mut keyed = hourly("keyed");
    merge(&mut keyed, json!({"idempotencyKey": "k"}));
    assert_eq!(world.post(&format!("{JOBS}/validate"), keyed).await.ok()["valid"], true);
    // Nothing given: the definition that is stored.
    for answer in [world.post(&path, json!({})).await, world.post_text(&path, "").await] {
        let checked = answer.ok();
        assert_eq!((&checked["valid"], checked["nextFires"].as_array().map(Vec::len)), (&json!(true), Some(5)));
    }
    assert_eq!(world.post(&format!("{JOBS}/validate"), json!({})).await.ok()["valid"], false);
}

#[tokio::test]
async fn a_keyed_call_answers_with_its_first_job_whatever_the_time() {
    let world = World::new().await;
    let soon = chrono::Utc::now() + chrono::TimeDelta::milliseconds(900);
    let mut once = hourly("once");
    merge(&mut once, json!({"cronExpression": null, "runAt": soon.to_rfc3339(), "idempotencyKey": "a"}));
    let mut batch = json!({"jobs": [hourly("in a batch"), once.clone()]});
    batch["jobs"][0]["idempotencyKey"] = json!("b0");
    merge(&mut batch["jobs"][1], json!({"name": "once in a batch", "idempotencyKey": "b1"}));
    let first = world.post(JOBS, once.clone()).await.ok();
    let firsts = world.post(&format!("{JOBS}/batch-create"), batch.clone()).await.ok();
    while chrono::Utc::now() <= soon {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }

    assert_eq!(id(&world.post(JOBS, once.clone()).await.ok()), id(&first));
    let again = world.post(&format!("{JOBS}/batch-create"), batch.clone()).await.ok();
    for index in 0..2 {
        assert_eq!(id(&again["jobs"][index]), id(&firsts["jobs"][index]));
    }
    // Another key, another request, and no key at all.
    merge(&mut once, json!({"idempotencyKey": "c"}));
    world.post(JOBS, once.clone()).await.refused(400, "INVALID_SCHEDULE");
    merge(&mut once, json!({"idempotencyKey": "a", "description": "changed"}));
    world.post(JOBS, once.clone()).await.refused(409, "IDEMPOTENCY_KEY_REUSED");
    merge(&mut once, json!({"idempotencyKey": null}));
    world.post(JOBS, once).await.refused(400, "INVALID_SCHEDULE");
    batch["jobs"][1]["idempotencyKey"] = json!("b2");
    let error = world.post(&format!("{JOBS}/batch-create"), batch).await.refused(400, "INVALID_SCHEDULE");
    assert!(error["details"]["fields"]["jobs[1].runAt"].is_string(), "{error}");
    assert_eq!(world.get(JOBS).await.ok()["jobs"].as_array().map(Vec::len), Some(3));
}
