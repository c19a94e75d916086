//! A worker with two functions. Start a coordinator, then
//!
//! ```sh
//! ORRERY_COORDINATOR=http://127.0.0.1:50051 cargo run -p orrery-sdk --example worker
//! ```
//!
//! and give it a job such as
//!
//! ```json
//! {"name": "report", "cronExpression": "*/10 * * * * *", "jobType": "function",
//!  "config": {"modulePath": "reports", "functionName": "daily", "parameters": {"region": "eu"}}}
//! ```

use std::error::Error;
use std::time::Duration;

use orrery_sdk::{FunctionContext, FunctionError, FunctionRegistry, Worker};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

#[derive(Deserialize)]
struct Report {
    region: String,
    #[serde(default = "ten")]
    pages: u32,
}

fn ten() -> u32 {
    10
}

#[derive(Serialize)]
struct Written {
    pages: u32,
}

/// Takes a while, tells how far it is, and stops between two pages when it is told to.
async fn daily(report: Report, context: FunctionContext) -> Result<Written, FunctionError> {
    for page in 1..=report.pages {
        if context.is_cancelled() {
            return Err(FunctionError::new(format!("stopped before page {page}")));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        context.log(format!("{}: page {page} of {}", report.region, report.pages));
        context.progress(i32::try_from(page * 100 / report.pages)?);
    }
    Ok(Written { pages: report.pages })
}

/// Fails where its input is no number; any error will do.
async fn double(text: String, _: FunctionContext) -> Result<i64, FunctionError> {
    Ok(text.trim().parse::<i64>()? * 2)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().init();
    let mut functions = FunctionRegistry::new();
    functions.register("reports", "daily", daily);
    functions.register("numbers", "double", double);

    let coordinator = std::env::var("ORRERY_COORDINATOR").unwrap_or_else(|_| "http://127.0.0.1:50051".into());
    let mut worker = Worker::builder().endpoints(coordinator.split(',')).name("example").functions(functions);
    if let Ok(token) = std::env::var("ORRERY_TOKEN") {
        worker = worker.api_key(token);
    }

    let shutdown = CancellationToken::new();
    let on_signal = shutdown.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            on_signal.cancel();
        }
    });
    Ok(worker.build()?.run(shutdown).await?)
}
