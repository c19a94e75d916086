//! Jobs as people see them.

use std::io;

use chrono::Utc;
use orrery_proto::v1::{FieldError, Job, Omission, RetryConfig};

use super::output::{Output, distance, duration, instant, instant_and_distance};

/// What became of a job, in one line.
pub(super) fn one_line(job: &Job) -> String {
    let mut line = format!("{} {} is {}", job.id, job.name, job.status().as_json_str());
    if let Some(at) = job.next_execution_at {
        line.push_str(&format!(", next fire {}", instant_and_distance(Some(at), Utc::now())));
    }
    line
}

/// Jobs as a table.
pub(super) fn table(jobs: &[Job], out: &Output) -> io::Result<()> {
    let now = Utc::now();
    let rows: Vec<Vec<String>> = jobs
        .iter()
        .map(|job| {
            vec![
                job.id.clone(),
                job.name.clone(),
                job.status().as_json_str().to_owned(),
                job.job_type().as_json_str().to_owned(),
                schedule(job),
                distance(job.next_execution_at, now),
                distance(job.last_execution_at, now),
                job.execution_count.to_string(),
            ]
        })
        .collect();
    out.table(&["ID", "NAME", "STATUS", "TYPE", "SCHEDULE", "NEXT", "LAST", "RUNS"], &rows)
}

/// When a job fires, in one cell.
fn schedule(job: &Job) -> String {
    match (job.interval_ms, job.run_at) {
        _ if job.manual => "manual".to_owned(),
        (Some(millis), _) => format!("every {}", duration(Some(millis))),
        (None, Some(at)) => format!("at {}", instant(Some(at))),
        (None, None) if matches!(job.timezone.as_str(), "" | "UTC") => job.cron_expression.clone(),
        (None, None) => format!("{} {}", job.cron_expression, job.timezone),
    }
}

/// All that is known of a job.
pub(super) fn details(job: &Job, out: &Output) -> io::Result<()> {
    let now = Utc::now();
    let mut selector: Vec<String> = job.selector.iter().map(|(name, value)| format!("{name}={value}")).collect();
    selector.sort();
    let concurrent = if job.max_concurrent == 0 { "no limit".to_owned() } else { job.max_concurrent.to_string() };
    out.fields(&[
        ("Id", job.id.clone()),
        ("Name", job.name.clone()),
        ("Description", job.description.clone()),
        ("Status", job.status().as_json_str().to_owned()),
        ("Schedule", schedule(job)),
        ("Type", job.job_type().as_json_str().to_owned()),
        ("Config", job.config.as_ref().map(|config| config.text.clone()).unwrap_or_default()),
        ("Timeout", duration(Some(i64::from(job.timeout) * 1000))),
        ("Retries", job.retry_config.as_ref().map(retries).unwrap_or_default()),
        ("Concurrent", format!("{concurrent}, overlap {}", job.overlap().as_json_str())),
        ("Key", key(job)),
        ("Misfire", format!("{} after {}s", job.misfire().as_json_str(), job.misfire_grace_seconds)),
        ("Delivery", job.delivery().as_json_str().to_owned()),
        ("Start by", job.start_deadline_seconds.map(|s| format!("{s}s after its instant")).unwrap_or_default()),
        ("Priority", job.priority.to_string()),
        ("Queue", job.queue.clone()),
        ("Selector", selector.join(",")),
        ("Tags", job.tags.join(",")),
        ("Starts", instant_and_distance(job.start_date, now)),
        ("Ends", instant_and_distance(job.end_date, now)),
        ("Executions", executions(job)),
        ("Next", instant_and_distance(job.next_execution_at, now)),
        ("Last", instant_and_distance(job.last_execution_at, now)),
        ("Created", instant_and_distance(job.created_at, now)),
        ("Updated", instant_and_distance(job.updated_at, now)),
        ("Version", job.version.to_string()),
    ])
}

fn key(job: &Job) -> String {
    if job.concurrency_key.is_empty() {
        return String::new();
    }
    format!("{}, {} at once", job.concurrency_key, job.concurrency_limit)
}

fn executions(job: &Job) -> String {
    match job.max_executions {
        Some(most) => format!("{} of {most}", job.execution_count),
        None => job.execution_count.to_string(),
    }
}

fn retries(config: &RetryConfig) -> String {
    if config.max_retries == 0 {
        return "none".to_owned();
    }
    let growth = if config.exponential_backoff { ", doubling" } else { "" };
    format!("{}, {} apart{growth}", config.max_retries, duration(Some(config.retry_delay_ms)))
}

/// Fires that did not happen.
pub(super) fn omissions(omissions: &[Omission], out: &Output) -> io::Result<()> {
    let rows: Vec<Vec<String>> = omissions
        .iter()
        .map(|omission| {
            vec![
                instant(omission.from),
                instant(omission.to),
                omission.count.to_string(),
                omission.reason.clone(),
                omission.detail.clone(),
            ]
        })
        .collect();
    out.table(&["FROM", "TO", "COUNT", "REASON", "DETAIL"], &rows)
}

/// What is wrong with a definition, as the fields of an error.
pub(super) fn problems(errors: &[FieldError], name: &str) -> Vec<super::exit::Field> {
    errors
        .iter()
        .map(|error| super::exit::Field {
            field: if name.is_empty() { error.field.clone() } else { format!("{name}: {}", error.field) },
            code: error.code.clone(),
            message: error.message.clone(),
        })
        .collect()
}
