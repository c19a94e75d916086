//! Executions as people see them.

use std::io;

use chrono::Utc;
use orrery_proto::v1::{Execution, ExecutionStats, Explanation};

use super::exit::Failure;
use super::output::{Output, distance, duration, instant, instant_and_distance};

/// How an execution stands, in one line.
pub(super) fn one_line(execution: &Execution) -> String {
    format!("execution {} of {} is {}", execution.id, execution.job_name, execution.status().as_json_str())
}

/// A change of an execution, in one line.
pub(super) fn change(execution: &Execution) -> String {
    let mut line = execution.status().as_json_str().to_owned();
    if execution.progress > 0 && execution.progress < 100 {
        line.push_str(&format!(" {}%", execution.progress));
    }
    if !execution.worker_name.is_empty() {
        line.push_str(&format!(" on {}", execution.worker_name));
    }
    if execution.retry_count > 0 {
        line.push_str(&format!(", retry {}", execution.retry_count));
    }
    if !execution.error_message.is_empty() {
        line.push_str(&format!(": {}", execution.error_message.replace(char::is_control, " ")));
    }
    line
}

/// Executions as a table.
pub(super) fn table(executions: &[Execution], out: &Output) -> io::Result<()> {
    let now = Utc::now();
    let rows: Vec<Vec<String>> = executions
        .iter()
        .map(|execution| {
            vec![
                execution.id.clone(),
                execution.job_name.clone(),
                execution.status().as_json_str().to_owned(),
                execution.trigger_type().as_json_str().to_owned(),
                format!("{} {}", instant(execution.scheduled_at), distance(execution.scheduled_at, now)),
                duration(execution.duration_ms),
                execution.retry_count.to_string(),
                execution.worker_name.clone(),
                execution.error_message.clone(),
            ]
        })
        .collect();
    out.table(&["ID", "JOB", "STATUS", "TRIGGER", "SCHEDULED", "TOOK", "RETRIES", "AGENT", "ERROR"], &rows)
}

/// All that is known of an execution.
pub(super) fn details(execution: &Execution, out: &Output) -> io::Result<()> {
    let now = Utc::now();
    let text = |json: &Option<orrery_proto::Json>| json.as_ref().map(|json| json.text.clone()).unwrap_or_default();
    let error_type = execution.error_type.map(|_| execution.error_type().as_json_str().to_owned()).unwrap_or_default();
    let measured = |value: Option<String>| value.unwrap_or_default();
    out.fields(&[
        ("Id", execution.id.clone()),
        ("Job", format!("{} ({})", execution.job_name, execution.job_id)),
        ("Status", execution.status().as_json_str().to_owned()),
        ("Progress", format!("{}%", execution.progress)),
        ("Trigger", execution.trigger_type().as_json_str().to_owned()),
        ("Triggered by", execution.triggered_by.clone()),
        ("Scheduled", instant_and_distance(execution.scheduled_at, now)),
        ("Runs at", instant_and_distance(execution.run_at.filter(|_| execution.started_at.is_none()), now)),
        ("Started", instant_and_distance(execution.started_at, now)),
        ("Completed", instant_and_distance(execution.completed_at, now)),
        ("Cancel asked", instant_and_distance(execution.cancel_requested_at, now)),
        ("Took", measured(execution.duration_ms.map(|millis| duration(Some(millis))))),
        ("Queue", execution.queue.clone()),
        ("Key", execution.concurrency_key.clone()),
        ("Agent", execution.worker_name.clone()),
        ("Memory", measured(execution.memory_peak_mb.map(|peak| format!("{peak:.1} MiB")))),
        ("CPU", measured(execution.cpu_time_ms.map(|millis| duration(Some(millis))))),
        ("Retries", execution.retry_count.to_string()),
        ("Repeats", execution.retry_of.clone()),
        ("Quarantined", execution.quarantined.clone()),
        ("Parameters", text(&execution.parameters)),
        ("Result", text(&execution.result)),
        ("Error type", error_type),
        ("Error", execution.error_message.clone()),
        ("Stack", execution.error_stack.clone()),
    ])?;
    if execution.attempts.is_empty() {
        return Ok(());
    }
    let rows: Vec<Vec<String>> = execution
        .attempts
        .iter()
        .map(|attempt| {
            vec![
                attempt.number.to_string(),
                attempt.worker_name.clone(),
                instant(attempt.started_at),
                instant(attempt.ended_at),
                attempt.outcome.clone(),
                attempt.error_message.clone(),
            ]
        })
        .collect();
    out.line("")?;
    out.table(&["ATTEMPT", "AGENT", "STARTED", "ENDED", "OUTCOME", "ERROR"], &rows)
}

/// Why something does not run.
pub(super) fn print_explanation(explanation: &Explanation, out: &Output) -> Result<(), Failure> {
    if out.json {
        return Ok(out.json(explanation)?);
    }
    let mut text = explanation.summary.clone();
    for reason in &explanation.reasons {
        text.push_str(&format!("\n  {}: {}", reason.code, reason.message));
        if reason.until.is_some() {
            text.push_str(&format!(" (until {})", instant_and_distance(reason.until, Utc::now())));
        }
    }
    Ok(out.line(text)?)
}

/// Totals, rates and durations.
pub(super) fn stats(stats: &ExecutionStats, out: &Output) -> io::Result<()> {
    let percent = |rate: f64| format!("{:.1}%", rate * 100.0);
    let millis = |millis: f64| format!("{millis:.1}ms");
    out.fields(&[
        ("From", instant(stats.from)),
        ("To", instant(stats.to)),
        ("Total", stats.total.to_string()),
        ("Pending", stats.pending.to_string()),
        ("Running", stats.running.to_string()),
        ("Completed", stats.completed.to_string()),
        ("Failed", stats.failed.to_string()),
        ("Cancelled", stats.cancelled.to_string()),
        ("Omitted", stats.omitted.to_string()),
        ("Success rate", percent(stats.success_rate)),
        ("Timeout rate", percent(stats.timeout_rate)),
        ("Retry rate", percent(stats.retry_rate)),
        ("Average", millis(stats.average_duration_ms)),
        ("p50", millis(stats.p50_duration_ms)),
        ("p95", millis(stats.p95_duration_ms)),
        ("p99", millis(stats.p99_duration_ms)),
        ("Longest", millis(stats.max_duration_ms)),
        ("Per minute", format!("{:.1}", stats.per_minute)),
    ])
}
