//! From cursors to planned fires.

use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::counts::retire_if_spent;
use super::executions::{self, omit, planned};
use super::rows::{self, TICK, after, before, from_micros, micros, select_jobs};
use super::{SqliteStore, Work, jobs};
use crate::execution::{Execution, ON_TIME};
use crate::firing;
use crate::job::Job;
use crate::store::{DecidePlan, Places, PlanCandidate, Planned, Result, StoreError};

/// Jobs that planning can do something about. One whose outstanding fires use up its maximum waits for what becomes of them, and is not to
/// stand before others meanwhile; it is back once one of them is omitted.
macro_rules! plannable {
    () => {
        concat!(
            "j.status = 'active' and j.deleted_at is null and j.tenant_suspended_at is null and (j.max_executions is null or not exists (select 1 from \
             (select count(*) as fires from live_executions where job_id = j.id and ",
            planned!(),
            ") o where o.fires > 0 and j.execution_count + o.fires >= j.max_executions))"
        )
    };
}

impl SqliteStore {
    /// One round of planning.
    pub(super) async fn plan_round(&self, ahead: Duration, places: Places, decide: &DecidePlan<'_>) -> Result<Planned> {
        let mut work = self.write().await?;
        let horizon = after(work.now, ahead);
        let edge = before(work.now, ON_TIME);
        let late = near_cursors(&mut work, DateTime::<Utc>::MIN_UTC, edge, places.late).await?;
        let soon = near_cursors(&mut work, edge, after(horizon, TICK), places.all - late.len()).await?;
        let jobs = late.len() + soon.len();
        let mut planned = Planned { now: work.now, jobs, late: late.len(), ..Planned::default() };
        for row in soon.iter().chain(&late) {
            match rows::job(row) {
                Ok(job) => plan_job(&mut work, job, horizon, decide, &mut planned).await?,
                Err(error) => put_off_job(&mut work, row, &error, &mut planned).await?,
            }
        }
        planned.next_cursor = from_micros(
            sqlx::query_scalar(concat!(
                "select min(j.next_execution_at) from scheduled_jobs j where j.next_execution_at is not null and ",
                plannable!()
            ))
            .fetch_one(&mut *work.tx)
            .await?,
        );
        work.commit().await?;
        Ok(planned)
    }
}

async fn plan_job(
    work: &mut Work,
    job: Job,
    horizon: DateTime<Utc>,
    decide: &DecidePlan<'_>,
    planned: &mut Planned,
) -> Result<()> {
    let outstanding =
        sqlx::query_scalar(concat!("select count(*) from live_executions where job_id = ? and ", planned!()))
            .bind(job.id)
            .fetch_one(&mut *work.tx)
            .await?;
    let candidate = PlanCandidate { job, now: work.now, horizon, outstanding };
    let plan = decide(&candidate);
    let job = candidate.job;
    let lane = jobs::lane_of(&mut work.tx, job.id).await?;
    for at in plan.fires {
        let at = at.trunc_subsecs(6);
        let fire = Execution::of_fire(&job, at, lane, work.now);
        if executions::insert(&mut work.tx, &fire).await? {
            planned.fires += 1;
            planned.next_run_at = Some(planned.next_run_at.map_or(at, |next| next.min(at)));
        }
    }
    for omission in &plan.omissions {
        omit(&mut work.tx, (job.tenant_id, job.id), omission, work.now).await?;
        planned.omissions += 1;
    }
    sqlx::query(
        "update scheduled_jobs set next_execution_at = ? where id = ? and version = ? and next_execution_at is ?",
    )
    .bind(plan.cursor.map(micros))
    .bind(job.id)
    .bind(job.version)
    .bind(job.cursor.map(micros))
    .execute(&mut *work.tx)
    .await?;
    retire_if_spent(work, job.id).await
}

/// Jobs to plan with a cursor in `from..to`.
async fn near_cursors(work: &mut Work, from: DateTime<Utc>, to: DateTime<Utc>, limit: usize) -> Result<Vec<SqliteRow>> {
    Ok(sqlx::query(concat!(
        select_jobs!("where "),
        plannable!(),
        " and j.next_execution_at >= ? and j.next_execution_at < ? order by j.next_execution_at, j.id limit ?"
    ))
    .bind(micros(from))
    .bind(micros(to))
    .bind(rows::count(limit))
    .fetch_all(&mut *work.tx)
    .await?)
}

/// Puts a job off that this version cannot read. The others of its round are planned all the same.
async fn put_off_job(work: &mut Work, row: &SqliteRow, error: &StoreError, planned: &mut Planned) -> Result<()> {
    let (tenant, job): (Uuid, Uuid) = (row.try_get("tenant_id")?, row.try_get("id")?);
    tracing::error!(%job, %error, "a job cannot be read; it is put off");
    let cursor = from_micros(row.try_get("next_execution_at")?).unwrap_or(work.now);
    let plan = firing::unplannable(cursor, work.now, "this version cannot read the job");
    for omission in &plan.omissions {
        omit(&mut work.tx, (tenant, job), omission, work.now).await?;
        planned.omissions += 1;
    }
    sqlx::query("update scheduled_jobs set next_execution_at = ? where id = ?")
        .bind(plan.cursor.map(micros))
        .bind(job)
        .execute(&mut *work.tx)
        .await?;
    Ok(())
}
