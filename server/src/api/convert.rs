//! From what is stored to what the API shows. Pure.

use std::time::Duration;

use chrono::{DateTime, Utc};
use orrery_proto::v1::{self, LogEntry, WorkerState};
use orrery_proto::{Json, Timestamp};
use uuid::Uuid;

use crate::execution::{Attempt, Execution, Lease, State};
use crate::job::{Job, RetryPolicy, ScheduleKind, Timeouts};
use crate::secret::sensitive;
use crate::store::{CoordinatorRow, DeadLetter, LogLine, OmissionRow, Session, Stats};

/// A job; `timeouts` decide over the time-out that it shows.
pub(crate) fn job(job: &Job, timeouts: Timeouts) -> v1::Job {
    let spec = &job.spec;
    let (cron_expression, interval_ms, run_at, manual) = match &spec.schedule.kind {
        ScheduleKind::Cron(expression) => (expression.clone(), None, None, false),
        ScheduleKind::Every(ms) => (String::new(), Some(*ms), None, false),
        ScheduleKind::Once(at) => (String::new(), None, Some(Timestamp::from(*at)), false),
        ScheduleKind::Manual => (String::new(), None, None, true),
    };
    v1::Job {
        id: job.id.to_string(),
        name: spec.name.clone(),
        description: spec.description.clone(),
        status: job.status.into(),
        cron_expression,
        timezone: spec.schedule.timezone.clone(),
        job_type: spec.job_type.into(),
        config: Some(Json::new(sensitive::masked(&spec.config, &spec.sensitive))),
        sensitive: spec.sensitive.clone(),
        retry_config: Some(retry(&spec.retry)),
        timeout: whole_seconds(spec.timeout(timeouts)),
        max_concurrent: spec.max_concurrent,
        priority: spec.priority,
        start_date: time(spec.start_date),
        end_date: time(spec.end_date),
        max_executions: spec.max_executions,
        execution_count: job.execution_count,
        tags: spec.tags.clone(),
        next_execution_at: time(job.next_execution_at.or(job.cursor)),
        last_execution_at: time(job.last_execution_at),
        created_at: time(Some(job.created_at)),
        updated_at: time(Some(job.updated_at)),
        version: job.version,
        interval_ms,
        run_at,
        manual,
        queue: spec.queue.clone(),
        selector: spec.selector.clone().into_iter().collect(),
        overlap: spec.overlap.into(),
        misfire: spec.misfire.policy.into(),
        misfire_grace_seconds: spec.misfire.grace_seconds,
        misfire_max_count: spec.misfire.max_count,
        misfire_max_lateness_seconds: spec.misfire.max_lateness_seconds,
        start_deadline_seconds: spec.start_deadline_seconds,
        dst_gap: spec.schedule.dst_gap.into(),
        dst_overlap: spec.schedule.dst_overlap.into(),
        delivery: spec.delivery.into(),
        created_by: job.created_by.to_string(),
        concurrency_key: spec.concurrency.as_ref().map(|c| c.key.clone()).unwrap_or_default(),
        concurrency_limit: spec.concurrency.as_ref().map_or(0, |c| c.limit),
    }
}

fn retry(retry: &RetryPolicy) -> v1::RetryConfig {
    v1::RetryConfig {
        max_retries: retry.max_retries,
        retry_delay_ms: retry.delay_ms,
        exponential_backoff: retry.exponential,
        retry_on_error_types: retry.on.iter().map(|error| i32::from(*error)).collect(),
        max_retry_delay_ms: retry.max_delay_ms,
        jitter: retry.jitter,
    }
}

/// An execution with its attempts.
pub(crate) fn execution(execution: &Execution) -> v1::Execution {
    let lease = execution.lease();
    let outcome = match &execution.state {
        State::Done(outcome) => Some(outcome),
        _ => None,
    };
    let session = lease.map(|l| l.session_id).or_else(|| outcome.and_then(|o| o.session_id));
    let worker_name = lease.map(|l| &l.worker_name).or_else(|| outcome.map(|o| &o.worker_name));
    let latest_start = execution.attempts.last().and_then(|attempt| attempt.started_at);
    let started_at = match &execution.state {
        State::Leased(_) => None,
        State::Running(lease) => lease.started_at,
        State::Done(outcome) => outcome.started_at,
        State::Scheduled | State::Pending => latest_start,
    };
    v1::Execution {
        id: execution.id.to_string(),
        job_id: execution.job_id.to_string(),
        job_name: execution.job_name.clone(),
        trigger_type: execution.trigger.into(),
        triggered_by: text(execution.triggered_by),
        status: execution.status().into(),
        progress: execution.progress,
        scheduled_at: time(Some(execution.scheduled_at)),
        started_at: time(started_at),
        completed_at: time(outcome.map(|o| o.completed_at)),
        duration_ms: outcome.and_then(|o| o.duration_ms),
        result: outcome.and_then(|o| o.result.as_deref()).map(Json::new),
        error_type: outcome.and_then(|o| o.error_type).map(i32::from),
        error_message: outcome.map(|o| o.error_message.clone()).unwrap_or_default(),
        error_stack: outcome.map(|o| o.error_stack.clone()).unwrap_or_default(),
        retry_count: execution.retries(),
        worker_id: text(session),
        memory_peak_mb: outcome.and_then(|o| o.memory_peak_mb),
        cpu_time_ms: outcome.and_then(|o| o.cpu_time_ms),
        created_at: time(Some(execution.created_at)),
        parameters: execution.parameters.as_deref().map(Json::new),
        queue: execution.queue.clone(),
        priority: execution.priority,
        epoch: execution.epoch,
        attempts: attempts(execution),
        retry_of: text(execution.retry_of),
        job_version: execution.job_version,
        run_at: time(Some(execution.run_at)),
        cancel_requested_at: time(execution.cancel_requested_at),
        worker_name: worker_name.cloned().unwrap_or_default(),
        concurrency_key: execution.concurrency.as_ref().map(|c| c.key.clone()).unwrap_or_default(),
        quarantined: execution.quarantine().map(|why| why.as_json_str().to_owned()).unwrap_or_default(),
    }
}

/// The attempts that have ended, and the one that an agent holds now.
fn attempts(execution: &Execution) -> Vec<v1::Attempt> {
    let running = execution.lease().map(|lease| running_attempt(execution, lease));
    execution.attempts.iter().map(ended_attempt).chain(running).collect()
}

fn ended_attempt(attempt: &Attempt) -> v1::Attempt {
    v1::Attempt {
        number: attempt.number,
        epoch: attempt.epoch,
        worker_id: attempt.session_id.to_string(),
        worker_name: attempt.worker_name.clone(),
        started_at: time(attempt.started_at),
        ended_at: time(Some(attempt.ended_at)),
        outcome: attempt.outcome.as_str().to_owned(),
        error_type: attempt.error_type.map(i32::from),
        error_message: attempt.error_message.clone(),
    }
}

fn running_attempt(execution: &Execution, lease: &Lease) -> v1::Attempt {
    v1::Attempt {
        number: execution.attempt,
        epoch: execution.epoch,
        worker_id: lease.session_id.to_string(),
        worker_name: lease.worker_name.clone(),
        started_at: time(lease.started_at),
        ended_at: None,
        outcome: "running".to_owned(),
        error_type: None,
        error_message: String::new(),
    }
}

/// A dead letter.
pub(crate) fn dead_letter(letter: DeadLetter) -> v1::DeadLetter {
    v1::DeadLetter {
        execution_id: letter.execution_id.to_string(),
        job_id: letter.job_id.to_string(),
        job_name: letter.job_name,
        reason: letter.reason.into(),
        message: letter.message,
        losses: letter.losses,
        last_worker: letter.last_worker,
        created_at: time(Some(letter.created_at)),
        state: letter.state.into(),
        released_as: text(letter.released_as),
        decided_by: text(letter.decided_by),
        decided_at: time(letter.decided_at),
        note: letter.note,
    }
}

/// One piece of output.
pub(crate) fn log_entry(line: &LogLine) -> LogEntry {
    LogEntry {
        sequence: line.sequence,
        stream: line.stream.into(),
        at: time(Some(line.at)),
        text: line.text.clone(),
        attempt: line.attempt,
    }
}

/// Fires that did not happen.
pub(crate) fn omission(row: OmissionRow) -> v1::Omission {
    v1::Omission {
        id: row.id.to_string(),
        job_id: row.job_id.to_string(),
        reason: row.omission.reason,
        from: time(Some(row.omission.from)),
        to: time(Some(row.omission.to)),
        count: row.omission.count,
        created_at: time(Some(row.created_at)),
        detail: row.omission.detail,
    }
}

/// An agent.
pub(crate) fn worker(session: &Session) -> v1::Worker {
    let agent = &session.agent;
    let state = match (session.attached, session.draining) {
        (false, _) => WorkerState::Disconnected,
        (true, true) => WorkerState::Draining,
        (true, false) => WorkerState::Connected,
    };
    v1::Worker {
        id: session.id.to_string(),
        name: agent.name.clone(),
        version: agent.version.clone(),
        state: state.into(),
        queues: agent.queues.clone(),
        labels: agent.labels.clone().into_iter().collect(),
        executors: agent.executors.clone(),
        slots: agent.slots,
        running: count(session.running),
        connected_at: time(Some(session.opened_at)),
        last_heartbeat_at: time(Some(session.renewed_at)),
        expires_at: time(Some(session.expires_at)),
        coordinator_id: agent.coordinator_id.to_string(),
        address: agent.address.clone(),
        agent_id: agent.agent_id.map(|id| id.to_string()).unwrap_or_default(),
    }
}

/// A coordinator.
pub(crate) fn coordinator(row: CoordinatorRow) -> v1::Coordinator {
    v1::Coordinator {
        id: row.id.to_string(),
        version: row.version,
        address: row.address,
        started_at: time(Some(row.started_at)),
        last_seen_at: time(Some(row.last_seen_at)),
        clock_offset_ms: row.clock_offset_ms,
        workers: count(row.sessions),
        build: row.build,
        leases: count(row.leases),
        draining: row.draining,
    }
}

/// Totals with their rates.
pub(crate) fn stats(stats: &Stats, from: DateTime<Utc>, to: DateTime<Utc>) -> v1::ExecutionStats {
    let ended = stats.completed + stats.failed + stats.cancelled;
    let minutes = (to - from).as_seconds_f64() / 60.0;
    v1::ExecutionStats {
        from: time(Some(from)),
        to: time(Some(to)),
        total: stats.pending + stats.running + ended,
        pending: stats.pending,
        running: stats.running,
        completed: stats.completed,
        failed: stats.failed,
        cancelled: stats.cancelled,
        omitted: stats.omitted,
        success_rate: share(stats.completed, stats.completed + stats.failed),
        error_rate: share(stats.failed, stats.completed + stats.failed),
        timeout_rate: share(stats.timed_out, ended),
        retry_rate: share(stats.retried, ended),
        average_duration_ms: stats.average_ms,
        p50_duration_ms: stats.p50_ms,
        p95_duration_ms: stats.p95_ms,
        p99_duration_ms: stats.p99_ms,
        max_duration_ms: stats.max_ms,
        per_minute: if minutes > 0.0 { float(ended) / minutes } else { 0.0 },
    }
}

/// `part` of `whole`, 0 to 1; 0 where there is nothing.
pub(crate) fn share(part: i64, whole: i64) -> f64 {
    if whole > 0 { float(part) / float(whole) } else { 0.0 }
}

/// A count for a field of 32 bits.
pub(crate) fn count(number: i64) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

#[allow(clippy::cast_precision_loss)] // Counts stay far below 2^52.
fn float(number: i64) -> f64 {
    number as f64
}

fn whole_seconds(duration: Duration) -> i32 {
    let seconds = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    i32::try_from(seconds).unwrap_or(i32::MAX)
}

/// An instant on the wire.
pub(crate) fn time(at: Option<DateTime<Utc>>) -> Option<Timestamp> {
    at.map(Timestamp::from)
}

fn text(id: Option<Uuid>) -> String {
    id.map(|id| id.to_string()).unwrap_or_default()
}
