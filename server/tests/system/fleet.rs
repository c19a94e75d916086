//! Many agents at once, and agents that do not behave.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use orrery_proto::Json;
use orrery_proto::v1::agent_message::Kind;
use orrery_proto::v1::agent_service_client::AgentServiceClient;
use orrery_proto::v1::{AgentMessage, Credit, Heartbeat, HeldLease, Register};
use orrery_sdk::Worker;
use orrery_sdk::executor::{Context, Executor, Outcome, Task};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic::transport::Channel;

use crate::engine::Engine;
use crate::rest::{Rest, id, list};
use crate::token::token;
use crate::wait::{SOON, until_true};
use crate::world::World;

const AGENTS: usize = 200;

/// In how much time they are to be back; most of it is for a machine that is busy with something else.
const MOVED: Duration = Duration::from_secs(30);

/// Does it at once.
struct Done;

#[async_trait]
impl Executor for Done {
    async fn run(&self, _: Task, _: Context) -> Outcome {
        Outcome::success(Json::new("true"))
    }
}

/// The ids of the sessions that are attached to a coordinator.
async fn attached(rest: &Rest, to: Option<&str>) -> BTreeSet<String> {
    let workers = list(&rest.get("/workers?pageSize=1000").await.ok(), "workers");
    let here = |worker: &&Value| to.is_none_or(|id| worker["coordinatorId"] == id);
    workers.iter().filter(|worker| worker["state"] == "connected").filter(here).map(id).collect()
}

#[tokio::test]
async fn two_hundred_agents_move_at_once() {
    let world = World::alone(Engine::Postgres).await;
    // Sessions that outlast a machine which is busy with something else, so that all of them are resumed.
    let settings = [("LOG_LEVEL", "warn"), ("ORRERY_SESSION_TTL_MS", "60000")];
    let mut first = world.server(&settings).await;
    let second = world.server(&settings).await;
    let (shutdown, mut agents) = (CancellationToken::new(), JoinSet::new());
    for number in 0..AGENTS {
        let worker = Worker::builder()
            .endpoints([&first.grpc, &second.grpc])
            .keep_order()
            .name(format!("agent-{number}"))
            .api_key(token())
            .executor("command", Arc::new(Done));
        agents.spawn(worker.build().unwrap().run(shutdown.clone()));
    }
    let rest = second.rest();
    until_true("all are attached", Duration::from_secs(60), async || attached(&rest, None).await.len() == AGENTS).await;
    let sessions = attached(&rest, None).await;
    // On a busy machine some may have found the second only; most are to be cut off.
    let mut busiest = Vec::new();
    for coordinator in list(&rest.get("/status").await.ok(), "coordinators") {
        busiest.push((attached(&rest, Some(&id(&coordinator))).await.len(), id(&coordinator)));
    }
    busiest.sort();
    let [(_, survivor), (most, _)] = busiest.try_into().expect("two coordinators");
    assert!(most > AGENTS / 2, "only {most} are at the first");
    let job = rest.create_manual("done", "command", json!({"command": "true"})).await;

    first.process.kill();
    let cut_at = Instant::now();
    let run = rest.trigger(&job).await;
    assert_eq!(rest.finished(&run).await["status"], "completed");
    let ran_after = cut_at.elapsed();
    until_true("all have moved", MOVED, async || attached(&rest, Some(&survivor)).await == sessions).await;
    assert!(ran_after < MOVED / 2, "it had to wait for {ran_after:?} behind the agents that came back");
    // They serve there.
    let triggers: Vec<_> = (0..AGENTS * 2).map(|_| json!({"id": job})).collect();
    rest.post(&format!("/jobs/{job}/pause"), json!({})).await.ok();
    let many = rest
        .create(json!({"name": "many", "manual": true, "maxConcurrent": 0, "jobType": "command", "config": {"command": "true"}}))
        .await;
    let triggers: Vec<_> = triggers.iter().map(|_| json!({"id": many})).collect();
    rest.post("/jobs/batch-trigger", json!({"triggers": triggers})).await.ok();
    until_true("all of it is done", Duration::from_secs(60), async || {
        rest.get(&format!("/executions/stats?jobId={many}")).await.ok()["completed"] == json!(AGENTS * 2)
    })
    .await;
    shutdown.cancel();
    while agents.join_next().await.is_some() {}
}

/// An agent that takes work and sends heartbeats, but never reads.
#[tokio::test]
async fn who_does_not_read_is_cut_off_and_hurts_nobody() {
    let world = World::new(Engine::Postgres).await;
    let server = world.server(&[("ORRERY_SESSION_TTL_MS", "5000")]).await;
    let rest = server.rest();
    let channel = Channel::from_shared(server.grpc.clone()).unwrap().connect().await.unwrap();
    let bearer = format!("Bearer {}", token());
    let mut client = AgentServiceClient::with_interceptor(channel, move |mut request: Request<()>| {
        request.metadata_mut().insert("authorization", bearer.parse().unwrap());
        Ok(request)
    });
    let (words, said) = mpsc::channel(16);
    let say = async |kind| words.send(AgentMessage { kind: Some(kind) }).await;
    let register = Register {
        protocol_version: 1,
        name: "deaf".into(),
        executors: vec!["shell".into()],
        slots: 8,
        ..Register::default()
    };
    say(Kind::Register(register)).await.unwrap();
    let _unread = client.session(ReceiverStream::new(said)).await.unwrap();
    say(Kind::Credit(Credit { slots: 8 })).await.unwrap();
    server.has_agent("deaf").await;
    // Far more than what waits on the way to a reader.
    let config = json!({"command": format!("# {}\n", "x".repeat(100_000))});
    let job = rest
        .create(json!({"name": "wide", "manual": true, "maxConcurrent": 0, "jobType": "shell", "config": config}))
        .await;
    let triggers: Vec<_> = (0..8).map(|_| json!({"id": job})).collect();
    rest.post("/jobs/batch-trigger", json!({"triggers": triggers})).await.ok();
    until_true("it holds all of them", SOON, async || {
        rest.executions(&job).await.iter().all(|run| run["workerName"] == "deaf")
    })
    .await;
    let _other = world.agent("other", &[&server], &[]).await;
    let held_at = Instant::now();
    let mut sequence = 0;
    let lease = |run: &Value| HeldLease { execution_id: id(run), epoch: 1 };
    let held: Vec<HeldLease> = rest.executions(&job).await.iter().map(lease).collect();
    // Its session is renewed all the while, and it names all that it was given.
    while rest.workers().await.iter().any(|worker| worker["name"] == "deaf" && worker["state"] == "connected") {
        sequence += 1;
        let beat = Kind::Heartbeat(Heartbeat { sequence, held: held.clone(), heard: 0 });
        let _ = words.try_send(AgentMessage { kind: Some(beat) });
        let small = rest.create_manual(&format!("small {sequence}"), "shell", json!({"command": "true"})).await;
        let asked = Instant::now();
        let run = rest.run(&small).await;
        assert_eq!((&run["status"], &run["workerName"]), (&json!("completed"), &json!("other")), "{run:#}");
        assert!(asked.elapsed() < Duration::from_secs(5), "it waited for {:?}", asked.elapsed());
        assert!(held_at.elapsed() < Duration::from_secs(15), "it is still connected");
    }
    until_true("others have its work", SOON, async || {
        rest.executions(&job).await.iter().all(|run| run["status"] == "completed" && run["workerName"] == "other")
    })
    .await;
}
