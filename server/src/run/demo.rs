//! What `orrery dev` shows a newcomer: jobs that fire at once, and a target for the http one.

use std::net::SocketAddr;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use axum::{Json, Router};
use orrery_proto::v1::{
    CreateJobRequest, Job, ListJobsRequest, ResumeJobRequest, StopJobRequest, TriggerJobRequest, UpdateJobRequest,
};
use orrery_sdk::client::Client;
use orrery_sdk::function::{FunctionContext, FunctionError, FunctionRegistry};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::RunError;

/// What the demo function takes.
#[derive(Deserialize)]
struct Greeting {
    name: String,
}

/// What it returns.
#[derive(Serialize)]
struct Greeted {
    greeting: String,
    attempt: i32,
}

/// The functions of the agent inside `orrery dev`.
pub fn functions() -> FunctionRegistry {
    let mut registry = FunctionRegistry::new();
    registry.register("demo", "greet", |input: Greeting, context: FunctionContext| async move {
        context.log(format!("greeting {}", input.name));
        context.progress(50);
        Ok::<_, FunctionError>(Greeted { greeting: format!("Hello, {}!", input.name), attempt: context.attempt() })
    });
    registry
}

/// Serves the target of the http job on a free port of the loopback address.
///
/// # Errors
/// Where no port is to be had.
pub async fn target(shutdown: CancellationToken) -> Result<SocketAddr, RunError> {
    let fail = |e| RunError::Io("the demo target cannot listen".into(), e);
    let listener = TcpListener::bind("127.0.0.1:0").await.map_err(fail)?;
    let address = listener.local_addr().map_err(fail)?;
    let router = Router::new().route("/hello", post(hello)).with_state(address);
    tokio::spawn(async move {
        let served = axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await;
        if let Err(error) = served {
            tracing::warn!(%error, "the demo target has ended");
        }
    });
    Ok(address)
}

async fn hello(State(address): State<SocketAddr>, headers: HeaderMap, Json(body): Json<Value>) -> Json<Value> {
    let key = headers.get("idempotency-key").and_then(|value| value.to_str().ok());
    Json(json!({"hello": body, "from": address.to_string(), "idempotencyKey": key}))
}

/// The definitions, for a target at `address`.
fn definitions(address: SocketAddr) -> [Value; 4] {
    [
        json!({
            "name": "demo-http", "description": "An HTTP request every five seconds, to a target inside this process",
            "cronExpression": "*/5 * * * * *", "jobType": "http", "tags": ["demo"],
            "config": {"url": format!("http://{address}/hello"), "method": "POST", "body": {"planet": "Mars"}},
        }),
        json!({
            "name": "demo-command", "description": "A program with its arguments, every ten seconds",
            "cronExpression": "0/10 * * * * *", "jobType": "command", "tags": ["demo"],
            "config": {"command": "echo", "args": ["the moons are in place"]},
        }),
        json!({
            "name": "demo-function", "description": "A function of a Rust worker, every seven seconds",
            "intervalMs": 7000, "jobType": "function", "tags": ["demo"],
            "config": {"modulePath": "demo", "functionName": "greet", "parameters": {"name": "Kepler"}},
        }),
        json!({
            "name": "demo-retry", "description": "Fails twice, and succeeds at the third attempt",
            "cronExpression": "*/30 * * * * *", "jobType": "shell", "tags": ["demo"],
            "config": {"command": "echo \"attempt $ORRERY_ATTEMPT\"; test \"$ORRERY_ATTEMPT\" -ge 3"},
            "retryConfig": {"maxRetries": 3, "retryDelayMs": 500, "exponentialBackoff": true, "retryOnErrorTypes": ["USER_ERROR"]},
        }),
    ]
}

/// Defines the demo jobs, or brings them up to date, and runs each once, so that there is something to see at once.
///
/// # Errors
/// Where the coordinator refuses.
pub async fn define(client: &Client, address: SocketAddr) -> Result<(), orrery_sdk::Error> {
    for definition in definitions(address) {
        let job = defined(client, &definition).await?;
        // A fire of its schedule may be under way already, and then there is something to see as well.
        match client.trigger_job(TriggerJobRequest { id: job.id, ..TriggerJobRequest::default() }).await {
            Err(error) if error.code() != "JOB_ALREADY_RUNNING" && error.code() != "JOB_INACTIVE" => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Stops the demo jobs of an earlier start, whose target is gone.
///
/// # Errors
/// Where the coordinator refuses.
pub async fn stop(client: &Client) -> Result<(), orrery_sdk::Error> {
    let listed = client.list_jobs(ListJobsRequest { tag: "demo".into(), ..ListJobsRequest::default() }).await?;
    for job in listed.jobs.into_iter().filter(|job| job.name.starts_with("demo-")) {
        client.stop_job(StopJobRequest { id: job.id }).await?;
    }
    Ok(())
}

async fn defined(client: &Client, definition: &Value) -> Result<Job, orrery_sdk::Error> {
    let request: CreateJobRequest = read(definition);
    let name = request.name.clone();
    match client.create_job(request).await {
        Err(error) if error.code() == "JOB_NAME_TAKEN" => {}
        answer => return answer,
    }
    let listed = client.list_jobs(ListJobsRequest { name: name.clone(), ..ListJobsRequest::default() }).await?;
    let mut request: UpdateJobRequest = read(definition);
    request.id = listed.jobs.into_iter().find(|job| job.name == name).map(|job| job.id).unwrap_or_default();
    let id = request.id.clone();
    client.update_job(request).await?;
    client.resume_job(ResumeJobRequest { id }).await
}

/// A request from its JSON. The definitions stand above and are read in a test.
fn read<T: serde::de::DeserializeOwned + Default>(definition: &Value) -> T {
    serde_json::from_value(definition.clone()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_can_be_read() {
        for definition in definitions(([127, 0, 0, 1], 80).into()) {
            let request: CreateJobRequest = serde_json::from_value(definition).unwrap();
            assert!(!request.name.is_empty());
        }
    }
}
