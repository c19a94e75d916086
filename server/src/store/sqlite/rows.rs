//! Rows as values, and values as columns.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};
use orrery_proto::v1::{ErrorType, ExecutionStatus, JobStatus, TriggerType};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::concurrency::Concurrency;
use crate::execution::{Execution, Lease, Outcome, State};
use crate::job::{Job, JobSpec};
use crate::store::rows::{Columns, plain_columns};
use crate::store::{Lane, NewOmission, NewSession, OmissionRow, Result, Session, StoreError};

/// The columns that live and finished executions share.
macro_rules! shared_columns {
    () => {
        "id, tenant_id, job_id, coalesce((select j.name from scheduled_jobs j where j.id = job_id), '') as job_name, trigger_type, \
         triggered_by, lane_id, queue, priority, scheduled_at, run_at, created_at, attempt, epoch, losses, job_version, progress, \
         attempts, parameters, cancel_requested_at, cancel_reason, retry_of, traceparent, started_at"
    };
}

/// `select` of what [`live`] reads.
macro_rules! select_live {
    ($($rest:tt)*) => {
        concat!(
            "select ",
            $crate::store::sqlite::rows::shared_columns!(),
            ", state, session_id, worker_name, granted_at, deadline, start_by, concurrency_key, key_limit \
             from live_executions ",
            $($rest)*
        )
    };
}

/// `select` of what [`finished`] reads.
macro_rules! select_finished {
    ($rest:literal) => {
        concat!(
            "select ",
            $crate::store::sqlite::rows::shared_columns!(),
            ", null as start_by, status, completed_at, duration_ms, result, error_type, error_message, error_stack, worker_id, worker_name, memory_peak_mb, \
             cpu_time_ms from job_executions ",
            $rest
        )
    };
}

/// `select` of what [`job`] reads.
macro_rules! select_jobs {
    ($rest:literal) => {
        concat!(
            "select j.id, j.tenant_id, j.spec, j.status, j.version, j.next_execution_at, j.execution_count, j.last_execution_at, \
             j.halted_at, j.tenant_suspended_at, j.created_by, j.created_at, j.updated_at, j.deleted_at, j.lane_id, \
             (select min(e.run_at) from live_executions e where e.job_id = j.id and e.state = 'scheduled' \
             and e.trigger_type = 'scheduled' and e.attempt = 0) as planned_at from scheduled_jobs j ",
            $rest
        )
    };
}

pub(super) use {select_finished, select_jobs, select_live, shared_columns};

/// The finest step of an instant here.
pub(super) const TICK: Duration = Duration::from_micros(1);

/// Microseconds since 1970.
pub(super) fn micros(at: DateTime<Utc>) -> i64 {
    at.timestamp_micros()
}

/// A duration, as far as instants go.
pub(super) fn span(duration: Duration) -> chrono::Duration {
    chrono::Duration::from_std(duration).unwrap_or(chrono::Duration::days(36_500))
}

/// The instant after a duration, or the last one.
pub(super) fn after(at: DateTime<Utc>, duration: Duration) -> DateTime<Utc> {
    at.checked_add_signed(span(duration)).unwrap_or(DateTime::<Utc>::MAX_UTC).trunc_subsecs(6)
}

/// The instant before a duration, or the first one.
pub(super) fn before(at: DateTime<Utc>, duration: Duration) -> DateTime<Utc> {
    at.checked_sub_signed(span(duration)).unwrap_or(DateTime::UNIX_EPOCH).trunc_subsecs(6)
}

/// Cuts the instants of an execution to what a column keeps, so that what is answered is what is read later.
pub(super) fn cut(execution: &mut Execution) {
    execution.run_at = execution.run_at.trunc_subsecs(6);
    if let State::Leased(lease) | State::Running(lease) = &mut execution.state {
        lease.deadline = lease.deadline.trunc_subsecs(6);
    }
}

pub(super) fn corrupt(table: &'static str, reason: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt { table, reason: reason.to_string() }
}

impl Columns for SqliteRow {
    plain_columns!();

    fn instant(&self, table: &'static str, column: &str) -> Result<DateTime<Utc>> {
        instant(self, table, column)
    }

    fn maybe_instant(&self, table: &'static str, column: &str) -> Result<Option<DateTime<Utc>>> {
        maybe_instant(self, table, column)
    }

    fn texts(&self, table: &'static str, column: &str) -> Result<Vec<String>> {
        json(self, table, column)
    }
}

/// A column of microseconds.
pub(super) fn instant(row: &SqliteRow, table: &'static str, column: &str) -> Result<DateTime<Utc>> {
    let micros: i64 = row.try_get(column)?;
    DateTime::from_timestamp_micros(micros).ok_or_else(|| corrupt(table, format!("{column} is {micros}")))
}

/// A column of microseconds that may be null.
pub(super) fn maybe_instant(row: &SqliteRow, table: &'static str, column: &str) -> Result<Option<DateTime<Utc>>> {
    match row.try_get::<Option<i64>, _>(column)? {
        None => Ok(None),
        Some(_) => instant(row, table, column).map(Some),
    }
}

/// Microseconds that a statement computed.
pub(super) fn from_micros(micros: Option<i64>) -> Option<DateTime<Utc>> {
    micros.and_then(DateTime::from_timestamp_micros)
}

/// A column of JSON.
pub(super) fn json<T: DeserializeOwned>(row: &SqliteRow, table: &'static str, column: &str) -> Result<T> {
    let text: &str = row.try_get(column)?;
    serde_json::from_str(text).map_err(|error| corrupt(table, format!("{column}: {error}")))
}

/// A value as JSON text.
pub(super) fn to_json<T: Serialize + ?Sized>(table: &'static str, value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| corrupt(table, error))
}

/// A column with the name of an enum's value.
pub(super) fn named<T>(row: &SqliteRow, table: &'static str, column: &str, of: fn(&str) -> Option<T>) -> Result<T> {
    let text: &str = row.try_get(column)?;
    of(text).ok_or_else(|| corrupt(table, format!("{column} is {text}")))
}

/// A job's definition.
pub(super) fn spec(text: &str) -> Result<JobSpec> {
    serde_json::from_str(text).map_err(|error| corrupt("job_versions", error))
}

/// A job, from `select_jobs!`.
pub(super) fn job(row: &SqliteRow) -> Result<Job> {
    const TABLE: &str = "scheduled_jobs";
    let cursor = maybe_instant(row, TABLE, "next_execution_at")?;
    Ok(Job {
        id: row.try_get("id")?,
        tenant_id: row.try_get("tenant_id")?,
        spec: json(row, TABLE, "spec")?,
        status: named(row, TABLE, "status", JobStatus::from_json_str)?,
        version: row.try_get("version")?,
        cursor,
        execution_count: row.try_get("execution_count")?,
        last_execution_at: maybe_instant(row, TABLE, "last_execution_at")?,
        halted_at: maybe_instant(row, TABLE, "halted_at")?,
        tenant_suspended_at: maybe_instant(row, TABLE, "tenant_suspended_at")?,
        created_by: row.try_get("created_by")?,
        created_at: instant(row, TABLE, "created_at")?,
        updated_at: instant(row, TABLE, "updated_at")?,
        deleted_at: maybe_instant(row, TABLE, "deleted_at")?,
        next_execution_at: maybe_instant(row, TABLE, "planned_at")?.or(cursor),
    })
}

/// A live execution, from `select_live!`.
pub(super) fn live(row: &SqliteRow) -> Result<Execution> {
    const TABLE: &str = "live_executions";
    let state = match row.try_get("state")? {
        "scheduled" => State::Scheduled,
        "pending" => State::Pending,
        "leased" => State::Leased(lease(row)?),
        "running" => State::Running(lease(row)?),
        other => return Err(corrupt(TABLE, format!("state is {other}"))),
    };
    let key: String = row.try_get("concurrency_key")?;
    let limit = row.try_get("key_limit")?;
    Ok(Execution { concurrency: (!key.is_empty()).then_some(Concurrency { key, limit }), ..shared(row, TABLE, state)? })
}

/// A finished execution, from `select_finished!`.
pub(super) fn finished(row: &SqliteRow) -> Result<Execution> {
    const TABLE: &str = "job_executions";
    let error_type = match row.try_get::<Option<&str>, _>("error_type")? {
        None => None,
        Some(_) => Some(named(row, TABLE, "error_type", ErrorType::from_json_str)?),
    };
    let outcome = Outcome {
        status: named(row, TABLE, "status", ExecutionStatus::from_json_str)?,
        started_at: maybe_instant(row, TABLE, "started_at")?,
        completed_at: instant(row, TABLE, "completed_at")?,
        duration_ms: row.try_get("duration_ms")?,
        result: row.try_get("result")?,
        error_type,
        error_message: row.try_get("error_message")?,
        error_stack: row.try_get("error_stack")?,
        session_id: row.try_get("worker_id")?,
        worker_name: row.try_get("worker_name")?,
        memory_peak_mb: row.try_get("memory_peak_mb")?,
        cpu_time_ms: row.try_get("cpu_time_ms")?,
    };
    shared(row, TABLE, State::Done(outcome))
}

fn lease(row: &SqliteRow) -> Result<Lease> {
    const TABLE: &str = "live_executions";
    Ok(Lease {
        session_id: row.try_get("session_id")?,
        worker_name: row.try_get("worker_name")?,
        granted_at: instant(row, TABLE, "granted_at")?,
        started_at: maybe_instant(row, TABLE, "started_at")?,
        deadline: instant(row, TABLE, "deadline")?,
    })
}

fn shared(row: &SqliteRow, table: &'static str, state: State) -> Result<Execution> {
    Ok(Execution {
        id: row.try_get("id")?,
        tenant_id: row.try_get("tenant_id")?,
        job_id: row.try_get("job_id")?,
        job_name: row.try_get("job_name")?,
        trigger: named(row, table, "trigger_type", TriggerType::from_json_str)?,
        triggered_by: row.try_get("triggered_by")?,
        lane_id: row.try_get("lane_id")?,
        queue: row.try_get("queue")?,
        priority: row.try_get("priority")?,
        scheduled_at: instant(row, table, "scheduled_at")?,
        run_at: instant(row, table, "run_at")?,
        start_by: maybe_instant(row, table, "start_by")?,
        created_at: instant(row, table, "created_at")?,
        state,
        attempt: row.try_get("attempt")?,
        epoch: row.try_get("epoch")?,
        losses: row.try_get("losses")?,
        job_version: row.try_get("job_version")?,
        progress: row.try_get("progress")?,
        attempts: json(row, table, "attempts")?,
        parameters: row.try_get("parameters")?,
        cancel_requested_at: maybe_instant(row, table, "cancel_requested_at")?,
        cancel_reason: row.try_get("cancel_reason")?,
        retry_of: row.try_get("retry_of")?,
        traceparent: row.try_get("traceparent")?,
        concurrency: None,
    })
}

/// A session; `running` is 0 where the row does not have it.
pub(super) fn session(row: &SqliteRow) -> Result<Session> {
    const TABLE: &str = "agent_sessions";
    Ok(Session {
        id: row.try_get("id")?,
        agent: NewSession {
            tenant_id: row.try_get("tenant_id")?,
            agent_id: row.try_get("agent_id")?,
            name: row.try_get("name")?,
            version: row.try_get("version")?,
            labels: json(row, TABLE, "labels")?,
            queues: json(row, TABLE, "queues")?,
            executors: json(row, TABLE, "executors")?,
            slots: row.try_get("slots")?,
            coordinator_id: row.try_get("coordinator_id")?,
            address: row.try_get("address")?,
        },
        attachment: row.try_get("attachment")?,
        attached: row.try_get("attached")?,
        draining: row.try_get("draining")?,
        opened_at: instant(row, TABLE, "opened_at")?,
        renewed_at: instant(row, TABLE, "renewed_at")?,
        expires_at: instant(row, TABLE, "expires_at")?,
        running: row.try_get("running")?,
    })
}

pub(super) fn lane(row: &SqliteRow) -> Result<Lane> {
    let selector: BTreeMap<String, String> = json(row, "lanes", "selector")?;
    Ok(Lane {
        id: row.try_get("id")?,
        tenant_id: row.try_get("tenant_id")?,
        queue: row.try_get("queue")?,
        executor: row.try_get("executor")?,
        selector,
    })
}

pub(super) fn omission(row: &SqliteRow) -> Result<OmissionRow> {
    const TABLE: &str = "fire_omissions";
    Ok(OmissionRow {
        id: row.try_get("id")?,
        job_id: row.try_get("job_id")?,
        created_at: instant(row, TABLE, "created_at")?,
        omission: NewOmission {
            reason: row.try_get("reason")?,
            from: instant(row, TABLE, "from_at")?,
            to: instant(row, TABLE, "to_at")?,
            count: row.try_get("count")?,
            detail: row.try_get("detail")?,
        },
    })
}

/// A number for `limit`.
pub(super) fn count(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
