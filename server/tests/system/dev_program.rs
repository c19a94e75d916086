//! `orrery dev`, as somebody who tries it for the first time meets it.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::engine::Engine;
use crate::rest::Rest;
use crate::stopping::{dead, pid_in};
use crate::wait::{SOON, until};
use crate::world::World;

#[tokio::test]
async fn the_ready_line_names_what_serves() {
    let world = World::new(Engine::Sqlite).await;
    let mut server = world.dev(&["--no-demo"]).await;
    let line = server.process.line("ready ", SOON).await;
    let words: Vec<&str> = line.split(' ').collect();
    let [ready, http, grpc, metrics] = words[..] else { panic!("{line:?}") };
    assert_eq!(ready, "ready");
    for (word, name) in [(http, "http="), (grpc, "grpc="), (metrics, "metrics=")] {
        let address: SocketAddr = word.strip_prefix(name).unwrap().parse().unwrap();
        assert!(address.ip().is_loopback() && address.port() != 0, "{line:?}");
    }
    assert_eq!(server.process.stdout().lines().count(), 1, "a script that reads it wants nothing else");
}

#[tokio::test]
async fn demo_jobs_run_at_once() {
    let world = World::new(Engine::Sqlite).await;
    let server = world.dev(&[]).await;
    let rest = server.rest();
    let jobs =
        until("there are four jobs", SOON, async || Some(jobs(&rest).await).filter(|jobs| jobs.len() == 4)).await;
    for job in &jobs {
        let name = job["name"].as_str().unwrap();
        let run = until(&format!("{name} completes"), Duration::from_secs(15), async || {
            let runs = rest.executions(job["id"].as_str().unwrap()).await;
            runs.into_iter().find(|run| run["status"] == "completed")
        })
        .await;
        let attempts = run["attempts"].as_array().unwrap().len();
        assert_eq!(attempts, if name == "demo-retry" { 3 } else { 1 }, "{run:#}");
    }
}

#[tokio::test]
async fn without_demo_there_is_nothing() {
    let world = World::new(Engine::Sqlite).await;
    let server = world.dev(&["--no-demo"]).await;
    assert!(jobs(&server.rest()).await.is_empty());
}

async fn jobs(rest: &Rest) -> Vec<Value> {
    crate::rest::list(&rest.get("/jobs").await.ok(), "jobs")
}

#[tokio::test]
async fn a_busy_port_is_named() {
    let world = World::new(Engine::Sqlite).await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for flag in ["--http", "--grpc", "--metrics"] {
        let mut args = vec!["dev", "--no-demo"];
        for other in ["--http", "--grpc", "--metrics"] {
            args.extend([other, if other == flag { &address } else { "127.0.0.1:0" }]);
        }
        let mut process = world.orrery("busy", &args, &[]);
        assert!(!process.ended(SOON).await.success());
        let told = process.stderr();
        assert!(told.contains(&address) && told.contains(flag), "{told}");
    }
}

#[tokio::test]
async fn interrupting_ends_it_with_all_its_children() {
    let world = World::new(Engine::Sqlite).await;
    let mut server = world.dev(&["--no-demo"]).await;
    let rest = server.rest();
    let script = "echo $$ > \"$DIR/child\"; sleep 600 & wait";
    let config = json!({"command": script, "environment": {"DIR": world.directory().display().to_string()}});
    let run = rest.trigger(&rest.create_manual("long", "shell", config).await).await;
    let child = pid_in(&world.path("child")).await;
    rest.running(&run).await;
    server.process.signal(Signal::INT);
    let status = server.process.ended(Duration::from_secs(15)).await;
    assert!(status.success(), "{status}");
    dead(&[child]).await;

    // Nothing is lost: the next start knows of it.
    let server = world.dev(&["--no-demo"]).await;
    let run = server.rest().execution(&run).await;
    assert_ne!(run["status"], "completed", "{run:#}");
}

#[tokio::test]
async fn an_idle_one_ends_at_once() {
    let world = World::new(Engine::Sqlite).await;
    let mut server = world.dev(&["--no-demo"]).await;
    server.process.signal(Signal::INT);
    let status = server.process.ended(Duration::from_secs(4)).await;
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn a_second_one_on_the_same_data_is_refused() {
    let world = World::new(Engine::Sqlite).await;
    let _server = world.dev(&["--no-demo"]).await;
    let args = ["dev", "--no-demo", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0"];
    let mut second = world.orrery("second", &args, &[]);
    assert!(!second.ended(SOON).await.success());
    let told = second.stderr();
    assert!(told.contains("orrery.db") && told.contains("another"), "{told}");
}
