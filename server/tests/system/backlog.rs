//! Beside a long queue.

use orrery_sdk::{FunctionContext, FunctionError, FunctionRegistry, Worker};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::rest::Rest;
use crate::wait::{SOON, until};
use crate::world::World;

on_each_engine!(all_slots_are_at_work);

/// So many that some are kept for what goes out as it is made.
const SLOTS: usize = 128;

async fn job(rest: &Rest, function: &str) -> String {
    let config = json!({"modulePath": "waits", "functionName": function});
    let job = json!({"name": function, "manual": true, "jobType": "function", "maxConcurrent": 0, "config": config});
    rest.create(job).await
}

async fn all_slots_are_at_work(world: World) {
    let server = world.server(&[]).await;
    let rest = server.rest();
    let go = CancellationToken::new();
    let mut functions = FunctionRegistry::new();
    let waits = go.clone();
    functions.register("waits", "long", move |_: Value, _: FunctionContext| {
        let go = waits.clone();
        async move {
            go.cancelled().await;
            Ok::<_, FunctionError>(json!({}))
        }
    });
    functions.register("waits", "short", async |_: Value, _: FunctionContext| Ok::<_, FunctionError>(json!({})));
    let worker = Worker::builder().endpoint(&server.grpc).api_key(crate::token::token()).name("waits");
    let shutdown = CancellationToken::new();
    let worker = worker.slots(SLOTS as u32).functions(functions).build().unwrap();
    let running = tokio::spawn(worker.run(shutdown.clone()));

    // A second lane, for which they are kept.
    assert_eq!(rest.run(&job(&rest, "short").await).await["status"], "completed");
    let long = job(&rest, "long").await;
    let triggers: Vec<Value> = (0..2 * SLOTS).map(|_| json!({"id": long})).collect();
    rest.post("/jobs/batch-trigger", json!({"triggers": triggers})).await.ok();
    let is_full = |worker: &Value| worker["running"] == SLOTS;
    until("all slots are at work", SOON, async || rest.workers().await.into_iter().find(is_full)).await;
    go.cancel();
    shutdown.cancel();
    running.await.unwrap().unwrap();
}
