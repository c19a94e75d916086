//! How rows become values.

use chrono::{DateTime, Utc};
use orrery_proto::v1::{ErrorType, ExecutionStatus, JobStatus, TriggerType};
use serde::de::DeserializeOwned;
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::specs::Specs;
use crate::concurrency::Concurrency;
use crate::execution::{Execution, Lease, Outcome, State};
use crate::job::Job;
use crate::store::rows::{Columns, plain_columns};
use crate::store::{Idempotency, Result, StoreError};

/// `live_executions.state`.
pub(super) const SCHEDULED: i16 = 0;
pub(super) const PENDING: i16 = 1;
pub(super) const LEASED: i16 = 2;

/// The columns of a live execution that are its own, of table `e` (live_executions).
macro_rules! own_columns {
    () => {
        "e.id, e.tenant_id, e.job_id, e.lane_id, e.epoch, e.job_version, e.scheduled_at, e.run_at, e.start_by, e.created_at, e.granted_at,
         e.started_at, e.deadline, e.cancel_requested_at, e.priority, e.attempt, e.losses, e.state, e.trigger_type, e.progress,
         e.session_id, e.triggered_by, e.retry_of, e.queue, e.worker_name, e.cancel_reason, e.traceparent, e.parameters,
         e.attempts, e.concurrency_key, e.key_limit"
    };
}
/// The columns of a live execution, of tables `e` (live_executions) and `j` (scheduled_jobs).
macro_rules! live_columns {
    () => {
        concat!($crate::store::postgres::rows::own_columns!(), ", j.name as job_name, j.version as current_version")
    };
}
/// The columns of a finished execution, of tables `h` (job_executions) and `j` (scheduled_jobs).
macro_rules! done_columns {
    () => {
        "h.id, h.tenant_id, h.job_id, h.lane_id, h.epoch, h.job_version, h.scheduled_at, h.run_at, h.created_at, h.started_at,
         h.completed_at, h.cancel_requested_at, h.priority, h.attempt, h.losses, h.trigger_type, h.progress, h.worker_id,
         h.triggered_by, h.retry_of, h.queue, h.worker_name, h.cancel_reason, h.traceparent, h.parameters::text as parameters,
         h.attempts::text as attempts, h.status, h.duration_ms, h.result::text as result, h.error_type, h.error_message,
         h.error_stack, h.memory_peak_mb, h.cpu_time_ms, coalesce(j.name, '') as job_name"
    };
}
/// The columns of a job, of table `j`. What fires next is the first planned fire that has not come due, or else the cursor.
macro_rules! job_columns {
    () => {
        "j.id, j.tenant_id, j.spec, j.status, j.version, j.next_execution_at as cursor, j.execution_count, j.last_execution_at,
         j.halted_at, j.tenant_suspended_at, j.created_by, j.created_at, j.updated_at, j.deleted_at, coalesce((
            select min(p.run_at) from live_executions p
            where p.job_id = j.id and p.state = 0 and p.attempt = 0 and p.trigger_type = 1
         ), j.next_execution_at) as next_fire"
    };
}
/// Whether a live execution, of table `e`, is granted ahead of its instant; see `Execution::is_armed`.
macro_rules! armed {
    () => {
        "(e.state = 2 and e.started_at is null and e.run_at > statement_timestamp())"
    };
}
pub(super) use {armed, done_columns, job_columns, live_columns, own_columns};

impl Columns for PgRow {
    plain_columns!();

    fn instant(&self, _: &'static str, column: &str) -> Result<DateTime<Utc>> {
        Ok(self.try_get(column)?)
    }

    fn maybe_instant(&self, _: &'static str, column: &str) -> Result<Option<DateTime<Utc>>> {
        Ok(self.try_get(column)?)
    }

    fn texts(&self, _: &'static str, column: &str) -> Result<Vec<String>> {
        Ok(self.try_get(column)?)
    }
}

pub(super) fn text<'r>(row: &'r PgRow, column: &'static str) -> Result<&'r str> {
    Ok(row.try_get::<&str, _>(column)?)
}

pub(super) fn json<T: DeserializeOwned>(table: &'static str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| StoreError::Corrupt { table, reason: error.to_string() })
}

pub(super) fn hash(row: &PgRow, column: &'static str) -> Result<[u8; 32]> {
    let bytes: &[u8] = row.try_get(column)?;
    bytes.try_into().map_err(|_| corrupt("hashes", column, bytes.len()))
}

pub(super) fn corrupt(table: &'static str, column: &str, value: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt { table, reason: format!("{column} is {value}") }
}

/// The number of a trigger in `live_executions`.
pub(super) fn trigger_number(trigger: TriggerType) -> i16 {
    match trigger {
        TriggerType::Manual => 2,
        TriggerType::Retry => 3,
        TriggerType::Scheduled | TriggerType::Unspecified => 1,
    }
}

fn trigger_of(number: i16) -> Result<TriggerType> {
    TriggerType::try_from(i32::from(number)).map_err(|_| corrupt("live_executions", "trigger_type", number))
}

/// A live execution, of a row that begins with [`live_columns`]: read by place, for names would be looked up thirty times a row.
pub(super) fn live(row: &PgRow) -> Result<Execution> {
    let job_name = row.try_get(31)?;
    Ok(Execution { job_name, ..own(row)? })
}

/// A live execution without the name of its job, of a row that begins with [`own_columns`].
pub(super) fn own(row: &PgRow) -> Result<Execution> {
    let started_at: Option<DateTime<Utc>> = row.try_get(11)?;
    let state = match row.try_get(17)? {
        SCHEDULED => State::Scheduled,
        PENDING => State::Pending,
        LEASED => {
            let lease = Lease {
                session_id: row.try_get(20)?,
                worker_name: row.try_get::<Option<String>, _>(24)?.unwrap_or_default(),
                granted_at: row.try_get(10)?,
                started_at,
                deadline: row.try_get(12)?,
            };
            if started_at.is_some() { State::Running(lease) } else { State::Leased(lease) }
        }
        other => return Err(corrupt("live_executions", "state", other)),
    };
    let attempts: Option<&str> = row.try_get(28)?;
    let key: Option<&str> = row.try_get(29)?;
    let limit: i32 = row.try_get(30)?;
    let concurrency = key.filter(|key| !key.is_empty()).map(|key| Concurrency { key: key.to_owned(), limit });
    Ok(Execution {
        id: row.try_get(0)?,
        tenant_id: row.try_get(1)?,
        job_id: row.try_get(2)?,
        lane_id: row.try_get(3)?,
        epoch: row.try_get(4)?,
        job_version: row.try_get(5)?,
        scheduled_at: row.try_get(6)?,
        run_at: row.try_get(7)?,
        start_by: row.try_get(8)?,
        created_at: row.try_get(9)?,
        cancel_requested_at: row.try_get(13)?,
        priority: row.try_get(14)?,
        attempt: row.try_get(15)?,
        losses: row.try_get(16)?,
        state,
        trigger: trigger_of(row.try_get(18)?)?,
        progress: i32::from(row.try_get::<i16, _>(19)?),
        triggered_by: row.try_get(21)?,
        retry_of: row.try_get(22)?,
        queue: row.try_get(23)?,
        cancel_reason: row.try_get(25)?,
        traceparent: row.try_get(26)?,
        parameters: row.try_get(27)?,
        attempts: attempts.map_or_else(|| Ok(Vec::new()), |text| json("live_executions", text))?,
        concurrency,
        job_name: String::new(),
    })
}

/// The job's version of now, of such a row.
pub(super) fn current_version(row: &PgRow) -> Result<i64> {
    Ok(row.try_get(32)?)
}

pub(super) fn done(row: &PgRow) -> Result<Execution> {
    let table = "job_executions";
    let status = text(row, "status")?;
    let error_type: Option<&str> = row.try_get("error_type")?;
    let outcome = Outcome {
        status: ExecutionStatus::from_json_str(status).ok_or_else(|| corrupt(table, "status", status))?,
        started_at: row.try_get("started_at")?,
        completed_at: row.try_get("completed_at")?,
        duration_ms: row.try_get("duration_ms")?,
        result: row.try_get("result")?,
        error_type: match error_type {
            Some(name) => Some(ErrorType::from_json_str(name).ok_or_else(|| corrupt(table, "error_type", name))?),
            None => None,
        },
        error_message: row.try_get::<Option<String>, _>("error_message")?.unwrap_or_default(),
        error_stack: row.try_get::<Option<String>, _>("error_stack")?.unwrap_or_default(),
        session_id: row.try_get("worker_id")?,
        worker_name: row.try_get::<Option<String>, _>("worker_name")?.unwrap_or_default(),
        memory_peak_mb: row.try_get("memory_peak_mb")?,
        cpu_time_ms: row.try_get("cpu_time_ms")?,
    };
    let trigger = text(row, "trigger_type")?;
    let trigger = TriggerType::from_json_str(trigger).ok_or_else(|| corrupt(table, "trigger_type", trigger))?;
    let attempts: Option<&str> = row.try_get("attempts")?;
    let mut execution = Execution {
        id: row.try_get("id")?,
        tenant_id: row.try_get("tenant_id")?,
        job_id: row.try_get("job_id")?,
        job_name: row.try_get("job_name")?,
        trigger,
        triggered_by: row.try_get("triggered_by")?,
        lane_id: row.try_get("lane_id")?,
        queue: row.try_get("queue")?,
        priority: row.try_get("priority")?,
        scheduled_at: row.try_get("scheduled_at")?,
        run_at: row.try_get("run_at")?,
        start_by: None,
        created_at: row.try_get("created_at")?,
        state: State::Done(outcome),
        attempt: row.try_get("attempt")?,
        epoch: row.try_get("epoch")?,
        losses: row.try_get("losses")?,
        job_version: row.try_get("job_version")?,
        progress: i32::from(row.try_get::<i16, _>("progress")?),
        attempts: Vec::new(),
        parameters: row.try_get("parameters")?,
        cancel_requested_at: row.try_get("cancel_requested_at")?,
        cancel_reason: row.try_get("cancel_reason")?,
        retry_of: row.try_get("retry_of")?,
        traceparent: row.try_get("traceparent")?,
        concurrency: None,
    };
    execution.attempts = match attempts {
        Some(text) => json(table, text)?,
        None => execution.implied_attempt().into_iter().collect(),
    };
    Ok(execution)
}

pub(super) fn job(row: &PgRow, specs: &Specs) -> Result<Job> {
    let (id, version): (Uuid, i64) = (row.try_get("id")?, row.try_get("version")?);
    let status = text(row, "status")?;
    Ok(Job {
        id,
        tenant_id: row.try_get("tenant_id")?,
        spec: specs.parse(id, version, text(row, "spec")?)?.as_ref().clone(),
        status: JobStatus::from_json_str(status).ok_or_else(|| corrupt("scheduled_jobs", "status", status))?,
        version,
        cursor: row.try_get("cursor")?,
        execution_count: row.try_get("execution_count")?,
        last_execution_at: row.try_get("last_execution_at")?,
        halted_at: row.try_get("halted_at")?,
        tenant_suspended_at: row.try_get("tenant_suspended_at")?,
        created_by: row.try_get("created_by")?,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
        deleted_at: row.try_get("deleted_at")?,
        next_execution_at: row.try_get("next_fire")?,
    })
}

/// The key and hash of an idempotency row, with what it made.
pub(super) fn idempotency(row: &PgRow) -> Result<(Idempotency, Uuid)> {
    let of = Idempotency { key: row.try_get("key")?, request_hash: hash(row, "request_hash")? };
    Ok((of, row.try_get("target_id")?))
}
