//! PostgreSQL holds the ordinary work up for longer than sessions live: nobody expires of it.

use std::time::Duration;

use serde_json::json;
use sqlx::{Connection, PgConnection};

use crate::engine::Engine;
use crate::stopping::pid_in;
use crate::wait::{SOON, until_true};
use crate::world::World;

#[tokio::test]
async fn a_stall_expires_nobody() {
    let world = World::new(Engine::Postgres).await;
    let server = world.server(&[("ORRERY_SESSION_TTL_MS", "4000"), ("ORRERY_DATABASE_CONNECTIONS", "5")]).await;
    let rest = server.rest();
    let _agent = world.agent("a", &[&server], &[]).await;
    let session = rest.workers().await[0]["id"].clone();
    let script = r#"echo $$ > "$DIR/pid"; until [ -e "$DIR/go" ]; do sleep 0.05; done"#;
    let config = json!({"command": script, "environment": {"DIR": world.directory().display().to_string()}});
    let run = rest.trigger(&rest.create_manual("long", "shell", config).await).await;
    pid_in(&world.path("pid")).await;
    rest.running(&run).await;

    let mut holder = PgConnection::connect(world.database_url()).await.unwrap();
    sqlx::raw_sql("begin; lock table live_executions in access exclusive mode").execute(&mut holder).await.unwrap();
    let mut watcher = PgConnection::connect(world.database_url()).await.unwrap();
    // By the database's clock; what is asked here touches no table that is locked.
    let renewed =
        "select expires_at > clock_timestamp() and renewed_at > $1 + interval '12 seconds' from agent_sessions
        where id = $2::text::uuid";
    let begun: chrono::DateTime<chrono::Utc> =
        sqlx::query_scalar("select clock_timestamp()").fetch_one(&mut watcher).await.unwrap();
    until_true("the session is renewed for three of its lives", Duration::from_secs(40), async || {
        // Callers find the pool full, and are told so soon.
        let asked = std::time::Instant::now();
        let refused = rest.get(&format!("/executions/{run}")).await;
        assert_eq!(refused.status, 503, "{}", refused.text);
        assert!(asked.elapsed() < Duration::from_secs(10), "it took {:?}", asked.elapsed());
        let alive: Option<bool> = sqlx::query_scalar(renewed)
            .bind(begun)
            .bind(session.as_str().unwrap())
            .fetch_optional(&mut watcher)
            .await
            .unwrap();
        alive.expect("the session is over")
    })
    .await;
    sqlx::raw_sql("rollback").execute(&mut holder).await.unwrap();
    std::fs::write(world.path("go"), "").unwrap();
    let run = rest.finished(&run).await;
    assert_eq!((&run["status"], &run["epoch"]), (&json!("completed"), &json!(1)), "{run:#}");
    until_true("the same session goes on", SOON, async || rest.workers().await.iter().any(|w| w["id"] == session))
        .await;
}
