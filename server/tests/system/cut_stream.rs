//! The way between an agent and its coordinator is cut: for a moment, which costs nothing, or for longer than its session lives.

use serde_json::json;

use crate::journal::has_result;
use crate::process::{Process, is_alive};
use crate::proxy::Proxy;
use crate::rest::Rest;
use crate::stopping::{dead, pid_in};
use crate::wait::{SOON, until_true};
use crate::world::{Server, World};

on_each_engine!(
    a_short_cut_costs_nothing,
    a_long_cut_ends_the_work,
    what_ends_meanwhile_is_told_later,
    what_ends_meanwhile_outlives_the_agent,
);

const SCRIPT: &str = r#"
    echo $$ > "$DIR/pid-$ORRERY_EPOCH"
    [ "$ORRERY_EPOCH" -gt 1 ] || until [ -e "$DIR/go" ]; do sleep 0.05; done
    echo "last words"
"#;

struct Scene {
    server: Server,
    proxy: Proxy,
    agent: Process,
    rest: Rest,
    run: String,
    child: i32,
}

/// An execution runs on an agent behind a proxy.
async fn scene(world: &World, ttl_ms: &str) -> Scene {
    let server = world.server(&[("ORRERY_SESSION_TTL_MS", ttl_ms)]).await;
    let proxy = Proxy::to(&server.grpc).await;
    let agent = world.start_agent_to("far", &proxy.url(), &[], &crate::token::token());
    server.has_agent("far").await;
    let rest = server.rest();
    let config = json!({"command": SCRIPT, "environment": {"DIR": world.directory().display().to_string()}});
    let run = rest.trigger(&rest.create_manual("far", "shell", config).await).await;
    let child = pid_in(&world.path("pid-1")).await;
    rest.running(&run).await;
    Scene { server, proxy, agent, rest, run, child }
}

async fn a_short_cut_costs_nothing(world: World) {
    let scene = scene(&world, "15000").await;
    scene.proxy.cut();
    disconnected(&scene.rest).await;
    scene.proxy.mend();
    scene.server.has_agent("far").await;
    assert!(is_alive(scene.child));
    std::fs::write(world.path("go"), "").unwrap();
    let run = scene.rest.finished(&scene.run).await;
    assert_eq!((&run["status"], &run["epoch"]), (&json!("completed"), &json!(1)), "{run:#}");
    assert_eq!(run["attempts"].as_array().unwrap().len(), 1, "{run:#}");
}

async fn a_long_cut_ends_the_work(world: World) {
    let scene = scene(&world, "2000").await;
    scene.proxy.cut();
    // The agent's own clock ends it, since nobody can reach the agent.
    dead(&[scene.child]).await;
    scene.rest.execution_when(&scene.run, "its lease is taken back", SOON, |e| e["status"] == "pending").await;
    assert!(scene.rest.workers().await.is_empty(), "its session lives on");
    scene.proxy.mend();
    let run = scene.rest.finished(&scene.run).await;
    assert_eq!((&run["status"], &run["epoch"]), (&json!("completed"), &json!(2)), "{run:#}");
    assert_eq!(run["attempts"][0]["outcome"], "lost", "{run:#}");
}

async fn what_ends_meanwhile_is_told_later(world: World) {
    let scene = scene(&world, "15000").await;
    scene.proxy.cut();
    disconnected(&scene.rest).await;
    std::fs::write(world.path("go"), "").unwrap();
    dead(&[scene.child]).await;
    assert_eq!(scene.rest.execution(&scene.run).await["status"], "running");
    scene.proxy.mend();
    let run = scene.rest.finished(&scene.run).await;
    assert_eq!((&run["status"], &run["epoch"]), (&json!("completed"), &json!(1)), "{run:#}");
}

/// It prints and ends while nobody can hear it, and its agent is killed before the way is mended.
async fn what_ends_meanwhile_outlives_the_agent(world: World) {
    // The agent must be back within the session's life.
    let mut scene = scene(&world, "60000").await;
    scene.proxy.cut();
    disconnected(&scene.rest).await;
    std::fs::write(world.path("go"), "").unwrap();
    dead(&[scene.child]).await;
    let journal = world.path("agent-far");
    until_true("its result is journalled", SOON, async || has_result(&journal, &scene.run)).await;
    scene.agent.kill();
    scene.proxy.mend();
    scene.agent = world.start_agent_to("far", &scene.proxy.url(), &[], &crate::token::token());
    let run = scene.rest.finished(&scene.run).await;
    assert_eq!((&run["status"], &run["epoch"]), (&json!("completed"), &json!(1)), "{run:#}");
    until_true("its last words are told", SOON, async || {
        let logs = scene.rest.get(&format!("/executions/{}/logs", scene.run)).await.ok();
        logs["entries"].as_array().unwrap().iter().any(|entry| entry["text"] == "last words\n")
    })
    .await;
}

async fn disconnected(rest: &Rest) {
    until_true("the coordinator sees that the stream is lost", SOON, async || {
        rest.workers().await.iter().any(|worker| worker["state"] == "disconnected")
    })
    .await;
}
