use super::super::names;
use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn tenant(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

/// Metrics in which everything has happened once.
fn eventful() -> Metrics {
    let metrics = Metrics::default();
    metrics.operation(SECOND, true);
    metrics.operation(SECOND, false);
    ended(&metrics, JobType::Http, ExecutionStatus::Completed, tenant(1), Some(SECOND));
    ended(&metrics, JobType::Shell, ExecutionStatus::Failed, tenant(1), None);
    metrics.fire_lag(Duration::from_millis(4));
    metrics.omitted("overlap", 3);
    metrics.refused("stale_epoch");
    metrics.dispatched(7);
    metrics.lock_acquired();
    metrics.lock_timed_out();
    metrics.cache_hit("stats");
    metrics.cache_missed("stats");
    metrics.rate_limited();
    metrics.call_refused("credentials");
    metrics.redis_failed("lock");
    metrics.redis_breaker(BreakerState::Open);
    metrics.set_gauges(&Gauges {
        jobs: 5,
        active_jobs: 4,
        queues: BTreeMap::from([("default".to_owned(), 2), ("slow \"one\"".to_owned(), 1)]),
        error_rate: 0.5,
        active_connections: 8,
        agents: 6,
    });
    metrics
}

/// The lines of a metric, its own and those of its buckets, sum and count.
fn lines<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let begins = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{']));
    text.lines().filter(begins).collect()
}

fn ended(metrics: &Metrics, job_type: JobType, status: ExecutionStatus, tenant: Uuid, duration: Option<Duration>) {
    metrics.executions_ended(vec![Ended { job_type, status, tenant, duration, quarantine: None }]);
}

#[test]
fn the_error_rate_is_that_of_what_has_ended() {
    let metrics = Metrics::default();
    assert_eq!(metrics.error_rate(), 0.0);
    for status in [ExecutionStatus::Completed, ExecutionStatus::Cancelled, ExecutionStatus::Failed] {
        ended(&metrics, JobType::Http, status, tenant(1), None);
    }
    ended(&metrics, JobType::Http, ExecutionStatus::Failed, tenant(2), None);
    assert_eq!(metrics.error_rate(), 0.5);
}

#[test]
fn every_documented_name_is_shown_once() {
    let text = eventful().encode();
    let counters = [
        names::OPERATIONS,
        names::ERRORS,
        names::FAILED_JOBS,
        names::LOCK_ACQUISITIONS,
        names::LOCK_TIMEOUTS,
        names::CACHE_HITS,
        names::CACHE_MISSES,
        names::RATE_LIMITED,
        names::REDIS_FAILURES,
        names::REDIS_BREAKER,
        names::JOBS,
        names::TOTAL_JOBS,
        names::ACTIVE_JOBS,
        names::QUEUE_LENGTH,
        names::ERROR_RATE,
        names::MEMORY_USAGE,
        names::CPU_USAGE,
        names::ACTIVE_CONNECTIONS,
        names::AGENTS,
        names::AUDIT_UNSEALED,
        names::AUDIT_UNSEALED_AGE,
        names::AUDIT_COPY_LAG,
        names::AUDIT_DROPPED,
    ];
    for name in counters {
        assert_eq!(lines(&text, name).len(), 1, "{name} in\n{text}");
    }
    for name in [names::OPERATION_DURATION, names::EXECUTION_DURATION, names::FIRE_LAG, names::DISPATCH_BATCH_SIZE] {
        assert_eq!(lines(&text, &format!("{name}_count")).len(), 1, "{name} in\n{text}");
        assert_eq!(text.matches(&format!("# TYPE {name} histogram\n")).count(), 1, "{name}");
    }
    let families = text.matches("# TYPE ").count();
    assert_eq!(families, 35);
}

#[test]
fn labels_and_values_are_as_documented() {
    let text = eventful().encode();
    let of = tenant(1);
    for line in [
        "scheduler_operations_total 2".to_owned(),
        "scheduler_errors_total 1".to_owned(),
        "scheduler_executions_total{status=\"completed\"} 1".to_owned(),
        "scheduler_executions_total{status=\"failed\"} 1".to_owned(),
        "scheduler_executions_total{status=\"cancelled\"} 0".to_owned(),
        format!("scheduler_job_executions_total{{job_type=\"http\",status=\"completed\",tenant_id=\"{of}\"}} 1"),
        format!("scheduler_execution_duration_seconds_count{{job_type=\"http\",tenant_id=\"{of}\"}} 1"),
        "scheduler_failed_jobs_total 1".to_owned(),
        "scheduler_omissions_total{reason=\"overlap\"} 3".to_owned(),
        "scheduler_refused_writes_total{reason=\"stale_epoch\"} 1".to_owned(),
        "scheduler_refused_calls_total{reason=\"credentials\"} 1".to_owned(),
        "scheduler_refused_calls_total{reason=\"address\"} 0".to_owned(),
        "scheduler_jobs_total 5".to_owned(),
        "scheduler_total_jobs 5".to_owned(),
        "scheduler_queue_size{queue_name=\"default\"} 2".to_owned(),
        "scheduler_queue_size{queue_name=\"slow \\\"one\\\"\"} 1".to_owned(),
        "scheduler_queue_length 3".to_owned(),
        "scheduler_error_rate 0.5".to_owned(),
    ] {
        assert_eq!(text.lines().filter(|l| **l == line).count(), 1, "{line} in\n{text}");
    }
}

#[test]
fn buckets_are_as_documented() {
    let text = eventful().encode();
    let bounds = |name: &str| -> Vec<f64> {
        lines(&text, &format!("{name}_bucket"))
            .iter()
            .filter_map(|line| line.split_once("le=\"")?.1.split_once('"')?.0.parse().ok())
            .filter(|bound: &f64| bound.is_finite())
            .collect()
    };
    assert_eq!(bounds(names::EXECUTION_DURATION), [0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0]);
    let lag = bounds(names::FIRE_LAG);
    assert_eq!((lag.first(), lag.last()), (Some(&0.001), Some(&10.0)));
}

#[test]
fn tenants_beyond_the_busiest_are_other() {
    let metrics = Metrics::with_tenants(2);
    for n in 0..100 {
        ended(&metrics, JobType::Http, ExecutionStatus::Completed, tenant(n), Some(SECOND));
    }
    let text = metrics.encode();
    assert_eq!(lines(&text, names::JOB_EXECUTIONS).len(), 3);
    let other = "scheduler_job_executions_total{job_type=\"http\",status=\"completed\",tenant_id=\"other\"} 98";
    assert!(text.lines().any(|line| line == other), "{text}");
    assert!(text.contains("scheduler_executions_total{status=\"completed\"} 100\n"));
}

#[test]
fn the_series_of_a_tenant_that_lost_its_label_are_gone() {
    let metrics = Metrics::with_tenants(1);
    ended(&metrics, JobType::Python, ExecutionStatus::Failed, tenant(1), Some(SECOND));
    for _ in 0..50 {
        ended(&metrics, JobType::Python, ExecutionStatus::Failed, tenant(2), Some(SECOND));
    }
    let text = metrics.encode();
    assert!(!text.contains(&tenant(1).to_string()) && text.contains(&tenant(2).to_string()), "{text}");
}

#[test]
fn queues_that_are_gone_are_not_shown() {
    let metrics = Metrics::default();
    let with = |queues| Gauges { queues, ..Gauges::default() };
    metrics.set_gauges(&with((0..300).map(|n| (format!("q{n:03}"), n)).collect()));
    let text = metrics.encode();
    assert_eq!(lines(&text, names::QUEUE_SIZE).len(), 101);
    assert!(text.contains("{queue_name=\"q299\"} 299\n") && text.contains("{queue_name=\"other\"} 19900\n"));
    metrics.set_gauges(&with(BTreeMap::from([("q000".to_owned(), 1)])));
    assert_eq!(lines(&metrics.encode(), names::QUEUE_SIZE), ["scheduler_queue_size{queue_name=\"q000\"} 1"]);
}

#[test]
fn what_has_not_ended_is_not_counted() {
    let metrics = Metrics::default();
    ended(&metrics, JobType::Http, ExecutionStatus::Running, tenant(1), None);
    assert!(!metrics.encode().contains("running"));
}

#[test]
fn a_sample_holds_counters_and_gauges_but_no_tenants_and_no_buckets() {
    let sample = eventful().sample();
    assert_eq!(sample.get("scheduler_operations_total"), Some(&2.0));
    assert_eq!(sample.get("scheduler_queue_size{queue_name=\"slow \\\"one\\\"\"}"), Some(&1.0));
    assert_eq!(sample.get("scheduler_error_rate"), Some(&0.5));
    assert!(sample.get("scheduler_memory_usage_bytes").is_some_and(|bytes| *bytes >= 0.0));
    assert!(sample.keys().all(|name| !name.contains("tenant_id") && !name.contains("_bucket")), "{sample:?}");
}

#[test]
fn a_clone_counts_into_the_same() {
    let metrics = Metrics::default();
    metrics.clone().operation(SECOND, true);
    assert!(metrics.encode().contains("scheduler_operations_total 1\n"));
}
