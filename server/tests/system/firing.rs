//! A schedule fires on its instants, once each, and the history agrees with what the target saw.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::engine::Engine;
use crate::rest::Rest;
use crate::target::{Arrival, Target};
use crate::wait::{SOON, until};
use crate::world::World;

/// How late most requests may arrive after their seconds, in this build. Any single one may meet a machine that does something else.
const LATE: i64 = 250;

#[tokio::test]
async fn every_second_once_on_sqlite() {
    let world = World::alone(Engine::Sqlite).await;
    let server = world.dev(&["--no-demo"]).await;
    every_second_once(&server.rest()).await;
}

#[tokio::test]
async fn every_second_once_on_postgres() {
    let world = World::alone(Engine::Postgres).await;
    let server = world.server(&[]).await;
    let _first = world.agent("a", &[&server], &[]).await;
    let _second = world.agent("b", &[&server], &[]).await;
    every_second_once(&server.rest()).await;
}

async fn every_second_once(rest: &Rest) {
    let target = Target::start().await;
    let job = rest
        .create(json!({
            "name": "hello", "cronExpression": "0/1 * * * * *", "jobType": "http",
            "config": {"url": target.url("/"), "method": "GET"},
        }))
        .await;
    let arrivals = target.after(9, SOON).await;
    let ids: BTreeSet<String> = arrivals.iter().map(Arrival::execution).collect();
    assert_eq!(ids.len(), arrivals.len(), "an execution arrived twice");
    let history = history_of(rest, &job, &ids).await;
    let mut fired = Vec::new();
    for arrival in &arrivals {
        let entry = history.iter().find(|e| e["id"] == arrival.execution()).expect("the history knows the execution");
        assert_eq!(entry["status"], "completed", "{entry:#}");
        assert_eq!(entry["triggerType"], "scheduled");
        fired.push((instant(&entry["scheduledAt"]), arrival.at));
    }
    agrees(fired);
    assert!(rest.omissions(&job).await.is_empty());
}

/// One arrival a second, never before it, and most of them soon after it.
fn agrees(mut fired: Vec<(DateTime<Utc>, DateTime<Utc>)>) {
    fired.sort();
    for pair in fired.windows(2) {
        let (second, next) = (pair[0].0, pair[1].0);
        assert_eq!((next - second).num_milliseconds(), 1000, "a second is missed or doubled: {fired:#?}");
    }
    let mut late: Vec<i64> = fired.iter().map(|(second, at)| (*at - *second).num_milliseconds()).collect();
    late.sort_unstable();
    assert!(late[0] >= 0, "one came before its second: {fired:#?}");
    assert!(late[late.len() / 2] <= LATE, "so many ms after their seconds they came: {late:?}");
}

/// The finished executions, once these are among them.
async fn history_of(rest: &Rest, job: &str, ids: &BTreeSet<String>) -> Vec<Value> {
    until("the history has them all", SOON, async || {
        let mut all = rest.executions(job).await;
        all.retain(|e| e["status"] == "completed");
        ids.iter().all(|id| all.iter().any(|e| e["id"] == id.as_str())).then_some(all)
    })
    .await
}

fn instant(value: &Value) -> DateTime<Utc> {
    value.as_str().unwrap().parse().unwrap()
}
