//! How executions come into being: as sets.

use std::collections::HashMap;

use sqlx::postgres::PgArguments;
use sqlx::{PgConnection, Postgres, Row};
use uuid::Uuid;

use super::rows::trigger_number;
use super::write::{column, plain, state_number};
use crate::execution::{Execution, State};
use crate::store::{Result, text};

/// What a new execution is made of.
macro_rules! insert_columns {
    () => {
        "insert into live_executions (id, tenant_id, job_id, lane_id, scheduled_at, run_at, created_at, priority, state,
            trigger_type, triggered_by, retry_of, queue, traceparent, parameters, start_by, concurrency_key, key_limit)"
    };
}

/// The values of [`insert_columns`], a row an execution.
macro_rules! insert_rows {
    () => {
        " select u.* from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[], $5::timestamptz[], $6::timestamptz[],
            $7::timestamptz[], $8::integer[], $9::smallint[], $10::smallint[], $11::uuid[], $12::uuid[], $13::text[], $14::text[],
            $15::text[], $16::timestamptz[], $17::text[], $18::integer[]) as u(id, tenant_id, job_id, lane_id, scheduled_at,
            run_at, created_at, priority, state, trigger_type, triggered_by, retry_of, queue, traceparent, parameters, start_by,
            concurrency_key, key_limit)"
    };
}

/// Inserts executions that somebody asked for (state Scheduled or Pending). Their ids were made for them: unlike a fire's, none of them can
/// be there already, so nothing is looked for.
pub(super) async fn insert_asked(connection: &mut PgConnection, executions: &[Execution]) -> Result<()> {
    match executions {
        [] => Ok(()),
        [first, ..] if executions.iter().all(|other| are_alike(first, other)) => {
            insert_alike(connection, first, executions).await
        }
        _ => insert_mixed(connection, executions).await,
    }
}

/// Whether all that differs between two executions is their job, their parameters and their ids, as in a batch of one caller.
fn are_alike(one: &Execution, other: &Execution) -> bool {
    let alike = |e: &Execution| (e.trigger, e.triggered_by, e.retry_of, e.created_at, e.run_at, e.scheduled_at);
    alike(one) == alike(other)
        && one.traceparent == other.traceparent
        && one.state == State::Pending
        && other.state == State::Pending
        && one.concurrency.is_none()
        && other.concurrency.is_none()
}

/// What a batch has in common goes over once, and so does what executions of one job have in common.
async fn insert_alike(connection: &mut PgConnection, first: &Execution, executions: &[Execution]) -> Result<()> {
    let mut jobs: Vec<&Execution> = Vec::new();
    let mut numbers: HashMap<Uuid, i32> = HashMap::new();
    let mut of_job = Vec::with_capacity(executions.len());
    for execution in executions {
        let number = *numbers.entry(execution.job_id).or_insert_with(|| {
            jobs.push(execution);
            i32::try_from(jobs.len()).unwrap_or(i32::MAX)
        });
        of_job.push(number);
    }
    sqlx::query(
        "insert into live_executions (id, tenant_id, job_id, lane_id, scheduled_at, run_at, created_at, priority, state,
            trigger_type, triggered_by, retry_of, queue, traceparent, parameters, start_by)
         select u.id, j.tenant_id, j.job_id, j.lane_id, $4, $5, $6, j.priority, 1, $7, $8, $9, j.queue, $10, u.parameters,
            j.start_by
         from unnest($1::uuid[], $2::integer[], $3::text[]) as u(id, number, parameters)
         join unnest($11::uuid[], $12::uuid[], $13::bigint[], $14::integer[], $15::text[], $16::timestamptz[]) with ordinality
            as j(tenant_id, job_id, lane_id, priority, queue, start_by, number) on j.number = u.number",
    )
    .bind(executions.iter().map(|e| e.id).collect::<Vec<_>>())
    .bind(of_job)
    .bind(executions.iter().map(|e| e.parameters.as_deref().map(text::plain)).collect::<Vec<_>>())
    .bind(first.scheduled_at)
    .bind(first.run_at)
    .bind(first.created_at)
    .bind(trigger_number(first.trigger))
    .bind(first.triggered_by)
    .bind(first.retry_of)
    .bind(first.traceparent.as_deref().map(plain))
    .bind(column(&jobs, |e| e.tenant_id))
    .bind(column(&jobs, |e| e.job_id))
    .bind(column(&jobs, |e| e.lane_id))
    .bind(column(&jobs, |e| e.priority))
    .bind(column(&jobs, |e| plain(&e.queue)))
    .bind(column(&jobs, |e| e.start_by))
    .execute(connection)
    .await?;
    Ok(())
}

/// Executions of several callers, each as it is.
async fn insert_mixed(connection: &mut PgConnection, executions: &[Execution]) -> Result<()> {
    bound(sqlx::query(concat!(insert_columns!(), insert_rows!())), executions).execute(connection).await?;
    Ok(())
}

/// Inserts new executions (state Scheduled or Pending); answers with the ids of those that did not exist yet. One that is in history
/// already is refused too, whatever the cursor says.
pub(super) async fn insert(connection: &mut PgConnection, executions: &[Execution]) -> Result<Vec<Uuid>> {
    if executions.is_empty() {
        return Ok(Vec::new());
    }
    let insert = sqlx::query(concat!(
        insert_columns!(),
        insert_rows!(),
        " where not exists (select 1 from job_executions h where h.id = u.id) on conflict (id) do nothing returning id"
    ));
    let inserted = bound(insert, executions).fetch_all(connection).await?;
    inserted.iter().map(|row| Ok(row.try_get("id")?)).collect()
}

/// Binds what [`insert_rows`] asks for.
fn bound<'q>(
    insert: sqlx::query::Query<'q, Postgres, PgArguments>,
    executions: &[Execution],
) -> sqlx::query::Query<'q, Postgres, PgArguments> {
    let rows: Vec<&Execution> = executions.iter().collect();
    insert
        .bind(column(&rows, |e| e.id))
        .bind(column(&rows, |e| e.tenant_id))
        .bind(column(&rows, |e| e.job_id))
        .bind(column(&rows, |e| e.lane_id))
        .bind(column(&rows, |e| e.scheduled_at))
        .bind(column(&rows, |e| e.run_at))
        .bind(column(&rows, |e| e.created_at))
        .bind(column(&rows, |e| e.priority))
        .bind(column(&rows, |e| state_number(&e.state)))
        .bind(column(&rows, |e| trigger_number(e.trigger)))
        .bind(column(&rows, |e| e.triggered_by))
        .bind(column(&rows, |e| e.retry_of))
        .bind(column(&rows, |e| plain(&e.queue)))
        .bind(column(&rows, |e| e.traceparent.as_deref().map(plain)))
        .bind(column(&rows, |e| e.parameters.as_deref().map(plain)))
        .bind(column(&rows, |e| e.start_by))
        .bind(column(&rows, |e| e.concurrency.as_ref().map(|c| plain(&c.key)).unwrap_or_default()))
        .bind(column(&rows, |e| e.concurrency.as_ref().map_or(0, |c| c.limit)))
}
