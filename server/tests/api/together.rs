//! Triggers that come at the same time are made together: nobody notices it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use orrery_proto::v1::TriggerType;
use orrery_server::api::TriggerQueue;
use orrery_server::store::sqlite::SqliteStore;
use orrery_server::store::{DynStore, Jobs, Trigger};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::world::{JOBS, World, id, limits};

const CALLERS: usize = 32;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn each_caller_has_its_own_answer() {
    let world = World::new().await;
    let (free, last) = (
        world.job("free", json!({"maxConcurrent": 0})).await,
        world.job("last", json!({"maxConcurrent": 0, "maxExecutions": 20})).await,
    );
    let calls = (0..CALLERS * 3).map(|n| {
        let (world, free, last) = (&world, &free, &last);
        async move {
            let job = match n % 3 {
                0 => id(free).to_owned(),
                1 => id(last).to_owned(),
                _ => Uuid::new_v4().to_string(),
            };
            (n, world.post(&format!("{JOBS}/{job}/trigger"), json!({"parameters": {"n": n}})).await)
        }
    });
    let (mut made, mut spent) = (HashSet::new(), 0);
    for (n, answer) in join_all(calls).await {
        match n % 3 {
            2 => drop(answer.refused(404, "JOB_NOT_FOUND")),
            1 if answer.status == 409 => {
                let error = answer.refused(409, "JOB_INACTIVE");
                assert!(error["details"].get("index").is_none(), "{error}");
                spent += 1;
            }
            kind => {
                let execution = answer.ok();
                assert_eq!(execution["jobId"], if kind == 0 { free["id"].clone() } else { last["id"].clone() });
                assert_eq!(execution["parameters"]["n"], n);
                assert!(made.insert(execution["id"].to_string()));
            }
        }
    }
    assert_eq!((made.len(), spent), (CALLERS + 20, CALLERS - 20));
    let count = async |job| world.get(&format!("{JOBS}/{}", id(job))).await.ok()["executionCount"].clone();
    assert_eq!((count(&free).await, count(&last).await), (json!(CALLERS), json!(20)));
}

/// A queue over the store of a world, with nothing behind it yet.
struct Waiting {
    queue: TriggerQueue,
    making: Option<orrery_server::api::TriggerLoop>,
    trigger: Trigger,
    store: Arc<SqliteStore>,
}

impl Waiting {
    async fn new(world: &World) -> Self {
        let job = world.job("a", json!({"maxConcurrent": 0})).await;
        let store: DynStore = world.store.clone();
        let (queue, making) = TriggerQueue::new(store, Arc::new(limits()), None);
        let trigger = Trigger {
            tenant: orrery_server::auth::DEFAULT_TENANT,
            job: id(&job).parse().unwrap(),
            kind: TriggerType::Manual,
            by: Uuid::nil(),
            author: None,
            parameters: None,
            run_at: None,
            retry_of: None,
            idempotency: None,
            traceparent: None,
        };
        Self { queue, making: Some(making), trigger, store: world.store.clone() }
    }

    fn ask(&self) -> JoinHandle<Result<orrery_server::execution::Execution, orrery_server::error::Error>> {
        let (queue, trigger) = (self.queue.clone(), self.trigger.clone());
        tokio::spawn(async move { queue.ask(trigger).await })
    }

    async fn count(&self) -> i64 {
        self.store.job(self.trigger.tenant, self.trigger.job).await.unwrap().unwrap().execution_count
    }
}

#[tokio::test]
async fn who_goes_away_hinders_nobody_and_leaves_nothing() {
    let world = World::new().await;
    let mut waiting = Waiting::new(&world).await;
    let asked: Vec<_> = (0..CALLERS).map(|_| waiting.ask()).collect();
    // One thread: once this task is back, all of them wait.
    tokio::task::yield_now().await;
    let (gone, staying): (Vec<_>, Vec<_>) = asked.into_iter().enumerate().partition(|(n, _)| n % 2 == 0);
    for (_, call) in gone {
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
    }
    let stop = CancellationToken::new();
    let making = tokio::spawn(waiting.making.take().unwrap().run(stop.clone()));
    for (_, call) in staying {
        call.await.unwrap().unwrap();
    }
    assert_eq!(waiting.count().await, i64::try_from(CALLERS / 2).unwrap());
    // At the end what still waits is made.
    let last = waiting.ask();
    tokio::task::yield_now().await;
    stop.cancel();
    last.await.unwrap().unwrap();
    making.await.unwrap();
    let refused = waiting.ask().await.unwrap().unwrap_err();
    assert_eq!(refused.kind, orrery_server::error::Kind::Unavailable);
}

#[tokio::test]
async fn more_than_can_wait_is_refused_at_once() {
    let world = World::new().await;
    let mut waiting = Waiting::new(&world).await;
    // What waits is bounded in bytes as well.
    waiting.trigger.parameters = Some(format!("\"{}\"", "x".repeat(1 << 20)));
    let mut asked = Vec::new();
    let refused = loop {
        let call = waiting.ask();
        tokio::task::yield_now().await;
        if call.is_finished() {
            break call.await.unwrap().unwrap_err();
        }
        asked.push(call);
        assert!(asked.len() < 100, "there is no bound");
    };
    assert_eq!((refused.code, refused.kind), ("TRIGGERS_OVERLOADED", orrery_server::error::Kind::Unavailable));
    assert!(asked.len() > 50, "{}", asked.len());
    tokio::spawn(waiting.making.take().unwrap().run(CancellationToken::new()));
    for call in asked {
        tokio::time::timeout(Duration::from_secs(60), call).await.unwrap().unwrap().unwrap();
    }
    waiting.trigger.parameters = None;
    waiting.ask().await.unwrap().unwrap();
}
