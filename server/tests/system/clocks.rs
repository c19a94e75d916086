//! Wall clocks that are an hour off, either way: the database's clock decides, and only what is shown tells of it.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::coordinators::agree;
use crate::engine::Engine;
use crate::rest::id;
use crate::target::Target;
use crate::wait::{SOON, until_true};
use crate::world::World;

const HOUR_MS: f64 = 3_600_000.0;

#[tokio::test]
async fn clocks_that_are_off_decide_nothing() {
    let mut world = World::alone(Engine::Postgres).await;
    // Short, so that a false expiry would show.
    let short = [("ORRERY_SESSION_TTL_MS", "4000")];
    world.set_clock_offset("+1h");
    let ahead = world.server(&short).await;
    world.set_clock_offset("-1h");
    let behind = world.server(&short).await;
    let _b = world.agent("behind", &[&ahead, &behind], &[]).await;
    world.set_clock_offset("+1h");
    let _a = world.agent("ahead", &[&behind, &ahead], &[]).await;
    let rest = ahead.rest();
    let before = sessions(&rest.workers().await);
    let target = Target::start().await;
    let ticks = rest
        .create(json!({
            "name": "ticks", "cronExpression": "* * * * * *", "jobType": "http", "config": {"url": target.url("/ticks")},
        }))
        .await;
    // The test's own clock is the database's.
    let at = Utc::now() + chrono::Duration::seconds(6);
    let once = rest
        .create(json!({"name": "once", "runAt": at.to_rfc3339(), "jobType": "http", "config": {"url": target.url("/once")}}))
        .await;
    let of = |path: &str| target.on(path);
    until_true("ticks go on for longer than sessions live", SOON * 2, async || of("/ticks").len() >= 12).await;
    until_true("the one instant has come", SOON, async || !of("/once").is_empty()).await;
    rest.post(&format!("/jobs/{ticks}/pause"), json!({})).await.ok();

    let late = |scheduled: DateTime<Utc>, at: DateTime<Utc>| (at - scheduled).num_milliseconds();
    agree(&rest, &ticks, || target.on("/ticks")).await;
    let instant = |run: &Value| run["scheduledAt"].as_str().unwrap().parse::<DateTime<Utc>>().unwrap();
    let scheduled: BTreeMap<String, DateTime<Utc>> =
        rest.executions(&ticks).await.iter().map(|run| (id(run), instant(run))).collect();
    for arrival in of("/ticks") {
        let scheduled = scheduled[&arrival.execution()];
        let late = late(scheduled, arrival.at);
        assert!((-5..5000).contains(&late), "a fire came {late} ms after its instant");
    }
    let once_late = late(at, of("/once")[0].at);
    assert!((-5..5000).contains(&once_late), "the one fire came {once_late} ms after its instant");
    let run = &rest.executions(&once).await[0];
    assert_eq!((&run["epoch"], run["attempts"].as_array().map(Vec::len)), (&json!(1), Some(1)), "{run:#}");
    assert_eq!(sessions(&rest.workers().await), before, "a session expired, or was opened anew");

    let status = rest.get("/status").await.ok();
    let mut offsets: Vec<f64> =
        status["coordinators"].as_array().unwrap().iter().map(|c| c["clockOffsetMs"].as_f64().unwrap()).collect();
    offsets.sort_by(f64::total_cmp);
    assert_eq!(offsets.len(), 2, "{status:#}");
    assert!((offsets[0] + HOUR_MS).abs() < 5000.0 && (offsets[1] - HOUR_MS).abs() < 5000.0, "{offsets:?}");
    for coordinator in status["coordinators"].as_array().unwrap() {
        let started: DateTime<Utc> = coordinator["startedAt"].as_str().unwrap().parse().unwrap();
        assert!(
            (Utc::now() - started).abs() < chrono::Duration::minutes(5),
            "by the database's clock: {coordinator:#}"
        );
    }
}

/// Sessions by the agents' names.
fn sessions(workers: &[Value]) -> BTreeMap<String, String> {
    workers.iter().map(|w| (w["name"].to_string(), w["id"].to_string())).collect()
}

/// It is seen until a minute after its death; one that leaves in good order is gone at once.
#[tokio::test]
async fn coordinators_show_themselves() {
    let world = World::new(Engine::Postgres).await;
    let first = world.server(&[]).await;
    let mut second = world.server(&[]).await;
    let _agent = world.agent("a", &[&second], &[]).await;
    let rest = first.rest();
    let config = json!({"command": "until [ -e $DIR/go ]; do sleep 0.05; done", "environment": {"DIR": world.directory().display().to_string()}});
    let run = rest.trigger(&rest.create_manual("waits", "shell", config).await).await;
    rest.running(&run).await;
    let coordinators = async || rest.get("/status").await.ok()["coordinators"].as_array().unwrap().clone();
    until_true("the lease is shown where its agent is", SOON, async || {
        let mut shown: Vec<_> =
            coordinators().await.iter().map(|c| (c["workers"].clone(), c["leases"].clone())).collect();
        shown.sort_by_key(|(workers, _)| workers.as_i64());
        shown == [(json!(0), json!(0)), (json!(1), json!(1))]
    })
    .await;
    assert!(coordinators().await.iter().all(|c| c["build"].is_string() && c["draining"] == false));
    second.process.signal(rustix::process::Signal::TERM);
    let status = second.process.ended(Duration::from_secs(20)).await;
    assert!(status.success(), "{status}");
    assert_eq!(coordinators().await.len(), 1, "who has gone in good order is not shown");
    std::fs::write(world.path("go"), "").unwrap();
}
