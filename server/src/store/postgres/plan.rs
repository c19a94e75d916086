//! From cursors to planned executions.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::commit::commit;
use super::lanes::Wanted;
use super::rows::job_columns;
use super::{PgStore, insert, limited, micros, rows, write};
use crate::execution::{Execution, ON_TIME};
use crate::firing;
use crate::job::{Job, ScheduleKind};
use crate::store::{DecidePlan, JobPlan, NewOmission, Places, PlanCandidate, Planned, Result, StoreError};

/// Jobs that planning can do something about. One whose outstanding fires use up its maximum waits for what becomes of them, and is not to
/// stand before others meanwhile; it is back once one of them is omitted.
macro_rules! plannable {
    () => {
        "j.status = 'active' and j.tenant_suspended_at is null and j.deleted_at is null and (j.max_executions is null or not exists (
            select 1 from (
                select count(*) as fires from live_executions p
                where p.job_id = j.id and p.state = 0 and p.attempt = 0 and p.trigger_type = 1
            ) o where o.fires > 0 and j.execution_count + o.fires >= j.max_executions))"
    };
}

/// What planning has locked.
#[derive(Default)]
struct Due {
    /// What is on time first.
    candidates: Vec<PlanCandidate>,
    /// How many are late, in both lists.
    late: usize,
    unreadable: Vec<Unreadable>,
    /// The clock, where anything was found.
    now: Option<DateTime<Utc>>,
}

/// A job that this version cannot read. The others of its round are planned all the same.
struct Unreadable {
    tenant: Uuid,
    job: Uuid,
    plan: JobPlan,
}

impl Unreadable {
    fn of(row: &PgRow, error: &StoreError, now: DateTime<Utc>) -> Result<Self> {
        let (tenant, job) = (row.try_get("tenant_id")?, row.try_get("id")?);
        tracing::error!(%job, %error, "a job cannot be read; it is put off");
        let plan = firing::unplannable(row.try_get("cursor")?, now, "this version cannot read the job");
        Ok(Self { tenant, job, plan })
    }
}

/// Writes what becomes of jobs that cannot be read.
async fn put_off(tx: &mut PgConnection, unreadable: &[Unreadable], now: DateTime<Utc>) -> Result<()> {
    if unreadable.is_empty() {
        return Ok(());
    }
    let omissions: Vec<(Uuid, Uuid, &NewOmission)> =
        unreadable.iter().flat_map(|u| u.plan.omissions.iter().map(|o| (u.tenant, u.job, o))).collect();
    write::omit(tx, &omissions, now).await?;
    sqlx::query(
        "update scheduled_jobs j set next_execution_at = u.later from unnest($1::uuid[], $2::timestamptz[]) as u(id, later)
         where j.id = u.id",
    )
    .bind(unreadable.iter().map(|u| u.job).collect::<Vec<_>>())
    .bind(unreadable.iter().map(|u| u.plan.cursor).collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}

impl PgStore {
    pub(super) async fn try_plan(&self, ahead: Duration, places: Places, decide: &DecidePlan<'_>) -> Result<Planned> {
        let mut tx = self.begin_keyed().await?;
        let due = self.lock_due(&mut tx, ahead, places).await?;
        let plans: Vec<(&PlanCandidate, JobPlan)> = due.candidates.iter().map(|c| (c, decide(c))).collect();
        let now = match due.now {
            Some(now) => now,
            None => super::clock(&mut tx).await?,
        };
        let jobs = due.candidates.len() + due.unreadable.len();
        let mut planned = Planned { jobs, late: due.late, now, ..Planned::default() };
        put_off(&mut tx, &due.unreadable, now).await?;
        planned.omissions += due.unreadable.len();
        if !plans.is_empty() {
            let fires = self.fires(&mut tx, &plans).await?;
            let made: HashSet<Uuid> = insert::insert(&mut tx, &fires).await?.into_iter().collect();
            let fired: HashSet<Uuid> = fires.iter().filter(|f| made.contains(&f.id)).map(|f| f.job_id).collect();
            planned.fires = made.len();
            planned.next_run_at = fires.iter().map(|f| f.run_at).min();
            let omissions: Vec<(Uuid, Uuid, &NewOmission)> = plans
                .iter()
                .flat_map(|(c, plan)| plan.omissions.iter().map(|o| (c.job.tenant_id, c.job.id, o)))
                .collect();
            planned.omissions += omissions.len();
            write::omit(&mut tx, &omissions, now).await?;
            let finished = finished(&mut tx, &plans, &fired).await?;
            advance(&mut tx, &plans, &finished).await?;
        }
        planned.next_cursor = sqlx::query_scalar(concat!(
            "select min(j.next_execution_at) from scheduled_jobs j where j.next_execution_at is not null and ",
            plannable!()
        ))
        .fetch_one(&mut *tx)
        .await?;
        commit(tx).await?;
        Ok(planned)
    }

    /// Locks jobs to plan: what is on time first, then what is late.
    async fn lock_due(&self, tx: &mut PgConnection, ahead: Duration, places: Places) -> Result<Due> {
        // Every column comes out of the select that locks: whatever is read again beside it is as old as the statement's snapshot, and a
        // cursor that another planner has moved since would be planned from twice.
        let found = sqlx::query(concat!(
            "with late as materialized (
                select true as late, ",
            job_columns!(),
            " from scheduled_jobs j where ",
            plannable!(),
            " and j.next_execution_at < statement_timestamp() - $3 * interval '1 microsecond'
                order by j.next_execution_at limit $4 for no key update of j skip locked
             ), soon as materialized (
                select false as late, ",
            job_columns!(),
            " from scheduled_jobs j where ",
            plannable!(),
            " and j.next_execution_at <= statement_timestamp() + $1 * interval '1 microsecond'
                and j.next_execution_at >= statement_timestamp() - $3 * interval '1 microsecond'
                order by j.next_execution_at limit $2::bigint - (select count(*) from late) for no key update of j skip locked
             ), due as (select * from soon union all select * from late)
             select due.*, clock_timestamp() as now from due order by late, cursor"
        ))
        .bind(micros(ahead))
        .bind(limited(places.all))
        .bind(micros(ON_TIME))
        .bind(limited(places.late))
        .fetch_all(&mut *tx)
        .await?;
        let Some(first) = found.first() else { return Ok(Due::default()) };
        let now: DateTime<Utc> = first.try_get("now")?;
        let horizon = now + chrono::Duration::from_std(ahead).unwrap_or_default();
        let mut due = Due { now: Some(now), ..Due::default() };
        let mut jobs = Vec::with_capacity(found.len());
        for row in &found {
            due.late += usize::from(row.try_get::<bool, _>("late")?);
            match rows::job(row, &self.inner.specs) {
                Ok(job) => jobs.push(job),
                Err(error) => due.unreadable.push(Unreadable::of(row, &error, now)?),
            }
        }
        let bounded = jobs.iter().filter(|job| job.spec.max_executions.is_some());
        let outstanding = outstanding(tx, bounded.map(|job| job.id).collect()).await?;
        let candidate = |job: Job| {
            let outstanding = outstanding.get(&job.id).copied().unwrap_or(0);
            PlanCandidate { job, now, horizon, outstanding }
        };
        due.candidates = jobs.into_iter().map(candidate).collect();
        Ok(due)
    }

    async fn fires(&self, tx: &mut PgConnection, plans: &[(&PlanCandidate, JobPlan)]) -> Result<Vec<Execution>> {
        let firing: Vec<&(&PlanCandidate, JobPlan)> = plans.iter().filter(|(_, plan)| !plan.fires.is_empty()).collect();
        let wanted: Vec<Wanted> = firing.iter().map(|(c, _)| Wanted::of(c.job.tenant_id, &c.job.spec)).collect();
        let lanes = self.inner.lanes.ids(tx, &wanted).await?;
        Ok(firing
            .iter()
            .zip(lanes)
            .flat_map(|((c, plan), lane)| plan.fires.iter().map(move |at| Execution::of_fire(&c.job, *at, lane, c.now)))
            .collect())
    }
}

/// Fires made and not yet due, by job.
async fn outstanding(tx: &mut PgConnection, jobs: Vec<Uuid>) -> Result<HashMap<Uuid, i64>> {
    if jobs.is_empty() {
        return Ok(HashMap::new());
    }
    let counts = sqlx::query(
        "select job_id, count(*) as outstanding from live_executions
         where job_id = any($1) and state = 0 and attempt = 0 and trigger_type = 1 group by job_id",
    )
    .bind(jobs)
    .fetch_all(tx)
    .await?;
    counts.iter().map(|row| Ok((row.try_get("job_id")?, row.try_get("outstanding")?))).collect()
}

/// The jobs without anything left to fire, and without a planned fire that would say so when it comes due.
async fn finished(
    tx: &mut PgConnection,
    plans: &[(&PlanCandidate, JobPlan)],
    fired: &HashSet<Uuid>,
) -> Result<HashSet<Uuid>> {
    let is_at_end = |(c, plan): &&(&PlanCandidate, JobPlan)| {
        plan.cursor.is_none() && !fired.contains(&c.job.id) && c.job.spec.schedule.kind != ScheduleKind::Manual
    };
    let at_end: Vec<Uuid> = plans.iter().filter(is_at_end).map(|(c, _)| c.job.id).collect();
    let outstanding = outstanding(tx, at_end.clone()).await?;
    Ok(at_end.into_iter().filter(|job| !outstanding.contains_key(job)).collect())
}

/// Moves cursors on, if they are where they were read. Jobs that are finished become inactive here.
async fn advance(tx: &mut PgConnection, plans: &[(&PlanCandidate, JobPlan)], finished: &HashSet<Uuid>) -> Result<()> {
    sqlx::query(
        "update scheduled_jobs j set next_execution_at = u.later,
            status = case when u.finished then 'inactive' else j.status end
         from unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::boolean[]) as u(id, earlier, later, finished)
         where j.id = u.id and j.next_execution_at is not distinct from u.earlier",
    )
    .bind(plans.iter().map(|(c, _)| c.job.id).collect::<Vec<_>>())
    .bind(plans.iter().map(|(c, _)| c.job.cursor).collect::<Vec<_>>())
    .bind(plans.iter().map(|(_, plan)| plan.cursor).collect::<Vec<_>>())
    .bind(plans.iter().map(|(c, _)| finished.contains(&c.job.id)).collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}
