//! Work that takes its agents with it: it is given up after three of them, and runs again when somebody says so.

use std::time::Duration;

use serde_json::json;

use crate::stopping::pid_in;
use crate::wait::{SOON, until};
use crate::world::World;

on_each_engine!(what_kills_its_agents_is_a_dead_letter);

/// Kills its agent, the process above its supervisor, until a file says that it is mended.
const SCRIPT: &str = r#"
    [ -e "$DIR/mended" ] && { echo well; exit 0; }
    echo $$ > "$DIR/epoch-$ORRERY_EPOCH"
    until [ -e "$DIR/go-$ORRERY_EPOCH" ]; do sleep 0.05; done
    kill -9 "$(cat "$DIR/go-$ORRERY_EPOCH")"
    sleep 60
"#;

async fn what_kills_its_agents_is_a_dead_letter(world: World) {
    let server = world.server(&[("ORRERY_SESSION_TTL_MS", "3000")]).await;
    let rest = server.rest();
    let config = json!({"command": SCRIPT, "environment": {"DIR": world.directory().display().to_string()}});
    let job = rest.create(json!({"name": "poison", "manual": true, "jobType": "shell", "config": config})).await;
    let run = rest.trigger(&job).await;
    for epoch in 1..=3 {
        let mut agent = world.agent(&format!("agent-{epoch}"), &[&server], &[]).await;
        pid_in(&world.path(&format!("epoch-{epoch}"))).await;
        rest.running(&run).await;
        let partly = world.path("go");
        std::fs::write(&partly, agent.pid().to_string()).unwrap();
        std::fs::rename(&partly, world.path(&format!("go-{epoch}"))).unwrap();
        agent.ended(SOON).await;
    }
    let given_up = rest.finished(&run).await;
    assert_eq!(
        (&given_up["status"], &given_up["quarantined"]),
        (&json!("failed"), &json!("leases_lost")),
        "{given_up:#}"
    );
    assert_eq!(given_up["epoch"], 3, "{given_up:#}");
    let listed = rest.get("/dead-letters?state=open").await.ok();
    let letter = &listed["deadLetters"][0];
    assert_eq!((&letter["executionId"], &letter["losses"]), (&json!(run), &json!(3)), "{listed:#}");
    assert_eq!(letter["lastWorker"], "agent-3", "{listed:#}");
    let counted = r#"scheduler_dead_letters_total{reason="leases_lost"} 1"#;
    until("it is counted", Duration::from_secs(10), async || {
        rest.elsewhere(&server.metrics, "/metrics").await.text.contains(counted).then_some(())
    })
    .await;

    std::fs::write(world.path("mended"), "").unwrap();
    let _agent = world.agent("agent-4", &[&server], &[]).await;
    let released = rest.post(&format!("/dead-letters/{run}/release"), json!({})).await.ok();
    assert_eq!(released["retryOf"], json!(run), "{released:#}");
    let done = rest.finished(released["id"].as_str().unwrap()).await;
    assert_eq!(
        (&done["status"], &done["result"]["result"]["stdout"]),
        (&json!("completed"), &json!("well\n")),
        "{done:#}"
    );
    let again = rest.post(&format!("/dead-letters/{run}/release"), json!({})).await.ok();
    assert_eq!(again["id"], released["id"]);
    assert_eq!(rest.execution(&run).await["status"], "failed");
}
