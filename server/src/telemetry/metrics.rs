//! The handle by which the rest of the program counts.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use orrery_proto::v1::{AuditOutcome, DeadLetterReason, ExecutionStatus, JobType};
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use uuid::Uuid;

use super::busiest::Busiest;
use super::instruments::{
    ByCache, ByOperation, ByOutcome, ByQueue, ByReason, ByStatus, ENDS, Instruments, OfEnd, OfJob, Tenant,
};
use super::process::{Meter, Usage};
use crate::execution::{Execution, State};
use crate::redis::BreakerState;

/// Tenants that have labels of their own, unless told otherwise.
const TENANTS: usize = 50;

/// Queues that are shown by name; tenants name them, so that there is no end to them otherwise.
const QUEUES: usize = 100;

/// What the tenants and queues without a label of their own are shown as.
const OTHER: &str = "other";

/// The metrics of a process; cheap to clone, and every clone counts into the same.
#[derive(Clone, Debug)]
pub struct Metrics {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    registry: Registry,
    instruments: Instruments,
    /// Held while a tenant's series are written, so that none is written after its tenant has lost its label.
    tenants: Mutex<Busiest<Uuid>>,
    queues_shown: Mutex<BTreeSet<String>>,
    meter: Mutex<Meter>,
}

/// What is counted by looking, every now and then, and not as it happens.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gauges {
    /// Jobs that exist.
    pub jobs: i64,
    /// Those of them that are active.
    pub active_jobs: i64,
    /// Executions that wait, by queue.
    pub queues: BTreeMap<String, i64>,
    /// Share of executions that fail, 0 to 1.
    pub error_rate: f64,
    /// Connections to this process.
    pub active_connections: i64,
    /// Agents connected to this process.
    pub agents: i64,
}

/// An execution that is over for good.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ended {
    pub job_type: JobType,
    pub status: ExecutionStatus,
    pub tenant: Uuid,
    /// `None` where it never started.
    pub duration: Option<Duration>,
    /// Why it was given up, where it was because its agents were lost.
    pub quarantine: Option<DeadLetterReason>,
}

impl Ended {
    /// What an execution counts as, where it is over. Its job's type stands with its lane.
    pub fn of(execution: &Execution) -> Option<Self> {
        let State::Done(outcome) = &execution.state else { return None };
        Some(Self {
            job_type: JobType::Unspecified,
            status: outcome.status,
            tenant: execution.tenant_id,
            duration: outcome.duration_ms.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis),
            quarantine: execution.quarantine(),
        })
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::with_tenants(TENANTS)
    }
}

impl Metrics {
    /// Metrics that show the `tenants` busiest by name.
    pub fn with_tenants(tenants: usize) -> Self {
        let mut registry = Registry::default();
        let instruments = Instruments::register(&mut registry);
        let inner = Inner {
            registry,
            instruments,
            tenants: Mutex::new(Busiest::new(tenants)),
            queues_shown: Mutex::default(),
            meter: Mutex::new(Meter::new()),
        };
        Self { inner: Arc::new(inner) }
    }

    /// A call, or an internal operation, is over.
    pub fn operation(&self, duration: Duration, ok: bool) {
        let to = &self.inner.instruments;
        to.operations.inc();
        to.operation_duration.observe(duration.as_secs_f64());
        if !ok {
            to.errors.inc();
        }
    }

    /// Executions are over for good. What is alike is counted at once.
    pub fn executions_ended(&self, ended: Vec<Ended>) {
        let mut alike: HashMap<(JobType, ExecutionStatus, Uuid), (u64, Vec<Duration>)> = HashMap::new();
        for end in ended {
            if let Some(reason) = end.quarantine {
                self.quarantined(reason);
            }
            let (count, durations) = alike.entry((end.job_type, end.status, end.tenant)).or_default();
            *count += 1;
            durations.extend(end.duration);
        }
        for ((job_type, status, tenant), (count, durations)) in alike {
            self.ended_alike((job_type, status), tenant, count, &durations);
        }
    }

    fn ended_alike(&self, (job_type, status): (JobType, ExecutionStatus), tenant: Uuid, n: u64, took: &[Duration]) {
        if !ENDS.contains(&status) {
            return;
        }
        let to = &self.inner.instruments;
        let (job_type, status_name) = (job_type.as_json_str(), status.as_json_str());
        to.executions.get_or_create(&ByStatus { status: status_name }).inc_by(n);
        if status == ExecutionStatus::Failed {
            to.failed_jobs.inc_by(n);
        }
        let mut tenants = held(&self.inner.tenants);
        let seen = tenants.observe_many(tenant, n);
        if let Some(evicted) = seen.evicted {
            to.forget(evicted);
        }
        let tenant_id = if seen.named { Tenant::Named(tenant) } else { Tenant::Other };
        to.job_executions.get_or_create(&OfEnd { job_type, status: status_name, tenant_id }).inc_by(n);
        if !took.is_empty() {
            let durations = to.execution_duration.get_or_create(&OfJob { job_type, tenant_id });
            took.iter().for_each(|duration| durations.observe(duration.as_secs_f64()));
        }
    }

    /// An execution was given up because its agents were lost.
    fn quarantined(&self, reason: DeadLetterReason) {
        self.inner.instruments.dead_letters.get_or_create(&ByReason { reason: reason.as_json_str() }).inc();
    }

    /// An execution started this long after its due instant.
    pub fn fire_lag(&self, lag: Duration) {
        self.inner.instruments.fire_lag.observe(lag.as_secs_f64());
    }

    /// `n` fires did not happen.
    pub fn omitted(&self, reason: &'static str, n: u64) {
        self.inner.instruments.omissions.get_or_create(&ByReason { reason }).inc_by(n);
    }

    /// What an agent said was refused.
    pub fn refused(&self, reason: &'static str) {
        self.inner.instruments.refused_writes.get_or_create(&ByReason { reason }).inc();
    }

    /// `n` executions were claimed in one statement.
    pub fn dispatched(&self, n: usize) {
        self.inner.instruments.dispatch_batch_size.observe(n as f64);
    }

    /// A lock was taken.
    pub fn lock_acquired(&self) {
        self.inner.instruments.lock_acquisitions.inc();
    }

    /// A lock was not to be had in time.
    pub fn lock_timed_out(&self) {
        self.inner.instruments.lock_timeouts.inc();
    }

    /// A cache knew the answer.
    pub fn cache_hit(&self, cache: &'static str) {
        self.inner.instruments.cache_hits.get_or_create(&ByCache { cache }).inc();
    }

    /// A cache did not know the answer.
    pub fn cache_missed(&self, cache: &'static str) {
        self.inner.instruments.cache_misses.get_or_create(&ByCache { cache }).inc();
    }

    /// A call was refused by a rate limit.
    pub fn rate_limited(&self) {
        self.inner.instruments.rate_limited.inc();
    }

    /// A call was refused for who makes it: credentials, attempts, rate_limit, address or permission.
    pub fn call_refused(&self, reason: &'static str) {
        self.inner.instruments.refused_calls.get_or_create(&ByReason { reason }).inc();
    }

    /// Audit entries were sealed.
    pub fn audit_sealed(&self, changed: u64, denied: u64) {
        for (outcome, count) in [(AuditOutcome::Changed, changed), (AuditOutcome::Denied, denied)] {
            let outcome = ByOutcome { outcome: outcome.as_json_str() };
            self.inner.instruments.audit_entries.get_or_create(&outcome).inc_by(count);
        }
    }

    /// How many audit entries wait to be sealed, and how long the first one has.
    pub fn audit_unsealed(&self, count: i64, age: Duration) {
        self.inner.instruments.audit_unsealed.set(count);
        self.inner.instruments.audit_unsealed_age.set(age.as_secs_f64());
    }

    /// How long the first part of the audit log has waited that the audit service lacks.
    pub fn audit_copy_lag(&self, lag: Duration) {
        self.inner.instruments.audit_copy_lag.set(lag.as_secs_f64());
    }

    /// Denied calls that the audit log has no entry of.
    pub fn audit_dropped(&self, count: u64) {
        self.inner.instruments.audit_dropped.inc_by(count);
    }

    /// Redis did not do what it was asked.
    pub fn redis_failed(&self, operation: &'static str) {
        self.inner.instruments.redis_failures.get_or_create(&ByOperation { operation }).inc();
    }

    /// Whether Redis is asked.
    pub fn redis_breaker(&self, state: BreakerState) {
        let shown = match state {
            BreakerState::Closed => 0,
            BreakerState::HalfOpen => 1,
            BreakerState::Open => 2,
        };
        self.inner.instruments.redis_breaker.set(shown);
    }

    /// Failed ones of all executions that have ended in the sight of this process, 0 to 1.
    pub fn error_rate(&self) -> f64 {
        let ended = |status: ExecutionStatus| {
            self.inner.instruments.executions.get_or_create(&ByStatus { status: status.as_json_str() }).get() as f64
        };
        let all: f64 = ENDS.into_iter().map(ended).sum();
        if all > 0.0 { ended(ExecutionStatus::Failed) / all } else { 0.0 }
    }

    /// Sets what is counted by looking.
    pub fn set_gauges(&self, gauges: &Gauges) {
        let to = &self.inner.instruments;
        to.jobs.set(gauges.jobs);
        to.total_jobs.set(gauges.jobs);
        to.active_jobs.set(gauges.active_jobs);
        to.queue_length.set(gauges.queues.values().sum());
        to.error_rate.set(gauges.error_rate);
        to.active_connections.set(gauges.active_connections);
        to.agents.set(gauges.agents);
        self.set_queues(&gauges.queues);
    }

    /// The fullest queues by name, the rest as one. A queue that is gone is not shown any more.
    fn set_queues(&self, queues: &BTreeMap<String, i64>) {
        let family = &self.inner.instruments.queue_size;
        let mut by_size: Vec<_> = queues.iter().collect();
        by_size.sort_by(|(a_name, a), (b_name, b)| b.cmp(a).then_with(|| a_name.cmp(b_name)));
        let (fullest, rest) = by_size.split_at(by_size.len().min(QUEUES));
        let mut sizes: BTreeMap<&str, i64> = fullest.iter().map(|(name, size)| (name.as_str(), **size)).collect();
        if !rest.is_empty() {
            *sizes.entry(OTHER).or_default() += rest.iter().map(|(_, size)| **size).sum::<i64>();
        }
        let mut shown = held(&self.inner.queues_shown);
        for gone in shown.iter().filter(|name| !sizes.contains_key(name.as_str())) {
            family.remove(&ByQueue { queue_name: gone.clone() });
        }
        *shown = sizes.keys().map(|name| (*name).to_owned()).collect();
        for (name, size) in sizes {
            family.get_or_create(&ByQueue { queue_name: name.to_owned() }).set(size);
        }
    }

    /// Memory and processors that this process uses.
    pub fn usage(&self) -> Usage {
        let usage = held(&self.inner.meter).read();
        self.inner.instruments.memory_usage.set(usage.resident_bytes as f64);
        self.inner.instruments.cpu_usage.set(usage.cpu_percent);
        usage
    }

    /// Everything, as OpenMetrics text.
    pub fn encode(&self) -> String {
        self.usage();
        let mut out = String::new();
        if let Err(error) = text::encode(&mut out, &self.inner.registry) {
            tracing::error!(%error, "metrics cannot be written as text");
        }
        out
    }

    /// Counters and gauges by name and labels, for keeping in the database. Not those by tenant, which history can tell better, and not the
    /// histograms.
    pub fn sample(&self) -> BTreeMap<String, f64> {
        let text = self.encode();
        let mut of_histogram = false;
        let mut sample = BTreeMap::new();
        for line in text.lines() {
            if let Some(described) = line.strip_prefix("# TYPE ") {
                of_histogram = described.ends_with(" histogram");
            } else if !line.starts_with('#')
                && !of_histogram
                && !line.contains("tenant_id=\"")
                && let Some((name, value)) = line.rsplit_once(' ')
                && let Ok(value) = value.parse()
            {
                sample.insert(name.to_owned(), value);
            }
        }
        sample
    }
}

/// A panic elsewhere has left counts, not promises: what is there still serves.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
