//! What is changed of a tenant counts wherever it has to: at every coordinator, and for jobs that were saved before.

use serde_json::json;

use crate::engine::Engine;
use crate::rest::Rest;
use crate::token::token_of;
use crate::wait::{SOON, until, until_true};
use crate::world::World;

const DEFAULT: &str = "00000000-0000-0000-0000-000000000001";
const ACME: &str = "00000000-0000-0000-0000-00000000acce";

async fn ticks(rest: &Rest) -> String {
    let config = json!({"command": "true"});
    rest.create(json!({"name": "ticks", "cronExpression": "* * * * * *", "jobType": "command", "config": config})).await
}

/// Waits until a job has had so many more executions than now.
async fn more(rest: &Rest, job: &str, count: usize) {
    let before = rest.executions(job).await.len();
    until_true("it goes on to fire", SOON, async || rest.executions(job).await.len() >= before + count).await;
}

#[tokio::test]
async fn a_suspension_counts_at_every_coordinator() {
    let world = World::new(Engine::Postgres).await;
    let (first, second) = (world.server(&[]).await, world.server(&[]).await);
    let admin = first.rest();
    let settings = json!({"allowShell": true});
    admin.post("/tenants", json!({"name": "acme", "id": ACME, "settings": settings})).await.ok();
    let token = token_of(ACME);
    let (here, there) = (first.rest().with(Some(&token)), second.rest().with(Some(&token)));
    let _agent = world.start_agent("theirs", &[&second], &[], &token);
    let _ours = world.agent("ours", &[&first], &[]).await;
    until("their agent is there", SOON, async || there.workers().await.first().cloned()).await;
    let (ours, theirs) = (ticks(&admin).await, ticks(&there).await);
    more(&there, &theirs, 2).await;
    let script = r#"until [ -e "$DIR/go" ]; do sleep 0.05; done"#;
    let config = json!({"command": script, "environment": {"DIR": world.directory().display().to_string()}});
    let long = there.trigger(&there.create_manual("long", "shell", config).await).await;
    there.running(&long).await;

    admin.post(&format!("/tenants/{ACME}/suspend"), json!({"reason": "unpaid"})).await.ok();
    here.get("/jobs").await.refused(403, "TENANT_SUSPENDED");
    until("the other coordinator has seen it", SOON, async || (there.get("/jobs").await.status == 403).then_some(()))
        .await;
    there.get("/jobs").await.refused(403, "TENANT_SUSPENDED");
    // What runs goes on, and others are as they were, for long enough that fires are missed.
    std::fs::write(world.path("go"), "").unwrap();
    more(&admin, &ours, 4).await;
    admin.post(&format!("/tenants/{ACME}/resume"), json!({})).await.ok();
    until("the other coordinator has seen it", SOON, async || (there.get("/jobs").await.status == 200).then_some(()))
        .await;
    let run = there.finished(&long).await;
    assert_eq!((&run["status"], &run["epoch"]), (&json!("completed"), &json!(1)), "{run:#}");
    more(&there, &theirs, 2).await;
    // What was planned when it was suspended was omitted; the rest is up to the job's misfire policy.
    let omissions = there.omissions(&theirs).await;
    assert!(omissions.iter().any(|omission| omission["reason"] == "tenant_suspended"), "{omissions:#?}");
}

/// A job that was saved while its tenant might use shells.
#[tokio::test]
async fn what_was_tightened_counts_for_jobs_that_were_saved_before() {
    let world = World::new(Engine::Sqlite).await;
    let server = world.server(&[]).await;
    let rest = server.rest();
    let _agent = world.agent("a", &[&server], &[]).await;
    let job = rest.create_manual("shell", "shell", json!({"script": "true"})).await;
    assert_eq!(rest.finished(&rest.trigger(&job).await).await["status"], "completed");
    let tenant = json!({"name": "default", "settings": {"allowShell": false}, "quotas": {"maxResultBytes": 40}});
    rest.put(&format!("/tenants/{DEFAULT}"), tenant).await.ok();
    let run = rest.finished(&rest.trigger(&job).await).await;
    assert_eq!((&run["status"], &run["errorType"]), (&json!("failed"), &json!("VALIDATION_ERROR")), "{run:#}");
    assert!(run["errorMessage"].as_str().unwrap().contains("may not run shells"), "{run:#}");
    // Nor does it keep results that are larger than it may.
    let echo = rest.create_manual("echo", "command", json!({"command": "echo", "args": ["x".repeat(100)]})).await;
    let run = rest.finished(&rest.trigger(&echo).await).await;
    assert_eq!((&run["status"], &run["result"]["dropped"]), (&json!("completed"), &json!(true)), "{run:#}");
}
