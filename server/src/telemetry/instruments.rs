//! Every metric there is, with its labels and buckets, and its registration.

use std::fmt::{self, Write};
use std::sync::atomic::AtomicU64;

use orrery_proto::v1::{AuditOutcome, DeadLetterReason, ExecutionStatus, JobType};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};
use uuid::Uuid;

use super::names;

/// A gauge of fractions.
pub(super) type Level = Gauge<f64, AtomicU64>;

const EXECUTION_SECONDS: [f64; 8] = [0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0];
const OPERATION_SECONDS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];
const LAG_SECONDS: [f64; 14] = [0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 10.0];
const BATCH_SIZES: [f64; 10] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 250.0, 500.0, 1000.0];

/// How an execution can end.
pub(super) const ENDS: [ExecutionStatus; 3] =
    [ExecutionStatus::Completed, ExecutionStatus::Failed, ExecutionStatus::Cancelled];

/// Every job type; `Unspecified` as well, so that what cannot be told apart is still counted.
pub(super) const JOB_TYPES: [JobType; 6] =
    [JobType::Unspecified, JobType::Http, JobType::Function, JobType::Command, JobType::Shell, JobType::Python];

/// Why a call can be refused, whatever it asks for.
pub(super) const REFUSALS: [&str; 5] = ["credentials", "attempts", "rate_limit", "address", "permission"];

/// A tenant's label: its own, or that of all who have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Tenant {
    Named(Uuid),
    Other,
}

impl EncodeLabelValue for Tenant {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        match self {
            Self::Named(id) => write!(encoder, "{id}"),
            Self::Other => encoder.write_str("other"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByStatus {
    pub(super) status: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByReason {
    pub(super) reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByOutcome {
    pub(super) outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByCache {
    pub(super) cache: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByOperation {
    pub(super) operation: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ByQueue {
    pub(super) queue_name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfJob {
    pub(super) job_type: &'static str,
    pub(super) tenant_id: Tenant,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfEnd {
    pub(super) job_type: &'static str,
    pub(super) status: &'static str,
    pub(super) tenant_id: Tenant,
}

/// The metrics themselves.
#[derive(Debug)]
pub(super) struct Instruments {
    pub(super) operations: Counter,
    pub(super) errors: Counter,
    pub(super) executions: Family<ByStatus, Counter>,
    pub(super) job_executions: Family<OfEnd, Counter>,
    pub(super) failed_jobs: Counter,
    pub(super) dead_letters: Family<ByReason, Counter>,
    pub(super) lock_acquisitions: Counter,
    pub(super) lock_timeouts: Counter,
    pub(super) cache_hits: Family<ByCache, Counter>,
    pub(super) cache_misses: Family<ByCache, Counter>,
    pub(super) rate_limited: Counter,
    pub(super) refused_calls: Family<ByReason, Counter>,
    pub(super) redis_failures: Family<ByOperation, Counter>,
    pub(super) redis_breaker: Gauge,
    pub(super) omissions: Family<ByReason, Counter>,
    pub(super) refused_writes: Family<ByReason, Counter>,
    pub(super) operation_duration: Histogram,
    pub(super) execution_duration: Family<OfJob, Histogram>,
    pub(super) fire_lag: Histogram,
    pub(super) dispatch_batch_size: Histogram,
    pub(super) jobs: Gauge,
    pub(super) total_jobs: Gauge,
    pub(super) active_jobs: Gauge,
    pub(super) queue_size: Family<ByQueue, Gauge>,
    pub(super) queue_length: Gauge,
    pub(super) error_rate: Level,
    pub(super) memory_usage: Level,
    pub(super) cpu_usage: Level,
    pub(super) active_connections: Gauge,
    pub(super) agents: Gauge,
    pub(super) audit_entries: Family<ByOutcome, Counter>,
    pub(super) audit_dropped: Counter,
    pub(super) audit_unsealed: Gauge,
    pub(super) audit_unsealed_age: Level,
    pub(super) audit_copy_lag: Level,
}

impl Instruments {
    /// All of them, registered. What has few labels is there from the start with 0, so that the first failure is a rise to be seen.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let r = registry;
        let executions = counter(r, names::EXECUTIONS, "Executions that ended, by how", Family::default());
        for status in ENDS {
            drop(executions.get_or_create(&ByStatus { status: status.as_json_str() }));
        }
        let help = "Executions that were given up because their agents were lost, by why";
        let dead_letters = counter(r, names::DEAD_LETTERS, help, Family::default());
        for reason in [DeadLetterReason::LeasesLost, DeadLetterReason::MayHaveRun] {
            drop(dead_letters.get_or_create(&ByReason { reason: reason.as_json_str() }));
        }
        let help = "Calls that were refused before or for who makes them, by why";
        let refused_calls = counter(r, names::REFUSED_CALLS, help, Family::default());
        for reason in REFUSALS {
            drop(refused_calls.get_or_create(&ByReason { reason }));
        }
        let audit_entries =
            counter(r, names::AUDIT_ENTRIES, "Audit entries that were sealed, by outcome", Family::default());
        for outcome in [AuditOutcome::Changed, AuditOutcome::Denied] {
            drop(audit_entries.get_or_create(&ByOutcome { outcome: outcome.as_json_str() }));
        }
        Self {
            executions,
            dead_letters,
            refused_calls,
            audit_entries,
            audit_dropped: counter(
                r,
                names::AUDIT_DROPPED,
                "Denied calls that the audit log has no entry of, for there were too many",
                Counter::default(),
            ),
            audit_unsealed: plain(r, names::AUDIT_UNSEALED, "Audit entries that wait to be sealed", Gauge::default()),
            audit_unsealed_age: plain(
                r,
                names::AUDIT_UNSEALED_AGE,
                "How long the first audit entry that is not sealed has waited",
                Level::default(),
            ),
            audit_copy_lag: plain(
                r,
                names::AUDIT_COPY_LAG,
                "How long the first part of the audit log that AUDIT_SERVICE_URL lacks has waited; 0 where there is no such service",
                Level::default(),
            ),
            operations: counter(r, names::OPERATIONS, "Calls and internal operations", Counter::default()),
            errors: counter(r, names::ERRORS, "Operations that failed", Counter::default()),
            job_executions: counter(
                r,
                names::JOB_EXECUTIONS,
                "Executions that ended, by job type, status and tenant; the tenants not among the busiest are other",
                Family::default(),
            ),
            failed_jobs: counter(r, names::FAILED_JOBS, "Executions that failed", Counter::default()),
            lock_acquisitions: counter(r, names::LOCK_ACQUISITIONS, "Locks taken", Counter::default()),
            lock_timeouts: counter(r, names::LOCK_TIMEOUTS, "Locks not had in time", Counter::default()),
            cache_hits: counter(r, names::CACHE_HITS, "Answers from a cache, by cache", Family::default()),
            cache_misses: counter(r, names::CACHE_MISSES, "Questions that a cache did not know", Family::default()),
            rate_limited: counter(r, names::RATE_LIMITED, "Calls refused by a rate limit", Counter::default()),
            redis_failures: counter(r, names::REDIS_FAILURES, "Calls of Redis that failed, by what", Family::default()),
            redis_breaker: plain(
                r,
                names::REDIS_BREAKER,
                "Whether Redis is asked: 0 closed, it is; 1 half-open; 2 open, it is not",
                Gauge::default(),
            ),
            omissions: counter(r, names::OMISSIONS, "Fires that did not happen, by why", Family::default()),
            refused_writes: counter(
                r,
                names::REFUSED_WRITES,
                "Messages of agents that were refused, by why",
                Family::default(),
            ),
            operation_duration: plain(
                r,
                names::OPERATION_DURATION,
                "Time an operation took",
                seconds(OPERATION_SECONDS),
            ),
            execution_duration: plain(
                r,
                names::EXECUTION_DURATION,
                "Time from the start of an execution to its end",
                Family::new_with_constructor(|| Histogram::new(EXECUTION_SECONDS)),
            ),
            fire_lag: plain(r, names::FIRE_LAG, "Time from the due instant to the start", seconds(LAG_SECONDS)),
            dispatch_batch_size: plain(
                r,
                names::DISPATCH_BATCH_SIZE,
                "Executions claimed at once",
                seconds(BATCH_SIZES),
            ),
            jobs: plain(r, names::JOBS, "Jobs that exist", Gauge::default()),
            total_jobs: plain(r, names::TOTAL_JOBS, "Jobs that exist, under its other name", Gauge::default()),
            active_jobs: plain(r, names::ACTIVE_JOBS, "Jobs that are active", Gauge::default()),
            queue_size: plain(r, names::QUEUE_SIZE, "Executions that wait, by queue", Family::default()),
            queue_length: plain(r, names::QUEUE_LENGTH, "Executions that wait", Gauge::default()),
            error_rate: plain(r, names::ERROR_RATE, "Share of executions that fail, 0 to 1", Level::default()),
            memory_usage: plain(r, names::MEMORY_USAGE, "Resident memory of this process", Level::default()),
            cpu_usage: plain(r, names::CPU_USAGE, "Use of processors, 100 being one", Level::default()),
            active_connections: plain(r, names::ACTIVE_CONNECTIONS, "Connections to this process", Gauge::default()),
            agents: plain(r, names::AGENTS, "Agents connected to this process", Gauge::default()),
        }
    }

    /// Drops the series of a tenant that has lost its label.
    pub(super) fn forget(&self, tenant: Uuid) {
        let tenant_id = Tenant::Named(tenant);
        for job_type in JOB_TYPES.map(|job_type| job_type.as_json_str()) {
            self.execution_duration.remove(&OfJob { job_type, tenant_id });
            for status in ENDS.map(|status| status.as_json_str()) {
                self.job_executions.remove(&OfEnd { job_type, status, tenant_id });
            }
        }
    }
}

fn seconds<const N: usize>(buckets: [f64; N]) -> Histogram {
    Histogram::new(buckets)
}

fn counter<M: Metric + Clone>(registry: &mut Registry, name: &'static str, help: &str, metric: M) -> M {
    registry.register(names::counter_family(name), help, metric.clone());
    metric
}

fn plain<M: Metric + Clone>(registry: &mut Registry, name: &'static str, help: &str, metric: M) -> M {
    registry.register(name, help, metric.clone());
    metric
}
