//! Changes that are decided on what their senders know, and written where that is still so.
//!
//! A coordinator knows the leases that it has granted. To read them again under a lock, only to write what follows from them, would cost as much
//! as the writing. So the rows are written on the condition that nobody has changed them: the same epoch, the same session, begun or not as it
//! was known, and nobody wants it to end. What is not written that way is left to [`super::apply`], which reads.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use orrery_proto::v1::{ErrorType, ExecutionStatus};
use sqlx::PgConnection;
use uuid::Uuid;

use super::write::{column, kept_attempts, placed, plain, progress};
use crate::execution::{ByExecution, Event, Execution, Executions, Lease, Outcome, Policy, State};
use crate::store::{Change, Result, text};

/// The executions whose changes can be decided on what is known: all that is said of them is a beginning, a progress or an end, of the lease
/// that their sender knows.
pub(super) fn decidable(changes: &[Change]) -> ByExecution<&Execution> {
    let mut known: ByExecution<&Execution> = ByExecution::default();
    let mut other = Executions::default();
    for change in changes {
        let is_plain =
            matches!(change.event, Event::Started { .. } | Event::Progressed { .. } | Event::Finished { .. });
        match &change.known {
            Some(execution) if is_plain && is_as_granted(execution) => {
                known.insert(change.execution, execution);
            }
            _ => {
                other.insert(change.execution);
            }
        }
    }
    known.retain(|id, _| !other.contains(id));
    known
}

/// Nothing but its lease has happened to it, and its parameters can go from row to row as they are.
fn is_as_granted(execution: &Execution) -> bool {
    let is_plain = |json: &String| matches!(text::jsonb(json), std::borrow::Cow::Borrowed(_));
    execution.lease().is_some()
        && execution.cancel_requested_at.is_none()
        && execution.job_version > 0
        && execution.parameters.as_ref().is_none_or(is_plain)
}

/// An execution before and after, with the lease that it was known under.
struct Step<'a> {
    was: &'a Lease,
    epoch: i64,
    now: &'a Execution,
}

/// Writes what has become of executions; answers with those that were written. An execution that changed into anything but a running one or one
/// that is over is left out.
pub(super) async fn write(
    tx: &mut PgConnection,
    before: &ByExecution<&Execution>,
    after: &BTreeMap<Uuid, Box<(Execution, Policy)>>,
) -> Result<Executions> {
    let (mut over, mut running) = (Vec::new(), Vec::new());
    for (id, after) in after {
        let now = &after.0;
        let Some((was, epoch)) = before.get(id).and_then(|e| Some((e.lease()?, e.epoch))) else { continue };
        let step = Step { was, epoch, now };
        match &now.state {
            State::Done(outcome) => over.push((step, outcome)),
            State::Running(lease) => running.push((step, lease)),
            _ => {}
        }
    }
    let at = over.first().map(|(_, outcome)| outcome.completed_at);
    let (well, other): (Vec<_>, Vec<_>) =
        over.iter().partition(|(step, outcome)| Some(outcome.completed_at) == at && is_well(step.now, outcome));
    let mut written = finish_well(tx, &well).await?;
    written.extend(finish(tx, &other).await?);
    written.extend(go_on(tx, &running).await?);
    let written: Executions = written.into_iter().collect();
    let over: Vec<&Execution> = over.iter().map(|(step, _)| step.now).filter(|e| written.contains(&e.id)).collect();
    super::tallies::note(tx, &over).await?;
    super::dead_letters::bury(tx, &over).await?;
    Ok(written)
}

/// That nobody has changed a row since it was known. It is said of the row that is changed and not only where it was looked for: between the two
/// somebody else may change it, and PostgreSQL asks again of what came of that.
macro_rules! unchanged {
    () => {
        "e.ctid = u.place and e.epoch = u.epoch and e.state = 2
            and e.session_id is not distinct from u.session_id and e.started_at is not distinct from u.was_started
            and e.cancel_requested_at is null"
    };
}

/// What is over, and how.
type Over<'a> = (Step<'a>, &'a Outcome);

/// Whether it has gone as nearly all go: it was completed, in time, by the first that began it. Of these a row of history has little to say that
/// is not said of all.
fn is_well(now: &Execution, outcome: &Outcome) -> bool {
    outcome.status == ExecutionStatus::Completed
        && outcome.error_type.is_none()
        && outcome.error_message.is_empty()
        && outcome.error_stack.is_empty()
        && (now.progress, now.losses, now.retries()) == (100, 0, 0)
        && kept_attempts(now).is_none()
        && !super::write::delayed(now)
}

/// Moves executions that have gone well, and ended at the same instant, to history, with what the live row knows of them.
async fn finish_well(tx: &mut PgConnection, rows: &[&Over<'_>]) -> Result<Vec<Uuid>> {
    let Some((_, outcome)) = rows.first() else { return Ok(Vec::new()) };
    Ok(sqlx::query_scalar(concat!(
        placed!(
            "$1::uuid[], $2::bigint[], $3::uuid[], $4::timestamptz[], $5::timestamptz[], $6::bigint[], $7::text[],
                $8::double precision[], $9::bigint[])
            as u(id, epoch, session_id, was_started, began_at, duration_ms, result, memory_peak_mb, cpu_time_ms)"
        ),
        ", gone as (
            delete from live_executions e using u where ",
        unchanged!(),
        " returning e.*, u.began_at, u.duration_ms, u.result, u.memory_peak_mb, u.cpu_time_ms
         )
         insert into job_executions (id, job_id, tenant_id, trigger_type, triggered_by, status, progress, scheduled_at, run_at,
            created_at, started_at, completed_at, duration_ms, result, error_message, error_stack, retry_count, worker_id,
            worker_name, memory_peak_mb, cpu_time_ms, parameters, epoch, attempt, losses, queue, lane_id, priority, job_version,
            retry_of, traceparent, delayed, counted)
         select g.id, g.job_id, g.tenant_id, case g.trigger_type when 2 then 'manual' when 3 then 'retry' else 'scheduled' end,
            g.triggered_by, 'completed', 100, g.scheduled_at, g.run_at, g.created_at, g.began_at, $10::timestamptz, g.duration_ms,
            g.result::jsonb, '', '', 0, g.session_id, g.worker_name, g.memory_peak_mb, g.cpu_time_ms, g.parameters::jsonb, g.epoch,
            g.attempt, 0, g.queue, g.lane_id, g.priority, g.job_version, g.retry_of, g.traceparent, false, true
         from gone g returning id"
    ))
    .bind(column(rows, |(s, _)| s.now.id))
    .bind(column(rows, |(s, _)| s.epoch))
    .bind(column(rows, |(s, _)| s.was.session_id))
    .bind(column(rows, |(s, _)| s.was.started_at))
    .bind(column(rows, |(_, o)| o.started_at))
    .bind(column(rows, |(_, o)| o.duration_ms))
    .bind(column(rows, |(_, o)| o.result.as_deref().map(text::jsonb)))
    .bind(column(rows, |(_, o)| o.memory_peak_mb))
    .bind(column(rows, |(_, o)| o.cpu_time_ms))
    .bind(outcome.completed_at)
    .fetch_all(tx)
    .await?)
}

/// Moves executions to history, with what the live row knows of them, however they have ended.
async fn finish(tx: &mut PgConnection, rows: &[&Over<'_>]) -> Result<Vec<Uuid>> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    Ok(sqlx::query_scalar(concat!(
        placed!(
            "$1::uuid[], $2::bigint[], $3::uuid[], $4::timestamptz[], $5::text[], $6::smallint[], $7::timestamptz[],
                $8::timestamptz[], $9::bigint[], $10::text[], $11::text[], $12::text[], $13::text[], $14::integer[],
                $15::double precision[], $16::bigint[], $17::text[], $18::integer[], $19::boolean[])
            as u(id, epoch, session_id, was_started, status, got_to, began_at, completed_at, duration_ms, result, error_type,
                error_message, error_stack, retry_count, memory_peak_mb, cpu_time_ms, all_attempts, lost, delayed)"
        ),
        ", gone as (
            delete from live_executions e using u where ",
        unchanged!(),
        " returning e.*, u.status, u.got_to, u.began_at, u.completed_at, u.duration_ms, u.result, u.error_type, u.error_message,
                u.error_stack, u.retry_count, u.memory_peak_mb, u.cpu_time_ms, u.all_attempts, u.lost, u.delayed
         )
         insert into job_executions (id, job_id, tenant_id, trigger_type, triggered_by, status, progress, scheduled_at, run_at,
            created_at, started_at, completed_at, duration_ms, result, error_type, error_message, error_stack, retry_count,
            worker_id, worker_name, memory_peak_mb, cpu_time_ms, attempts, parameters, epoch, attempt, losses, queue, lane_id,
            priority, job_version, retry_of, traceparent, delayed, counted)
         select g.id, g.job_id, g.tenant_id, case g.trigger_type when 2 then 'manual' when 3 then 'retry' else 'scheduled' end,
            g.triggered_by, g.status, g.got_to, g.scheduled_at, g.run_at, g.created_at, g.began_at, g.completed_at, g.duration_ms,
            g.result::jsonb, g.error_type, g.error_message, g.error_stack, g.retry_count, g.session_id, g.worker_name,
            g.memory_peak_mb, g.cpu_time_ms, g.all_attempts::jsonb, g.parameters::jsonb, g.epoch, g.attempt, g.lost, g.queue,
            g.lane_id, g.priority, g.job_version, g.retry_of, g.traceparent, g.delayed, true
         from gone g returning id"
    ))
    .bind(column(rows, |(s, _)| s.now.id))
    .bind(column(rows, |(s, _)| s.epoch))
    .bind(column(rows, |(s, _)| s.was.session_id))
    .bind(column(rows, |(s, _)| s.was.started_at))
    .bind(column(rows, |(_, o)| o.status.as_json_str()))
    .bind(column(rows, |(s, _)| progress(s.now)))
    .bind(column(rows, |(_, o)| o.started_at))
    .bind(column(rows, |(_, o)| o.completed_at))
    .bind(column(rows, |(_, o)| o.duration_ms))
    .bind(column(rows, |(_, o)| o.result.as_deref().map(text::jsonb)))
    .bind(column(rows, |(_, o)| o.error_type.as_ref().map(ErrorType::as_json_str)))
    .bind(column(rows, |(_, o)| plain(&o.error_message)))
    .bind(column(rows, |(_, o)| plain(&o.error_stack)))
    .bind(column(rows, |(s, _)| s.now.retries()))
    .bind(column(rows, |(_, o)| o.memory_peak_mb))
    .bind(column(rows, |(_, o)| o.cpu_time_ms))
    .bind(column(rows, |(s, _)| kept_attempts(s.now)))
    .bind(column(rows, |(s, _)| s.now.losses))
    .bind(column(rows, |(s, _)| super::write::delayed(s.now)))
    .fetch_all(tx)
    .await?)
}

/// Executions that have begun, or got on.
async fn go_on(tx: &mut PgConnection, running: &[(Step<'_>, &Lease)]) -> Result<Vec<Uuid>> {
    if running.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<&(Step<'_>, &Lease)> = running.iter().collect();
    Ok(sqlx::query_scalar(concat!(
        placed!(
            "$1::uuid[], $2::bigint[], $3::uuid[], $4::timestamptz[], $5::timestamptz[],
                $6::timestamptz[], $7::smallint[]) as u(id, epoch, session_id, was_started, started_at, deadline, progress)"
        ),
        "update live_executions e set started_at = u.started_at, deadline = u.deadline, progress = u.progress from u where ",
        unchanged!(),
        " returning e.id"
    ))
    .bind(column(&rows, |(s, _)| s.now.id))
    .bind(column(&rows, |(s, _)| s.epoch))
    .bind(column(&rows, |(s, _)| s.was.session_id))
    .bind(column(&rows, |(s, _)| s.was.started_at))
    .bind(column(&rows, |(_, l): &(Step<'_>, &Lease)| l.started_at))
    .bind(column(&rows, |(_, l): &(Step<'_>, &Lease)| -> DateTime<Utc> { l.deadline }))
    .bind(column(&rows, |(s, _)| progress(s.now)))
    .fetch_all(tx)
    .await?)
}
