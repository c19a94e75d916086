//! From what a caller wrote to a definition that can be stored. Pure: nothing here reads a clock or the store.

mod fields;
mod problems;
mod schedule;
mod secrets;

use std::collections::BTreeSet;

use orrery_proto::v1::{
    CreateJobRequest, Delivery, ErrorType, JobType, MisfirePolicy, OverlapPolicy, RetryConfig, UpdateJobRequest,
    ValidateJobRequest,
};

pub(crate) use self::fields::queue_problem;
use self::problems::Problems;
use super::json_text;
use crate::concurrency::{self, Concurrency};
use crate::error::FieldProblem;
use crate::job::{JobSpec, MisfireSpec, RetryPolicy};

/// The longest time-out of an attempt that a job may ask for, in seconds: seven days.
const MAX_TIMEOUT_SECONDS: i32 = 604_800;
/// The longest delay of a retry, in milliseconds: a day.
const MAX_DELAY_MS: i64 = 86_400_000;
/// The longest start deadline, in seconds: a leap year.
const YEAR_SECONDS: i32 = 366 * 86_400;
const DEFAULT_QUEUE: &str = "default";

/// The stored form of a definition. `prefix` stands before the names of fields, such as `jobs[3].` in a batch.
///
/// # Errors
/// Everything that is wrong, in the order of the fields.
pub(crate) fn read(request: &CreateJobRequest, prefix: &str) -> Result<JobSpec, Vec<FieldProblem>> {
    read_keeping(request, prefix, &BTreeSet::new())
}

/// The same of a definition that was read and is sent back, where values of these names stay as they are stored.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_keeping(
    request: &CreateJobRequest,
    prefix: &str,
    kept: &BTreeSet<String>,
) -> Result<JobSpec, Vec<FieldProblem>> {
    let mut problems = Problems::new(prefix);
    let p = &mut problems;
    let name = fields::name(p, &request.name);
    let description = fields::description(p, &request.description);
    let schedule = schedule::read(p, request);
    let (job_type, config) = job(p, request);
    let sensitive = secrets::read(p, (job_type, &config), &request.sensitive, kept);
    let retry = retry(p, request.retry_config.as_ref());
    let timeout_seconds = request.timeout.map(|s| p.within("INVALID_TIMEOUT", "timeout", s, 1, MAX_TIMEOUT_SECONDS));
    let max_concurrent =
        p.within("INVALID_MAX_CONCURRENT", "maxConcurrent", request.max_concurrent.unwrap_or(1), 0, 100_000);
    let (start_date, end_date) = schedule::dates(p, request);
    let spec = JobSpec {
        name,
        description,
        schedule,
        job_type,
        config,
        sensitive,
        sealed: Vec::new(),
        retry,
        timeout_seconds,
        max_concurrent,
        priority: p.within("INVALID_PRIORITY", "priority", request.priority.unwrap_or(0), -1000, 1000),
        start_date,
        end_date,
        max_executions: request
            .max_executions
            .map(|most| p.within("INVALID_MAX_EXECUTIONS", "maxExecutions", most, 1, i64::MAX)),
        tags: fields::tags(p, &request.tags),
        queue: fields::queue(p, &request.queue, DEFAULT_QUEUE),
        selector: fields::selector(p, &request.selector),
        overlap: p.choice("overlap", request.overlap, default_overlap(max_concurrent)),
        misfire: misfire(p, request),
        delivery: p.choice("delivery", request.delivery, Delivery::AtLeastOnce),
        start_deadline_seconds: request
            .start_deadline_seconds
            .map(|s| p.within("INVALID_START_DEADLINE", "startDeadlineSeconds", s, 1, YEAR_SECONDS)),
        concurrency: concurrency(p, request),
    };
    problems.finish(spec)
}

/// One execution at a time means that a second fire is omitted; with more places, fires wait for one.
fn default_overlap(max_concurrent: i32) -> OverlapPolicy {
    if max_concurrent == 1 { OverlapPolicy::Forbid } else { OverlapPolicy::Allow }
}

/// The key that it shares with other jobs.
fn concurrency(p: &mut Problems, request: &CreateJobRequest) -> Option<Concurrency> {
    const CODE: &str = "INVALID_CONCURRENCY_LIMIT";
    let limit = p.within(CODE, "concurrencyLimit", request.concurrency_limit.unwrap_or(0), 0, 100_000);
    if request.concurrency_key.is_empty() {
        if limit > 0 {
            p.add(CODE, "concurrencyLimit", "is of no use without concurrencyKey; give that too, or maxConcurrent");
        }
        return None;
    }
    if let Some(problem) = concurrency::problem(&request.concurrency_key) {
        p.add("INVALID_CONCURRENCY_KEY", "concurrencyKey", problem);
    }
    Some(Concurrency { key: request.concurrency_key.clone(), limit: limit.max(1) })
}

/// What runs. The agents' own reading of the config is asked, so that both agree.
fn job(p: &mut Problems, request: &CreateJobRequest) -> (JobType, String) {
    const CODE: &str = "INVALID_JOB_CONFIG";
    let config = request.config.as_ref().map_or("", |json| json.text.as_str());
    let Some(job_type) = JobType::try_from(request.job_type).ok().filter(|t| *t != JobType::Unspecified) else {
        p.add(CODE, "jobType", "is missing or unknown; give http, function, command, shell or python");
        return (JobType::Http, config.to_owned());
    };
    match orrery_sdk::config::validate(job_type.as_json_str(), config) {
        Err(found) => found.iter().for_each(|(field, message)| p.add(CODE, field, message.as_str())),
        Ok(()) => {
            if let Some(problem) = json_text::problem(config) {
                p.add(CODE, "config", problem);
            }
        }
    }
    (job_type, config.to_owned())
}

fn retry(p: &mut Problems, config: Option<&RetryConfig>) -> RetryPolicy {
    const CODE: &str = "INVALID_RETRY_CONFIG";
    let Some(config) = config else { return RetryPolicy::default() };
    let mut on = Vec::new();
    for number in &config.retry_on_error_types {
        match ErrorType::try_from(*number) {
            Ok(error) if error != ErrorType::Unspecified => on.push(error),
            _ => p.add(
                CODE,
                "retryConfig.retryOnErrorTypes",
                format!(
                    "{number} is unknown; give TIMEOUT, NETWORK_ERROR, VALIDATION_ERROR, SYSTEM_ERROR or USER_ERROR"
                ),
            ),
        }
    }
    RetryPolicy {
        max_retries: p.within(CODE, "retryConfig.maxRetries", config.max_retries, 0, 100),
        delay_ms: p.within(CODE, "retryConfig.retryDelayMs", config.retry_delay_ms, 0, MAX_DELAY_MS),
        exponential: config.exponential_backoff,
        on,
        max_delay_ms: config
            .max_retry_delay_ms
            .map(|most| p.within(CODE, "retryConfig.maxRetryDelayMs", most, 0, MAX_DELAY_MS)),
        jitter: config.jitter,
    }
}

fn misfire(p: &mut Problems, request: &CreateJobRequest) -> MisfireSpec {
    const CODE: &str = "INVALID_MISFIRE";
    MisfireSpec {
        policy: p.choice("misfire", request.misfire, MisfirePolicy::FireOnce),
        grace_seconds: p.within(
            CODE,
            "misfireGraceSeconds",
            request.misfire_grace_seconds.unwrap_or(60),
            0,
            MAX_TIMEOUT_SECONDS,
        ),
        max_count: p.within(CODE, "misfireMaxCount", request.misfire_max_count.unwrap_or(100), 0, 100_000),
        max_lateness_seconds: request
            .misfire_max_lateness_seconds
            .map(|most| p.within(CODE, "misfireMaxLatenessSeconds", most, 0, i64::from(YEAR_SECONDS))),
    }
}

/// Takes the fields that a definition has in common with [`CreateJobRequest`].
macro_rules! definition_of {
    ($request:expr) => {{
        let request = $request;
        CreateJobRequest {
            name: request.name,
            description: request.description,
            cron_expression: request.cron_expression,
            timezone: request.timezone,
            job_type: request.job_type,
            config: request.config,
            retry_config: request.retry_config,
            timeout: request.timeout,
            max_concurrent: request.max_concurrent,
            priority: request.priority,
            start_date: request.start_date,
            end_date: request.end_date,
            max_executions: request.max_executions,
            tags: request.tags,
            interval_ms: request.interval_ms,
            run_at: request.run_at,
            manual: request.manual,
            queue: request.queue,
            selector: request.selector,
            overlap: request.overlap,
            misfire: request.misfire,
            misfire_grace_seconds: request.misfire_grace_seconds,
            misfire_max_count: request.misfire_max_count,
            misfire_max_lateness_seconds: request.misfire_max_lateness_seconds,
            dst_gap: request.dst_gap,
            dst_overlap: request.dst_overlap,
            delivery: request.delivery,
            start_deadline_seconds: request.start_deadline_seconds,
            idempotency_key: String::new(),
            concurrency_key: request.concurrency_key,
            concurrency_limit: request.concurrency_limit,
            sensitive: request.sensitive,
        }
    }};
}

/// The definition in a replacement.
pub(crate) fn of_update(request: UpdateJobRequest) -> CreateJobRequest {
    definition_of!(request)
}

/// The definition to check.
pub(crate) fn of_validate(request: ValidateJobRequest) -> CreateJobRequest {
    definition_of!(request)
}

#[cfg(test)]
mod tests;
