//! How executions, omissions and jobs are written: always as sets.

use chrono::{DateTime, Utc};
use orrery_proto::v1::{ErrorType, TriggerType};
use sqlx::PgConnection;
use uuid::Uuid;

use super::rows::{LEASED, PENDING, SCHEDULED};
use crate::execution::{Execution, Lease, Outcome, State, instant_of, manual_id};
use crate::store::{NewOmission, Result, text};

/// One column of a set of rows.
pub(super) fn column<'a, R, T>(rows: &[&'a R], of: impl Fn(&'a R) -> T) -> Vec<T> {
    rows.iter().map(|row| of(row)).collect()
}

pub(super) fn plain(text: &str) -> String {
    text::plain(text).into_owned()
}

pub(super) fn state_number(state: &State) -> i16 {
    match state {
        State::Scheduled => SCHEDULED,
        // A finished execution is never written here.
        State::Pending | State::Done(_) => PENDING,
        State::Leased(_) | State::Running(_) => LEASED,
    }
}

pub(super) fn progress(execution: &Execution) -> i16 {
    i16::try_from(execution.progress).unwrap_or(0)
}

fn attempts(execution: &Execution) -> Option<String> {
    if execution.attempts.is_empty() {
        return None;
    }
    // Plain values always can be written.
    serde_json::to_string(&execution.attempts).ok()
}

/// What history keeps of the attempts: nothing where the end itself tells it, for that is every execution that went well.
pub(super) fn kept_attempts(execution: &Execution) -> Option<String> {
    let implied = execution.implied_attempt();
    match (execution.attempts.as_slice(), &implied) {
        ([], None) => None,
        ([], Some(_)) => Some("[]".to_owned()),
        ([only], Some(implied)) if only == implied => None,
        _ => attempts(execution).map(|json| text::jsonb(&json).into_owned()),
    }
}

/// Rows of a set (`u`), each with the `place` of its live row, which is found by its key (`limit 1`) whatever the planner believes of the table: a
/// statement that joined the ids would read all that waits where statistics are old. Who changes the row joins `e.ctid = u.place` and nothing
/// that an index could be thought to help with, in a transaction begun with [`PgStore::begin_keyed`](super::PgStore) where there may be many.
macro_rules! placed {
    ($columns:literal) => {
        concat!(
            "with u as materialized (select u.*, l.ctid as place from unnest(",
            $columns,
            " cross join lateral (select l.ctid from live_executions l where l.id = u.id limit 1) l) "
        )
    };
}
pub(super) use placed;

/// Writes executions as they stand now; the caller holds their locks. Those that are over move to history.
pub(super) async fn save(connection: &mut PgConnection, executions: &[&Execution]) -> Result<()> {
    let (over, live): (Vec<&Execution>, Vec<&Execution>) = executions.iter().copied().partition(|e| e.is_done());
    if !live.is_empty() {
        update(connection, &live).await?;
    }
    if !over.is_empty() {
        finish(connection, &over).await?;
        super::tallies::note(connection, &over).await?;
        super::dead_letters::bury(connection, &over).await?;
    }
    Ok(())
}

/// Writes nothing but how far executions have got.
pub(super) async fn save_progress(connection: &mut PgConnection, executions: &[&Execution]) -> Result<()> {
    if executions.is_empty() {
        return Ok(());
    }
    sqlx::query(concat!(
        placed!("$1::uuid[], $2::smallint[]) as u(id, progress)"),
        "update live_executions e set progress = u.progress from u
         where e.ctid = u.place"
    ))
    .bind(column(executions, |e| e.id))
    .bind(column(executions, progress))
    .execute(connection)
    .await?;
    Ok(())
}

async fn update(connection: &mut PgConnection, rows: &[&Execution]) -> Result<()> {
    sqlx::query(concat!(
        placed!(
            "$1::uuid[], $2::smallint[], $3::timestamptz[], $4::integer[], $5::bigint[], $6::integer[], $7::bigint[],
            $8::smallint[], $9::text[], $10::timestamptz[], $11::text[], $12::uuid[], $13::text[], $14::timestamptz[],
            $15::timestamptz[], $16::timestamptz[]) as u(id, state, run_at, attempt, epoch, losses, job_version, progress,
            attempts, cancel_requested_at, cancel_reason, session_id, worker_name, granted_at, started_at, deadline)"
        ),
        "update live_executions e set state = u.state, run_at = u.run_at, attempt = u.attempt, epoch = u.epoch, losses = u.losses,
            job_version = u.job_version, progress = u.progress, attempts = u.attempts,
            cancel_requested_at = u.cancel_requested_at, cancel_reason = u.cancel_reason, session_id = u.session_id,
            worker_name = u.worker_name, granted_at = u.granted_at, started_at = u.started_at, deadline = u.deadline
         from u where e.ctid = u.place"
    ))
    .bind(column(rows, |e| e.id))
    .bind(column(rows, |e| state_number(&e.state)))
    .bind(column(rows, |e| e.run_at))
    .bind(column(rows, |e| e.attempt))
    .bind(column(rows, |e| e.epoch))
    .bind(column(rows, |e| e.losses))
    .bind(column(rows, |e| e.job_version))
    .bind(column(rows, progress))
    .bind(column(rows, attempts))
    .bind(column(rows, |e| e.cancel_requested_at))
    .bind(column(rows, |e| e.cancel_reason.as_deref().map(plain)))
    .bind(column(rows, |e| e.lease().map(|l| l.session_id)))
    .bind(column(rows, |e| e.lease().map(|l| plain(&l.worker_name))))
    .bind(column(rows, |e| e.lease().map(|l| l.granted_at)))
    .bind(column(rows, |e| e.lease().and_then(|l| l.started_at)))
    .bind(column(rows, |e| e.lease().map(|l| l.deadline)))
    .execute(connection)
    .await?;
    Ok(())
}

/// Writes the leases of executions that have just been granted, each as it is, whose locks the caller holds: only what a grant changes.
pub(super) async fn grant(connection: &mut PgConnection, rows: &[&Execution]) -> Result<()> {
    let leases: Vec<(&Execution, &Lease)> = rows.iter().filter_map(|e| Some((*e, e.lease()?))).collect();
    if leases.is_empty() {
        return Ok(());
    }
    let rows: Vec<&(&Execution, &Lease)> = leases.iter().collect();
    sqlx::query(concat!(
        placed!(
            "$1::uuid[], $2::integer[], $3::bigint[], $4::bigint[], $5::uuid[], $6::text[], $7::timestamptz[], $8::timestamptz[])
            as u(id, attempt, epoch, job_version, session_id, worker_name, granted_at, deadline)"
        ),
        "update live_executions e set state = 2, progress = 0, attempt = u.attempt, epoch = u.epoch, job_version = u.job_version,
            session_id = u.session_id, worker_name = u.worker_name, granted_at = u.granted_at, started_at = null,
            deadline = u.deadline, run_at = case when e.state = 0 then e.run_at else least(e.run_at, u.granted_at) end
         from u where e.ctid = u.place"
    ))
    .bind(column(&rows, |(e, _)| e.id))
    .bind(column(&rows, |(e, _)| e.attempt))
    .bind(column(&rows, |(e, _)| e.epoch))
    .bind(column(&rows, |(e, _)| e.job_version))
    .bind(column(&rows, |(_, l)| l.session_id))
    .bind(column(&rows, |(_, l)| plain(&l.worker_name)))
    .bind(column(&rows, |(_, l)| l.granted_at))
    .bind(column(&rows, |(_, l)| l.deadline))
    .execute(connection)
    .await?;
    Ok(())
}

/// Moves executions to history.
async fn finish(connection: &mut PgConnection, executions: &[&Execution]) -> Result<()> {
    let over: Vec<(&Execution, &Outcome)> = executions
        .iter()
        .filter_map(|e| match &e.state {
            State::Done(outcome) => Some((*e, outcome)),
            _ => None,
        })
        .collect();
    let rows: Vec<&(&Execution, &Outcome)> = over.iter().collect();
    sqlx::query(
        "with gone as (delete from live_executions where id = any($1::uuid[]))
         insert into job_executions (id, job_id, tenant_id, trigger_type, triggered_by, status, progress, scheduled_at, run_at,
            created_at, started_at, completed_at, duration_ms, result, error_type, error_message, error_stack, retry_count,
            worker_id, worker_name, memory_peak_mb, cpu_time_ms, attempts, parameters, epoch, attempt, losses, queue, lane_id,
            priority, job_version, retry_of, cancel_requested_at, cancel_reason, traceparent, delayed, counted)
         select id, job_id, tenant_id, trigger_type, triggered_by, status, progress, scheduled_at, run_at, created_at, started_at,
            completed_at, duration_ms, result::jsonb, error_type, error_message, error_stack, retry_count, worker_id, worker_name,
            memory_peak_mb, cpu_time_ms, attempts::jsonb, parameters::jsonb, epoch, attempt, losses, queue, lane_id, priority,
            job_version, retry_of, cancel_requested_at, cancel_reason, traceparent, delayed, true
         from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::uuid[], $6::text[], $7::smallint[], $8::timestamptz[],
            $9::timestamptz[], $10::timestamptz[], $11::timestamptz[], $12::timestamptz[], $13::bigint[], $14::text[], $15::text[],
            $16::text[], $17::text[], $18::integer[], $19::uuid[], $20::text[], $21::double precision[], $22::bigint[],
            $23::text[], $24::text[], $25::bigint[], $26::integer[], $27::integer[], $28::text[], $29::bigint[], $30::integer[],
            $31::bigint[], $32::uuid[], $33::timestamptz[], $34::text[], $35::text[], $36::boolean[]) as u(id, job_id, tenant_id,
            trigger_type, triggered_by, status, progress, scheduled_at, run_at, created_at, started_at, completed_at, duration_ms,
            result, error_type, error_message, error_stack, retry_count, worker_id, worker_name, memory_peak_mb, cpu_time_ms,
            attempts, parameters, epoch, attempt, losses, queue, lane_id, priority, job_version, retry_of, cancel_requested_at,
            cancel_reason, traceparent, delayed)",
    )
    .bind(column(&rows, |(e, _)| e.id))
    .bind(column(&rows, |(e, _)| e.job_id))
    .bind(column(&rows, |(e, _)| e.tenant_id))
    .bind(column(&rows, |(e, _)| e.trigger.as_json_str()))
    .bind(column(&rows, |(e, _)| e.triggered_by))
    .bind(column(&rows, |(_, o)| o.status.as_json_str()))
    .bind(column(&rows, |(e, _)| progress(e)))
    .bind(column(&rows, |(e, _)| e.scheduled_at))
    .bind(column(&rows, |(e, _)| e.run_at))
    .bind(column(&rows, |(e, _)| e.created_at))
    .bind(column(&rows, |(_, o)| o.started_at))
    .bind(column(&rows, |(_, o)| o.completed_at))
    .bind(column(&rows, |(_, o)| o.duration_ms))
    .bind(column(&rows, |(_, o)| o.result.as_deref().map(|r| text::jsonb(r).into_owned())))
    .bind(column(&rows, |(_, o)| o.error_type.as_ref().map(ErrorType::as_json_str)))
    .bind(column(&rows, |(_, o)| plain(&o.error_message)))
    .bind(column(&rows, |(_, o)| plain(&o.error_stack)))
    .bind(column(&rows, |(e, _)| e.retries()))
    .bind(column(&rows, |(_, o)| o.session_id))
    .bind(column(&rows, |(_, o)| plain(&o.worker_name)))
    .bind(column(&rows, |(_, o)| o.memory_peak_mb))
    .bind(column(&rows, |(_, o)| o.cpu_time_ms))
    .bind(column(&rows, |(e, _)| kept_attempts(e)))
    .bind(column(&rows, |(e, _)| e.parameters.as_deref().map(|p| text::jsonb(p).into_owned())))
    .bind(column(&rows, |(e, _)| e.epoch))
    .bind(column(&rows, |(e, _)| e.attempt))
    .bind(column(&rows, |(e, _)| e.losses))
    .bind(column(&rows, |(e, _)| plain(&e.queue)))
    .bind(column(&rows, |(e, _)| e.lane_id))
    .bind(column(&rows, |(e, _)| e.priority))
    .bind(column(&rows, |(e, _)| e.job_version))
    .bind(column(&rows, |(e, _)| e.retry_of))
    .bind(column(&rows, |(e, _)| e.cancel_requested_at))
    .bind(column(&rows, |(e, _)| e.cancel_reason.as_deref().map(plain)))
    .bind(column(&rows, |(e, _)| e.traceparent.as_deref().map(plain)))
    .bind(column(&rows, |(e, _)| delayed(e)))
    .execute(connection)
    .await?;
    Ok(())
}

/// Whether the scheduled instant is not the one in the id, so that a range of ids does not find it.
pub(super) fn delayed(execution: &Execution) -> bool {
    execution.trigger != TriggerType::Scheduled
        && instant_of(execution.id).timestamp_millis() != execution.scheduled_at.timestamp_millis()
}

/// Writes down fires that did not happen: (tenant, job, omission).
pub(super) async fn omit(
    connection: &mut PgConnection,
    omissions: &[(Uuid, Uuid, &NewOmission)],
    now: DateTime<Utc>,
) -> Result<()> {
    if omissions.is_empty() {
        return Ok(());
    }
    let rows: Vec<&(Uuid, Uuid, &NewOmission)> = omissions.iter().collect();
    sqlx::query(
        "insert into fire_omissions (id, tenant_id, job_id, reason, from_at, to_at, count, detail, created_at)
         select u.*, $9 from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::timestamptz[], $6::timestamptz[],
            $7::bigint[], $8::text[]) as u",
    )
    .bind(ids(omissions.len(), now))
    .bind(column(&rows, |o| o.0))
    .bind(column(&rows, |o| o.1))
    .bind(column(&rows, |o| plain(&o.2.reason)))
    .bind(column(&rows, |o| o.2.from))
    .bind(column(&rows, |o| o.2.to))
    .bind(column(&rows, |o| o.2.count))
    .bind(column(&rows, |o| plain(&o.2.detail)))
    .bind(now)
    .execute(connection)
    .await?;
    Ok(())
}

/// Ids of one instant, rising.
pub(super) fn ids(count: usize, now: DateTime<Utc>) -> Vec<Uuid> {
    (0..count).map(|_| manual_id(now)).collect()
}
