//! What is counted.

use std::collections::BTreeMap;

use serde_json::json;

use crate::wait::{SOON, until};
use crate::world::World;

on_each_engine!(metrics_move);

/// As the documentation names them.
const NAMES: [&str; 18] = [
    "scheduler_operations_total",
    "scheduler_errors_total",
    "scheduler_executions_total",
    "scheduler_job_executions_total",
    "scheduler_failed_jobs_total",
    "scheduler_lock_acquisitions_total",
    "scheduler_lock_timeouts_total",
    "scheduler_operation_duration_seconds_count",
    "scheduler_execution_duration_seconds_count",
    "scheduler_jobs_total",
    "scheduler_total_jobs",
    "scheduler_active_jobs",
    "scheduler_queue_length",
    "scheduler_error_rate",
    "scheduler_memory_usage_bytes",
    "scheduler_cpu_usage_percent",
    "scheduler_active_connections",
    "scheduler_fire_lag_seconds_count",
];

async fn metrics_move(world: World) {
    let system = world.system().await;
    let rest = system.rest();
    let good = rest.create_manual("good", "command", json!({"command": "true"})).await;
    let bad = rest.create_manual("bad", "command", json!({"command": "false"})).await;
    rest.run(&good).await;
    rest.run(&good).await;
    rest.run(&bad).await;
    // A caller's mistake is no error of the scheduler.
    rest.get("/jobs/not-an-id").await.refused(400, "INVALID_ID");
    let numbers = until("the executions are counted", SOON, async || {
        let text = rest.elsewhere(&system.metrics, "/metrics").await.text;
        let numbers = read(&text);
        (sum(&numbers, "scheduler_executions_total") >= 3.0).then_some((numbers, text))
    })
    .await;
    let (numbers, text) = numbers;
    for name in NAMES {
        assert!(numbers.keys().any(|series| of(series, name)), "{name} is not in:\n{text}");
    }
    assert_eq!(numbers["scheduler_executions_total{status=\"completed\"}"], 2.0, "{text}");
    assert_eq!(numbers["scheduler_executions_total{status=\"failed\"}"], 1.0, "{text}");
    assert_eq!(sum(&numbers, "scheduler_job_executions_total"), 3.0, "{text}");
    assert_eq!(sum(&numbers, "scheduler_execution_duration_seconds_count"), 3.0, "{text}");
    assert_eq!(numbers["scheduler_failed_jobs_total"], 1.0, "{text}");
    assert!(numbers["scheduler_operations_total"] >= 6.0, "{text}");
    assert_eq!(numbers["scheduler_errors_total"], 0.0, "{text}");
    assert!(numbers["scheduler_dispatch_batch_size_count"] >= 1.0, "{text}");
    assert!(numbers["scheduler_memory_usage_bytes"] > 1e6, "{text}");
    assert!(text.contains("job_type=\"command\"") && text.ends_with("# EOF\n"), "{text}");

    let told = rest.get("/metrics").await.ok();
    assert_eq!(told["totalJobs"], 2);
    assert_eq!(told["totalExecutions"], 3);
    assert_eq!((&told["successfulExecutions"], &told["failedExecutions"]), (&json!(2), &json!(1)), "{told:#}");
}

/// The samples of an exposition, by series.
fn read(text: &str) -> BTreeMap<String, f64> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples.filter_map(|line| line.rsplit_once(' ')).map(|(name, n)| (name.to_owned(), n.parse().unwrap())).collect()
}

fn of(series: &str, name: &str) -> bool {
    series.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('{'))
}

fn sum(numbers: &BTreeMap<String, f64>, name: &str) -> f64 {
    numbers.iter().filter(|(series, _)| of(series, name)).map(|(_, n)| n).sum()
}
