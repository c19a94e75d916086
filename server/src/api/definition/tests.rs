use orrery_proto::Json;
use orrery_proto::v1::{Delivery, DstGap, DstOverlap, JobType, MisfirePolicy, OverlapPolicy};

use super::*;
use crate::job::ScheduleKind;

fn request() -> CreateJobRequest {
    CreateJobRequest {
        name: "nightly".into(),
        cron_expression: "0 0 9 * * 1-5".into(),
        job_type: JobType::Http.into(),
        config: Some(Json::new(r#"{"url": "https://example.com/hook"}"#)),
        ..Default::default()
    }
}

fn at(text: &str) -> Option<orrery_proto::Timestamp> {
    Some(chrono::DateTime::parse_from_rfc3339(text).unwrap().to_utc().into())
}

#[test]
fn what_is_absent_has_its_documented_default() {
    let spec = read(&request(), "").unwrap();
    assert_eq!(spec.schedule.kind, ScheduleKind::Cron("0 0 9 * * 1-5".into()));
    assert_eq!(spec.schedule.timezone, "UTC");
    assert_eq!((spec.schedule.dst_gap, spec.schedule.dst_overlap), (DstGap::Auto, DstOverlap::Auto));
    assert_eq!((spec.max_concurrent, spec.overlap), (1, OverlapPolicy::Forbid));
    assert_eq!(spec.queue, "default");
    assert_eq!(spec.misfire.policy, MisfirePolicy::FireOnce);
    assert_eq!((spec.misfire.grace_seconds, spec.misfire.max_count), (60, 100));
    assert_eq!(spec.delivery, Delivery::AtLeastOnce);
    assert_eq!((spec.timeout_seconds, spec.priority, spec.max_executions), (None, 0, None));
    assert_eq!(spec.retry, RetryPolicy::default());
    let spec = read(&CreateJobRequest { max_concurrent: Some(5), ..request() }, "").unwrap();
    assert_eq!(spec.overlap, OverlapPolicy::Allow);
}

#[test]
fn a_name_is_counted_in_characters() {
    let named = |name: String| read(&CreateJobRequest { name, ..request() }, "");
    named("é".repeat(200)).unwrap();
    named("日本語のジョブ".into()).unwrap();
    assert!(named("é".repeat(201)).is_err());
}

#[test]
#[allow(clippy::too_many_lines)] // A table.
fn what_is_wrong_is_named_with_its_code() {
    type Change = fn(&mut CreateJobRequest);
    let cases: [(Change, &str, &str); 42] = [
        (|r| r.name.clear(), "INVALID_NAME", "name"),
        (|r| r.name = "  ".into(), "INVALID_NAME", "name"),
        (|r| r.name = "x".repeat(201), "INVALID_NAME", "name"),
        (|r| r.name = "a\0b".into(), "INVALID_NAME", "name"),
        (|r| r.description = "a\0b".into(), "INVALID_DESCRIPTION", "description"),
        (|r| r.cron_expression.clear(), "INVALID_CRON_EXPRESSION", "cronExpression"),
        (|r| r.cron_expression = "every day".into(), "INVALID_CRON_EXPRESSION", "cronExpression"),
        (|r| r.cron_expression = "61 * * * *".into(), "INVALID_CRON_EXPRESSION", "cronExpression"),
        (|r| r.cron_expression = "0 0 0 30 2 *".into(), "INVALID_CRON_EXPRESSION", "cronExpression"),
        (|r| r.cron_expression = "0 0 0 1 1 * 2001".into(), "INVALID_CRON_EXPRESSION", "cronExpression"),
        (|r| r.timezone = "Mars/Olympus".into(), "INVALID_TIMEZONE", "timezone"),
        (|r| r.interval_ms = Some(1000), "INVALID_SCHEDULE", "cronExpression"),
        (|r| r.manual = true, "INVALID_SCHEDULE", "cronExpression"),
        (|r| only_interval(r, 99), "INVALID_SCHEDULE", "intervalMs"),
        (|r| only_interval(r, -5), "INVALID_SCHEDULE", "intervalMs"),
        (|r| r.job_type = 0, "INVALID_JOB_CONFIG", "jobType"),
        (|r| r.job_type = 99, "INVALID_JOB_CONFIG", "jobType"),
        (|r| r.config = None, "INVALID_JOB_CONFIG", "config"),
        (|r| r.config = Some(Json::new("{}")), "INVALID_JOB_CONFIG", "config.url"),
        (|r| r.config = Some(Json::new("[]")), "INVALID_JOB_CONFIG", "config"),
        (|r| r.config = Some(Json::new(r#"{"url": "ftp://x"}"#)), "INVALID_JOB_CONFIG", "config.url"),
        (|r| config(r, r#"{"url": "http://x", "body": 1e99999}"#), "INVALID_JOB_CONFIG", "config"),
        (|r| config(r, r#"{"url": "http://x", "body": "\ud800"}"#), "INVALID_JOB_CONFIG", "config"),
        (|r| r.timeout = Some(0), "INVALID_TIMEOUT", "timeout"),
        (|r| r.timeout = Some(604_801), "INVALID_TIMEOUT", "timeout"),
        (|r| r.priority = Some(-1001), "INVALID_PRIORITY", "priority"),
        (|r| r.priority = Some(1001), "INVALID_PRIORITY", "priority"),
        (|r| r.max_concurrent = Some(-1), "INVALID_MAX_CONCURRENT", "maxConcurrent"),
        (|r| r.max_concurrent = Some(100_001), "INVALID_MAX_CONCURRENT", "maxConcurrent"),
        (|r| r.max_executions = Some(0), "INVALID_MAX_EXECUTIONS", "maxExecutions"),
        (|r| retry(r).max_retries = -1, "INVALID_RETRY_CONFIG", "retryConfig.maxRetries"),
        (|r| retry(r).retry_delay_ms = 86_400_001, "INVALID_RETRY_CONFIG", "retryConfig.retryDelayMs"),
        (|r| retry(r).max_retry_delay_ms = Some(-1), "INVALID_RETRY_CONFIG", "retryConfig.maxRetryDelayMs"),
        (|r| retry(r).retry_on_error_types = vec![77], "INVALID_RETRY_CONFIG", "retryConfig.retryOnErrorTypes"),
        (|r| r.tags = vec!["ok".into(), String::new()], "INVALID_TAGS", "tags[1]"),
        (|r| r.tags = (0..51).map(|n| n.to_string()).collect(), "INVALID_TAGS", "tags"),
        (|r| r.queue = "a b".into(), "INVALID_QUEUE", "queue"),
        (|r| drop(r.selector.insert(String::new(), "x".into())), "INVALID_SELECTOR", "selector."),
        (|r| r.misfire_grace_seconds = Some(-1), "INVALID_MISFIRE", "misfireGraceSeconds"),
        (|r| r.start_deadline_seconds = Some(0), "INVALID_START_DEADLINE", "startDeadlineSeconds"),
        (|r| r.overlap = Some(42), "INVALID_ARGUMENT", "overlap"),
        (|r| dates(r, "2030-01-02T00:00:00Z", "2030-01-01T00:00:00Z"), "INVALID_DATE_RANGE", "endDate"),
    ];
    for (index, (change, code, field)) in cases.into_iter().enumerate() {
        let mut wrong = request();
        change(&mut wrong);
        let problems = read(&wrong, "").expect_err(&format!("case {index}: {code} {field}"));
        let found: Vec<_> = problems.iter().map(|p| (p.code, p.field.as_str())).collect();
        assert_eq!(found, [(code, field)], "case {index}: {problems:?}");
    }
}

#[test]
fn everything_wrong_is_said_at_once() {
    let wrong = CreateJobRequest {
        name: String::new(),
        cron_expression: "x".into(),
        timezone: "x".into(),
        timeout: Some(-1),
        ..request()
    };
    let fields: Vec<String> = read(&wrong, "jobs[3].").unwrap_err().into_iter().map(|p| p.field).collect();
    assert_eq!(fields, ["jobs[3].name", "jobs[3].timezone", "jobs[3].cronExpression", "jobs[3].timeout"]);
}

#[test]
fn tags_are_kept_once() {
    let tagged = CreateJobRequest { tags: vec!["b".into(), "a".into(), "b".into()], ..request() };
    assert_eq!(read(&tagged, "").unwrap().tags, ["b", "a"]);
}

fn only_interval(request: &mut CreateJobRequest, ms: i64) {
    request.cron_expression.clear();
    request.interval_ms = Some(ms);
}

fn config(request: &mut CreateJobRequest, text: &str) {
    request.config = Some(Json::new(text));
}

fn retry(request: &mut CreateJobRequest) -> &mut RetryConfig {
    request.retry_config.get_or_insert_default()
}

fn dates(request: &mut CreateJobRequest, start: &str, end: &str) {
    request.start_date = at(start);
    request.end_date = at(end);
}
