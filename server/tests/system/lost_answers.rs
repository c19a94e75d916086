//! Connections that die at COMMIT, by the hundred: what callers are told is what happened.

use std::collections::BTreeSet;

use serde_json::json;

use crate::commit_cutter::CommitCutter;
use crate::engine::Engine;
use crate::rest::id;
use crate::target::{Arrival, Target};
use crate::token::token;
use crate::wait::{SOON, until_true};
use crate::world::{Server, World};

const CALLERS: usize = 4;
const CALLS: usize = 100;
const CUTS: usize = 200;

#[tokio::test]
async fn hundreds_of_lost_answers_lose_and_double_nothing() {
    let world = World::alone(Engine::Postgres).await;
    let cutter = CommitCutter::to(world.database_url()).await;
    let url = cutter.url(world.database_url());
    let server = Server::ready(world.start_server(&[("DATABASE_URL", &url)]), Some(token())).await;
    let _agent = world.agent("a", &[&server], &["--slots", "20"]).await;
    let target = Target::start().await;
    let job = server
        .rest()
        .create(json!({
            "name": "asked", "manual": true, "maxConcurrent": 0, "jobType": "http", "config": {"url": target.url("/")},
        }))
        .await;
    cutter.cut_every(5);
    let callers = (0..CALLERS).map(|caller| {
        let (rest, path) = (server.rest(), format!("/jobs/{job}/trigger"));
        tokio::spawn(async move {
            let mut made = Vec::new();
            for call in 0..CALLS {
                // Half of them have no key: an answer that says no, where it happened, could not be mended.
                let key = format!("{caller}-{call}");
                let headers = [("idempotency-key", key.as_str())];
                let headers = if call % 2 == 0 { &headers[..] } else { &[] };
                let answer = rest.send(reqwest::Method::POST, &path, headers, Some("{}".into())).await;
                made.push(id(&answer.ok()));
            }
            made
        })
    });
    let mut made = Vec::new();
    for caller in futures_util::future::join_all(callers).await {
        made.extend(caller.unwrap());
    }
    let rest = server.rest();
    // Cuts go on while results come in.
    until_true("all is over", SOON * 3, async || {
        let status = rest.get("/status").await;
        status.status == 200 && status.json()["pendingExecutions"] == 0 && status.json()["runningExecutions"] == 0
    })
    .await;
    until_true("so many were cut", SOON * 3, async || cutter.cuts() >= CUTS).await;
    cutter.cut_every(0);
    let unique: BTreeSet<String> = made.iter().cloned().collect();
    assert_eq!(unique.len(), CALLERS * CALLS, "two calls were answered with one execution");
    let history = rest.executions(&job).await;
    assert_eq!(history.iter().map(id).collect::<BTreeSet<_>>(), unique, "what was made is what callers were told");
    assert!(history.iter().all(|e| e["status"] == "completed" && e["epoch"] == 1), "{history:#?}");
    let arrivals: Vec<String> = target.arrivals().iter().map(Arrival::execution).collect();
    assert_eq!(arrivals.len(), unique.len(), "one arrived twice, or not at all");
    assert_eq!(arrivals.into_iter().collect::<BTreeSet<_>>(), unique);
    let metrics = rest.elsewhere(&server.metrics, "/metrics").await.text;
    let refused = metrics.lines().filter(|l| l.starts_with("scheduler_refused_writes_total{")).collect::<Vec<_>>();
    assert!(refused.iter().all(|l| l.ends_with(" 0")), "results that were written were refused: {refused:?}");
}
