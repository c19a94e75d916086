//! The names of the metrics, as Prometheus shows them.
//!
//! The encoder appends `_total` to counters by itself, so that they are registered through [`counter_family`].

pub const OPERATIONS: &str = "scheduler_operations_total";
pub const ERRORS: &str = "scheduler_errors_total";
pub const EXECUTIONS: &str = "scheduler_executions_total";
pub const JOB_EXECUTIONS: &str = "scheduler_job_executions_total";
pub const DEAD_LETTERS: &str = "scheduler_dead_letters_total";
pub const FAILED_JOBS: &str = "scheduler_failed_jobs_total";
pub const LOCK_ACQUISITIONS: &str = "scheduler_lock_acquisitions_total";
pub const LOCK_TIMEOUTS: &str = "scheduler_lock_timeouts_total";
pub const CACHE_HITS: &str = "scheduler_cache_hits_total";
pub const CACHE_MISSES: &str = "scheduler_cache_misses_total";
pub const AUDIT_ENTRIES: &str = "scheduler_audit_entries_total";
pub const AUDIT_DROPPED: &str = "scheduler_audit_dropped_total";
pub const REFUSED_CALLS: &str = "scheduler_refused_calls_total";
pub const RATE_LIMITED: &str = "scheduler_rate_limited_total";
pub const REDIS_FAILURES: &str = "scheduler_redis_failures_total";
pub const OMISSIONS: &str = "scheduler_omissions_total";
pub const REFUSED_WRITES: &str = "scheduler_refused_writes_total";

pub const OPERATION_DURATION: &str = "scheduler_operation_duration_seconds";
pub const EXECUTION_DURATION: &str = "scheduler_execution_duration_seconds";
pub const FIRE_LAG: &str = "scheduler_fire_lag_seconds";
pub const DISPATCH_BATCH_SIZE: &str = "scheduler_dispatch_batch_size";

/// A gauge for all its suffix: jobs that exist. [`TOTAL_JOBS`] is the same number under its other documented name.
pub const JOBS: &str = "scheduler_jobs_total";
pub const TOTAL_JOBS: &str = "scheduler_total_jobs";
pub const ACTIVE_JOBS: &str = "scheduler_active_jobs";
pub const QUEUE_SIZE: &str = "scheduler_queue_size";
pub const QUEUE_LENGTH: &str = "scheduler_queue_length";
pub const ERROR_RATE: &str = "scheduler_error_rate";
pub const MEMORY_USAGE: &str = "scheduler_memory_usage_bytes";
pub const CPU_USAGE: &str = "scheduler_cpu_usage_percent";
pub const ACTIVE_CONNECTIONS: &str = "scheduler_active_connections";
/// 0 closed, 1 half-open, 2 open.
pub const REDIS_BREAKER: &str = "scheduler_redis_breaker_state";
pub const AGENTS: &str = "scheduler_agents";
pub const AUDIT_UNSEALED: &str = "scheduler_audit_unsealed";
pub const AUDIT_UNSEALED_AGE: &str = "scheduler_audit_unsealed_age_seconds";
pub const AUDIT_COPY_LAG: &str = "scheduler_audit_copy_lag_seconds";

/// What a counter is registered as, for it to be shown under `name`.
pub(super) fn counter_family(name: &'static str) -> &'static str {
    name.strip_suffix("_total").unwrap_or(name)
}
