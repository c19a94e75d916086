//! SIGKILL of PostgreSQL, again and again, under load.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::coordinators::agree;
use crate::engine::Engine;
use crate::private_postgres::PrivatePostgres;
use crate::rest::id;
use crate::target::{Arrival, Target};
use crate::token::token;
use crate::wait::{SOON, until_true};
use crate::world::{Server, World};

const KILLS: usize = 5;

#[tokio::test]
async fn five_kills_lose_and_double_nothing() {
    let world = World::alone(Engine::Sqlite).await;
    let mut postgres = PrivatePostgres::prepared();
    postgres.start().await;
    let url = postgres.url();
    let first = Server::ready(world.start_server(&[("DATABASE_URL", &url)]), Some(token())).await;
    let second = Server::ready(world.start_server(&[("DATABASE_URL", &url)]), Some(token())).await;
    let _a = world.agent("a", &[&first, &second], &["--slots", "20"]).await;
    let _b = world.agent("b", &[&second, &first], &["--slots", "20"]).await;
    let target = Target::start().await;
    let rest = first.rest();
    let ticks = rest
        .create(json!({
            "name": "ticks", "cronExpression": "* * * * * *", "jobType": "http", "config": {"url": target.url("/ticks")},
        }))
        .await;
    let asked = rest
        .create(json!({
            "name": "asked", "manual": true, "maxConcurrent": 0, "jobType": "http", "config": {"url": target.url("/asked")},
        }))
        .await;
    let stop = Arc::new(AtomicBool::new(false));
    let made = Arc::new(Mutex::new(BTreeSet::new()));
    // Each trigger has its key, and is repeated with it until it is answered.
    let (rests, stopped, noted, job) = ([first.rest(), second.rest()], stop.clone(), made.clone(), asked.clone());
    let caller = tokio::spawn(async move {
        let mut number = 0_usize;
        while !stopped.load(Ordering::SeqCst) {
            number += 1;
            let key = format!("key-{number}");
            let path = format!("/jobs/{job}/trigger");
            let end = Instant::now() + SOON * 3;
            let run = loop {
                assert!(Instant::now() < end, "the trigger is not answered");
                let headers = [("idempotency-key", key.as_str())];
                let sent = rests[number % 2].try_send(reqwest::Method::POST, &path, &headers, Some("{}".into())).await;
                let Ok(answer) = sent else { continue };
                assert!(answer.status < 300 || answer.status == 503, "{}: {}", answer.status, answer.text);
                if answer.status < 300 {
                    break id(&answer.json());
                }
            };
            assert!(noted.lock().unwrap().insert(run), "two keys made one execution");
        }
    });
    for kill in 0..KILLS {
        let before = target.on("/ticks").len();
        until_true("it fires", SOON, async || target.on("/ticks").len() >= before + 2).await;
        postgres.kill();
        postgres.start().await;
        let back = Instant::now();
        let before = target.on("/ticks").len();
        until_true("it fires again", SOON, async || target.on("/ticks").len() > before).await;
        let took = back.elapsed();
        assert!(took < Duration::from_secs(5), "after kill {kill} it fired again after {took:?}");
    }
    stop.store(true, Ordering::SeqCst);
    caller.await.unwrap();
    rest.post(&format!("/jobs/{ticks}/pause"), json!({})).await.ok();
    agree(&rest, &ticks, || target.on("/ticks")).await;

    let made = made.lock().unwrap().clone();
    until_true("all that was asked for is over", SOON * 3, async || {
        let depth = rest.get("/status").await.ok();
        depth["pendingExecutions"] == 0 && depth["runningExecutions"] == 0
    })
    .await;
    let arrivals: Vec<String> = target.on("/asked").iter().map(Arrival::execution).collect();
    assert_eq!(arrivals.len(), arrivals.iter().collect::<BTreeSet<_>>().len(), "one arrived twice");
    assert_eq!(arrivals.into_iter().collect::<BTreeSet<_>>(), made);
}
