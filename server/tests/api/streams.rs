//! Streams over REST: an execution that is watched, and its output.

use futures_util::StreamExt;
use orrery_proto::v1::{ExecutionStatus, LogStream};
use orrery_server::store::{Grant, LogLine, Logs};
use serde_json::{Value, json};

use crate::world::{EXECUTIONS, World, id};

fn line(grant: &Grant, n: i64, text: &str) -> LogLine {
    LogLine {
        execution_id: grant.execution.id,
        sequence: (grant.execution.epoch << 32) | n,
        epoch: grant.execution.epoch,
        attempt: 1,
        stream: LogStream::Stdout,
        at: chrono::Utc::now(),
        text: text.into(),
    }
}

/// The events of a stream, to its end.
async fn events(response: reqwest::Response) -> Vec<Value> {
    assert_eq!(response.status(), 200);
    assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/event-stream"));
    let text = response.text().await.unwrap();
    text.lines().filter_map(|l| l.strip_prefix("data:")).map(|d| serde_json::from_str(d.trim()).unwrap()).collect()
}

#[tokio::test]
async fn an_execution_is_watched_to_its_end() {
    let world = World::new().await;
    let agent = world.agent().await;
    let job = world.job("watched", json!({})).await;
    let execution = world.trigger(&job).await;
    let url = world.url(&format!("{EXECUTIONS}/{}/watch", id(&execution)));
    let response = world.client.get(url).header("accept", "text/event-stream").send().await.unwrap();
    let mut body = response.bytes_stream();
    let first = body.next().await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&first).contains(r#""status":"pending""#), "{first:?}");
    let grants = world.start(&agent).await;
    world.finish(&agent, &grants[0], ExecutionStatus::Completed, "{}").await;
    let mut rest = Vec::new();
    while let Some(chunk) = body.next().await {
        rest.extend_from_slice(&chunk.unwrap());
    }
    assert!(String::from_utf8_lossy(&rest).contains(r#""status":"completed""#));
}

#[tokio::test]
async fn output_is_listed_and_followed() {
    let world = World::new().await;
    let agent = world.agent().await;
    let job = world.job("talks", json!({})).await;
    let execution = world.trigger(&job).await;
    let grants = world.start(&agent).await;
    let grant = &grants[0];
    let lines = vec![line(grant, 1, "one"), line(grant, 2, "two"), line(grant, 3, "three")];
    world.store.append_logs(None, lines, 1 << 20).await.unwrap();
    let logs = format!("{EXECUTIONS}/{}/logs", id(&execution));
    let page = world.get(&format!("{logs}?pageSize=2")).await.ok();
    assert_eq!((&page["entries"][0]["text"], &page["entries"][0]["stream"]), (&json!("one"), &json!("stdout")));
    let token = page["nextPageToken"].as_str().unwrap();
    let rest = world.get(&format!("{logs}?pageSize=2&pageToken={token}")).await.ok();
    assert_eq!((&rest["entries"][0]["text"], &rest["nextPageToken"]), (&json!("three"), &json!("")));

    let url = world.url(&format!("{logs}/follow"));
    let follow = tokio::spawn(world.client.get(url).header("accept", "text/event-stream").send());
    let response = follow.await.unwrap().unwrap();
    world.store.append_logs(None, vec![line(grant, 4, "four")], 1 << 20).await.unwrap();
    world.finish(&agent, grant, ExecutionStatus::Completed, "{}").await;
    let texts: Vec<Value> = events(response).await.iter().map(|entry| entry["text"].clone()).collect();
    assert_eq!(texts, [json!("one"), json!("two"), json!("three"), json!("four")]);
}
