//! HTTP jobs are not turned inwards, whatever the process around them says.

use serde_json::{Value, json};

use crate::engine::Engine;
use crate::process::Process;
use crate::target::Target;
use crate::token::token;
use crate::wait::SOON;
use crate::world::{Server, World};

/// An agent that lets its jobs reach nothing of its own network, with this beside.
async fn closed(world: &World, server: &Server, args: &[&str], environment: &[(&str, &str)]) -> Process {
    let (token, data) = (token(), world.path("agent-closed").display().to_string());
    let own = [
        ("ORRERY_COORDINATOR", server.grpc.as_str()),
        ("ORRERY_TOKEN", &token),
        ("ORRERY_AGENT_NAME", "closed"),
        ("ORRERY_AGENT_DATA_DIR", &data),
    ];
    let agent = world.orrery("agent-closed", &[&["agent"], args].concat(), &[&own, environment].concat());
    server.has_agent("closed").await;
    agent
}

async fn run(server: &Server, url: &str) -> Value {
    let rest = server.rest();
    let job = rest.create_manual("call", "http", json!({"url": url, "timeout": 10_000})).await;
    rest.run(&job).await
}

#[tokio::test]
async fn the_network_of_an_agent_is_closed_and_the_error_says_what_opens_it() {
    let world = World::new(Engine::Sqlite).await;
    let target = Target::start().await;
    // The server opens it, but nothing that the agent does not let it.
    let server = world.server(&[("ORRERY_EGRESS_ALLOW", "127.0.0.0/8")]).await;
    let _agent = closed(&world, &server, &[], &[]).await;
    let execution = run(&server, &target.url("/")).await;
    assert_eq!((&execution["status"], &execution["errorType"]), (&json!("failed"), &json!("VALIDATION_ERROR")));
    let message = execution["errorMessage"].as_str().unwrap();
    assert!(message.starts_with("config.url 127.0.0.1 is a loopback address"), "{message}");
    assert!(message.contains("ORRERY_EGRESS_DELEGATE=127.0.0.1"), "{message}");
    assert_eq!(execution["retryCount"], 0, "it will not be otherwise the next time");
    assert_eq!(target.arrivals().len(), 0);
}

#[tokio::test]
async fn the_server_opens_what_the_agent_lets_it() {
    let world = World::new(Engine::Sqlite).await;
    let target = Target::start().await;
    let server = world.server(&[("ORRERY_EGRESS_ALLOW", "127.0.0.0/8")]).await;
    let _agent = closed(&world, &server, &["--egress-delegate", "127.0.0.1,10.0.0.0/8"], &[]).await;
    let execution = run(&server, &target.url("/")).await;
    assert_eq!(execution["status"], "completed", "{execution:#}");
    assert_eq!(target.arrivals().len(), 1);
}

/// A proxy would resolve and connect in the agent's place, and nothing would be checked.
#[tokio::test]
async fn proxies_of_the_environment_are_not_asked() {
    let world = World::new(Engine::Sqlite).await;
    let (target, proxy) = (Target::start().await, Target::start().await);
    let server = world.server(&[]).await;
    let url = proxy.url("");
    let environment =
        ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"].map(|n| (n, url.as_str()));
    let _agent = closed(&world, &server, &["--egress-allow", "127.0.0.1"], &environment).await;
    assert_eq!(run(&server, &target.url("/")).await["status"], "completed");
    assert_eq!((target.arrivals().len(), proxy.arrivals().len()), (1, 0));
}

#[tokio::test]
async fn a_rule_that_cannot_be_read_is_named_at_the_start() {
    let world = World::new(Engine::Sqlite).await;
    for (args, part) in [
        (["agent", "--egress-allow", "10.0.0.1/8"], "10.0.0.0/8"),
        (["agent", "--egress-delegate", "http://a"], "--egress-delegate"),
        (["server", "--egress-allow", "*"], "--egress-allow"),
        (["server", "--trusted-proxies", "10.0.0.1/8"], "--trusted-proxies"),
        (["server", "--ip-allow", "home"], "--ip-allow"),
        (["server", "--cors-origins", "*"], "all pages are never allowed"),
    ] {
        let mut process = world.orrery("wrong", &args, &[]);
        assert_eq!(process.ended(SOON).await.code(), Some(2));
        let said = process.stderr();
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
}

#[tokio::test]
async fn development_calls_this_host_and_says_so() {
    let world = World::new(Engine::Sqlite).await;
    let target = Target::start().await;
    let dev = world.dev(&["--no-demo"]).await;
    dev.process.says("http jobs may call this host's own addresses", SOON).await;
    assert_eq!(run(&dev, &target.url("/")).await["status"], "completed");
    let rest = dev.rest();
    let inside =
        rest.create_manual("metadata", "http", json!({"url": "http://169.254.169.254/latest/meta-data/"})).await;
    let execution = rest.run(&inside).await;
    assert_eq!(execution["errorType"], "VALIDATION_ERROR", "{execution:#}");
}
