//! A thousand commands on three agents: never more at once than there are slots, and none lost.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::engine::Engine;
use crate::wait::until;
use crate::world::World;

const RUNS: usize = 1000;
const SLOTS: usize = 50;

#[tokio::test]
async fn a_thousand_commands_keep_to_the_slots() {
    let world = World::alone(Engine::Postgres).await;
    let server = world.server(&[("LOG_LEVEL", "warn")]).await;
    let rest = server.rest();
    let slots = SLOTS.to_string();
    let mut agents = Vec::new();
    for name in ["a", "b", "c"] {
        agents.push(world.agent(name, &[&server], &["--slots", &slots]).await);
    }
    let ledger = world.path("ledger");
    // Lines that are appended are whole and in order, so that the ledger is an account of what ran at once.
    let script = r#"echo "+ $ORRERY_EXECUTION_ID" >> "$LEDGER"; sleep 1; echo "- $ORRERY_EXECUTION_ID" >> "$LEDGER""#;
    let config = json!({"command": script, "environment": {"LEDGER": ledger.display().to_string()}});
    let job = rest
        .create(json!({"name": "many", "manual": true, "jobType": "shell", "maxConcurrent": 0, "config": config}))
        .await;
    let triggers: Vec<Value> = (0..RUNS).map(|_| json!({"id": job})).collect();
    rest.post("/jobs/batch-trigger", json!({"triggers": triggers})).await.ok();

    let path = format!("/executions/stats?jobId={job}");
    let stats = until("all of them are done", Duration::from_secs(90), async || {
        let stats = rest.get(&path).await.ok();
        (stats["pending"] == 0 && stats["running"] == 0).then_some(stats)
    })
    .await;
    assert_eq!((&stats["completed"], &stats["total"]), (&json!(RUNS), &json!(RUNS)), "{stats:#}");

    let text = std::fs::read_to_string(ledger).unwrap();
    let account = account(&text);
    assert_eq!(account.seen.len(), RUNS, "some never ran");
    assert!(account.seen.values().all(|times| *times == (1, 1)), "some ran twice, or to no end");
    assert!(account.most <= 3 * SLOTS, "{} ran at once", account.most);
    let mut by_agent: BTreeMap<String, usize> = BTreeMap::new();
    for run in rest.executions(&job).await {
        *by_agent.entry(run["workerName"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    assert!(by_agent.len() == 3 && by_agent.values().all(|runs| *runs > RUNS / 10), "{by_agent:?}");
}

struct Account<'a> {
    /// Starts and ends by execution.
    seen: BTreeMap<&'a str, (u32, u32)>,
    most: usize,
}

fn account(text: &str) -> Account<'_> {
    let (mut seen, mut now, mut most) = (BTreeMap::new(), 0_usize, 0);
    for line in text.lines() {
        let (sign, id) = line.split_once(' ').unwrap();
        let times: &mut (u32, u32) = seen.entry(id).or_default();
        if sign == "+" {
            times.0 += 1;
            now += 1;
            most = most.max(now);
        } else {
            times.1 += 1;
            now -= 1;
        }
    }
    Account { seen, most }
}
