//! The database goes away, before the start and in the middle.

use std::time::Duration;

use serde_json::json;

use crate::engine::Engine;
use crate::private_postgres::PrivatePostgres;
use crate::stopping::{dead, pid_in};
use crate::target::Target;
use crate::wait::{SOON, until};
use crate::world::{Server, World};

#[tokio::test]
async fn it_waits_serves_and_recovers() {
    let world = World::new(Engine::Sqlite).await;
    let mut postgres = PrivatePostgres::prepared();
    let url = postgres.url();
    let process = world.start_server(&[("DATABASE_URL", &url)]);
    process.says("the database cannot be reached yet", SOON).await;
    postgres.start().await;
    let server = Server::ready(process, Some(crate::token::token())).await;
    let rest = server.rest();
    let _agent = world.agent("a", &[&server], &[]).await;
    let target = Target::start().await;
    let job = rest
        .create(json!({
            "name": "ticks", "cronExpression": "* * * * * *", "jobType": "http", "config": {"url": target.url("/")},
        }))
        .await;
    target.after(2, SOON).await;
    let script = r#"echo $$ > "$DIR/pid"; until [ -e "$DIR/go" ]; do sleep 0.05; done"#;
    let config = json!({"command": script, "environment": {"DIR": world.directory().display().to_string()}});
    let long = rest.trigger(&rest.create_manual("long", "shell", config).await).await;
    let child = pid_in(&world.path("pid")).await;
    rest.running(&long).await;

    postgres.stop().await;
    // It ends while nobody can write that down.
    std::fs::write(world.path("go"), "").unwrap();
    dead(&[child]).await;
    let refused = rest.get(&format!("/jobs/{job}")).await;
    refused.refused(503, "DATABASE_UNAVAILABLE");
    assert!(!refused.text.contains("os error") && !refused.text.contains("postgres"), "{}", refused.text);
    let health = rest.root("/health").await;
    assert_eq!((health.status, &health.json()["dependencies"]["database"]), (503, &json!(false)), "{}", health.text);
    assert_eq!(rest.root("/ready").await.status, 503);
    let before = target.arrivals().len();

    postgres.start().await;
    let recovered = until("it answers again", Duration::from_secs(30), async || {
        let answer = rest.get(&format!("/jobs/{job}")).await;
        (answer.status == 200).then(|| answer.json())
    })
    .await;
    assert_eq!(recovered["status"], "active");
    assert_eq!(rest.root("/ready").await.status, 200);
    let run = rest.finished(&long).await;
    assert_eq!((&run["status"], &run["epoch"]), (&json!("completed"), &json!(1)), "{run:#}");
    let arrivals = target.after(before + 3, Duration::from_secs(30)).await;
    let mut ids: Vec<String> = arrivals.iter().map(|a| a.execution()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), arrivals.len(), "an execution arrived twice");
}
