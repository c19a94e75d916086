//! How executions are written after an event.
//!
//! Each statement is handed over to the connection's thread and back, which takes longer than a row does: what is written together goes in
//! statements of many rows.

use sqlx::query_builder::Separated;
use sqlx::{QueryBuilder, Sqlite, Transaction};

use super::dead_letters::bury;
use super::rows::{self, micros};
use crate::execution::{Execution, Outcome, State};
use crate::store::Result;
use crate::store::text::jsonb;

/// Rows in one statement. Each size is a statement of its own, prepared once and kept: so they are few.
const SIZES: [usize; 3] = [64, 8, 1];

/// Writes an execution after an event: to its row, or to history where it is over.
pub(super) async fn save(tx: &mut Transaction<'static, Sqlite>, execution: &Execution) -> Result<()> {
    save_all(tx, [execution]).await
}

/// Writes executions after events, each as [`save`] does.
pub(super) async fn save_all<'a>(
    tx: &mut Transaction<'static, Sqlite>,
    executions: impl IntoIterator<Item = &'a Execution>,
) -> Result<()> {
    let (mut live, mut over) = (Vec::new(), Vec::new());
    for execution in executions {
        // Before the statements, which cannot fail on a row in the middle.
        let attempts = attempts(execution)?;
        match &execution.state {
            State::Done(outcome) => over.push((execution, attempts, outcome)),
            _ => live.push((execution, attempts)),
        }
    }
    for rows in in_sizes(&live) {
        update(tx, rows).await?;
    }
    for rows in in_sizes(&over) {
        finish(tx, rows).await?;
        for (execution, ..) in rows {
            bury(tx, execution).await?;
        }
        remove(tx, rows).await?;
    }
    Ok(())
}

/// Pieces of a list, each of one of the [`SIZES`].
fn in_sizes<T>(mut rows: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let size = SIZES.into_iter().find(|size| *size <= rows.len())?;
        let (piece, rest) = rows.split_at(size);
        rows = rest;
        Some(piece)
    })
}

async fn update(tx: &mut Transaction<'static, Sqlite>, rows: &[(&Execution, String)]) -> Result<()> {
    let mut query = QueryBuilder::<Sqlite>::new(
        "with u (id, run_at, state, attempt, epoch, losses, job_version, progress, attempts, cancel_requested_at, cancel_reason, \
         session_id, worker_name, granted_at, started_at, deadline) as (",
    );
    query.push_values(rows, |mut row, (execution, attempts)| {
        let lease = execution.lease();
        row.push_bind(execution.id)
            .push_bind(micros(execution.run_at))
            .push_bind(execution.state.name())
            .push_bind(execution.attempt)
            .push_bind(execution.epoch)
            .push_bind(execution.losses)
            .push_bind(execution.job_version)
            .push_bind(execution.progress)
            .push_bind(attempts)
            .push_bind(execution.cancel_requested_at.map(micros))
            .push_bind(&execution.cancel_reason)
            .push_bind(lease.map(|l| l.session_id))
            .push_bind(lease.map(|l| &l.worker_name))
            .push_bind(lease.map(|l| micros(l.granted_at)))
            .push_bind(lease.and_then(|l| l.started_at).map(micros))
            .push_bind(lease.map(|l| micros(l.deadline)));
    });
    query.push(
        ") update live_executions set run_at = u.run_at, state = u.state, attempt = u.attempt, epoch = u.epoch, losses = u.losses, \
         job_version = u.job_version, progress = u.progress, attempts = u.attempts, cancel_requested_at = u.cancel_requested_at, \
         cancel_reason = u.cancel_reason, session_id = u.session_id, worker_name = u.worker_name, granted_at = u.granted_at, \
         started_at = u.started_at, deadline = u.deadline from u where live_executions.id = u.id",
    );
    query.build().execute(&mut **tx).await?;
    Ok(())
}

async fn finish(tx: &mut Transaction<'static, Sqlite>, rows: &[(&Execution, String, &Outcome)]) -> Result<()> {
    let mut query = QueryBuilder::<Sqlite>::new(
        "insert into job_executions (id, tenant_id, job_id, trigger_type, triggered_by, lane_id, queue, priority, \
         scheduled_at, run_at, created_at, attempt, epoch, losses, job_version, progress, attempts, parameters, cancel_requested_at, \
         cancel_reason, retry_of, traceparent, worker_id, started_at, status, completed_at, duration_ms, result, error_type, \
         error_message, error_stack, worker_name, memory_peak_mb, cpu_time_ms, retry_count) ",
    );
    query.push_values(rows, |row, (execution, attempts, outcome)| finished(row, execution, attempts, outcome));
    query.build().execute(&mut **tx).await?;
    Ok(())
}

fn finished<'a>(
    mut row: Separated<'_, Sqlite, &'static str>,
    execution: &'a Execution,
    attempts: &'a str,
    outcome: &'a Outcome,
) {
    row.push_bind(execution.id)
        .push_bind(execution.tenant_id)
        .push_bind(execution.job_id)
        .push_bind(execution.trigger.as_json_str())
        .push_bind(execution.triggered_by)
        .push_bind(execution.lane_id)
        .push_bind(&execution.queue)
        .push_bind(execution.priority)
        .push_bind(micros(execution.scheduled_at))
        .push_bind(micros(execution.run_at))
        .push_bind(micros(execution.created_at))
        .push_bind(execution.attempt)
        .push_bind(execution.epoch)
        .push_bind(execution.losses)
        .push_bind(execution.job_version)
        .push_bind(execution.progress)
        .push_bind(attempts)
        .push_bind(execution.parameters.as_deref().map(jsonb))
        .push_bind(execution.cancel_requested_at.map(micros))
        .push_bind(&execution.cancel_reason)
        .push_bind(execution.retry_of)
        .push_bind(&execution.traceparent)
        .push_bind(outcome.session_id)
        .push_bind(outcome.started_at.map(micros))
        .push_bind(outcome.status.as_json_str())
        .push_bind(micros(outcome.completed_at))
        .push_bind(outcome.duration_ms)
        .push_bind(&outcome.result)
        .push_bind(outcome.error_type.map(|error| error.as_json_str()))
        .push_bind(&outcome.error_message)
        .push_bind(&outcome.error_stack)
        .push_bind(&outcome.worker_name)
        .push_bind(outcome.memory_peak_mb)
        .push_bind(outcome.cpu_time_ms)
        .push_bind(execution.retries());
}

async fn remove(tx: &mut Transaction<'static, Sqlite>, rows: &[(&Execution, String, &Outcome)]) -> Result<()> {
    let mut query = QueryBuilder::<Sqlite>::new("delete from live_executions where id in (");
    let mut ids = query.separated(", ");
    for (execution, ..) in rows {
        ids.push_bind(execution.id);
    }
    query.push(")");
    query.build().execute(&mut **tx).await?;
    Ok(())
}

fn attempts(execution: &Execution) -> Result<String> {
    Ok(jsonb(&rows::to_json("live_executions", &execution.attempts)?).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_hold_everything_once_and_in_order() {
        for count in [0, 1, 7, 8, 63, 64, 65, 200] {
            let rows: Vec<usize> = (0..count).collect();
            let pieces: Vec<&[usize]> = in_sizes(&rows).collect();
            assert_eq!(pieces.concat(), rows);
            assert!(pieces.iter().all(|piece| SIZES.contains(&piece.len())), "{count}: {pieces:?}");
        }
    }
}
