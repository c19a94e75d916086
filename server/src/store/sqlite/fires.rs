//! From schedules to executions.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, SubsecRound, Utc};
use orrery_proto::v1::{JobStatus, TriggerType};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::audit::note;
use super::executions::{self, active, active_of, armed_at, omit, planned};
use super::rows::{self, after, before, from_micros, micros, select_jobs, select_live};
use super::{SqliteStore, Work, jobs, tenants};
use crate::execution::{Event, Execution, ON_TIME, State, manual_id};
use crate::firing;
use crate::job::{Job, ScheduleKind};
use crate::store::{
    Arm, Armed, Assign, AtOnce, AuditEntry, DecideArm, DecideDue, DecidePlan, DecideTrigger, DueFire, DueVerdict,
    Fires, Lane, Made, PlanCandidate, Planned, Releases, Result, StoreError, Trigger,
};

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

/// The finest step of an instant here.
const TICK: Duration = Duration::from_micros(1);

/// How long that waits which cannot be read.
const PUT_OFF: Duration = Duration::from_secs(60);

#[async_trait]
impl Fires for SqliteStore {
    async fn plan(&self, ahead: Duration, limit: usize, decide: &DecidePlan<'_>) -> Result<Planned> {
        let mut work = self.write().await?;
        let horizon = after(work.now, ahead);
        let edge = before(work.now, ON_TIME);
        let late = near_cursors(&mut work, DateTime::<Utc>::MIN_UTC, edge, limit.div_ceil(2)).await?;
        let soon = near_cursors(&mut work, edge, after(horizon, TICK), limit - late.len()).await?;
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

    async fn release_within(&self, limit: usize, hourly: i64, decide: &DecideDue<'_>) -> Result<Releases> {
        let mut work = self.write().await?;
        let mut releases = Releases { now: work.now, ..Releases::default() };
        let edge = before(work.now, ON_TIME);
        let late = come_due(&mut work, DateTime::<Utc>::MIN_UTC, edge, limit.div_ceil(2)).await?;
        let end = after(work.now, TICK);
        let soon = come_due(&mut work, edge, end, limit - late.len()).await?;
        releases.late = late.len();
        let mut due = Vec::with_capacity(late.len() + soon.len());
        for row in late.iter().chain(&soon) {
            match rows::live(row) {
                Ok(execution) => due.push(execution),
                Err(error) => {
                    let id: Uuid = row.try_get("id")?;
                    tracing::error!(execution = %id, %error, "an execution cannot be read; it is put off");
                    put_off(&mut work, id).await?;
                }
            }
        }
        // A retry and what a person asked for are not for the schedule's rules to refuse.
        let planned: Vec<_> = due.iter().filter(|execution| is_planned(execution)).cloned().collect();
        let mut fires = with_jobs(&mut work, planned).await?;
        let limited = rooms(&mut work, &mut fires, hourly).await?;
        let mut verdicts: HashMap<Uuid, DueVerdict> = match fires.as_slice() {
            [] => HashMap::new(),
            fires => fires.iter().map(|fire| fire.execution.id).zip(decide(fires, work.now)).collect(),
        };
        let is_full = |job: &Job| job.spec.max_executions.is_some_and(|max| job.execution_count >= max);
        let mut full: BTreeSet<Uuid> = fires.iter().filter(|f| is_full(&f.job)).map(|f| f.job.id).collect();
        // Retries first: they are active already, so that a replacement in this batch ends them too.
        let (retries, first): (Vec<_>, Vec<_>) = due.into_iter().partition(|execution| execution.attempt > 0);
        for execution in retries.iter().chain(&first) {
            let verdict = match is_planned(execution) {
                false => DueVerdict::Admit,
                // Its job has had all its executions: it was planned before that was known.
                true if full.contains(&execution.job_id) && !execution.was_armed() => {
                    executions::delete(&mut work.tx, execution.id).await?;
                    continue;
                }
                true => match verdicts.remove(&execution.id) {
                    Some(verdict) => verdict,
                    None => continue,
                },
            };
            let is_begun = matches!(verdict, DueVerdict::Admit | DueVerdict::Replace(_)) && !execution.was_armed();
            if is_begun && is_planned(execution) && limited.contains(&execution.tenant_id) {
                tenants::count(&mut work, execution.tenant_id, 1).await?;
            }
            self.release_one(&mut work, execution, verdict, &mut full, &mut releases).await?;
        }
        for job in fires.iter().map(|fire| fire.job.id).collect::<BTreeSet<_>>() {
            retire_if_spent(&mut work, job).await?;
        }
        releases.next_due = from_micros(
            sqlx::query_scalar("select min(run_at) from live_executions where state = 'scheduled'")
                .fetch_one(&mut *work.tx)
                .await?,
        );
        work.commit().await?;
        Ok(releases)
    }

    async fn arm(&self, arm: &Arm<'_>, decide: &DecideArm<'_>, assign: &Assign<'_>) -> Result<Armed> {
        let mut work = self.write().await?;
        let armed = self.arm_in(&mut work, arm, decide, assign).await?;
        work.commit().await?;
        Ok(armed)
    }

    async fn trigger(&self, triggers: Vec<Trigger>, decide: &DecideTrigger<'_>) -> Result<Vec<Execution>> {
        let mut work = self.write().await?;
        let made = self.trigger_in(&mut work, triggers, decide).await?;
        work.commit().await?;
        Ok(made)
    }

    /// One transaction for all, and no lease in it: here a claim costs as little.
    async fn trigger_each(
        &self,
        triggers: Vec<Trigger>,
        decide: &DecideTrigger<'_>,
        _: Option<AtOnce<'_>>,
    ) -> Result<Vec<Result<Made>>> {
        let mut work = self.write().await?;
        let (mut loads, mut asked) = (BTreeMap::new(), Asked::default());
        let mut answers = Vec::with_capacity(triggers.len());
        for (index, trigger) in triggers.iter().enumerate() {
            // Whatever is refused is refused before anything of it is written.
            match make_one(&mut work, index, trigger, decide, (&mut loads, &mut asked)).await {
                Err(error) if !is_refusal(&error) => return Err(error),
                made => answers.push(made.map(Made::from)),
            }
        }
        asked.note(&mut work, &triggers).await?;
        work.commit().await?;
        Ok(answers)
    }

    async fn lanes_after(&self, id: i64) -> Result<Vec<Lane>> {
        let found = sqlx::query("select id, tenant_id, queue, executor, selector from lanes where id > ? order by id")
            .bind(id)
            .fetch_all(&self.readers)
            .await?;
        found.iter().map(rows::lane).collect()
    }
}

impl SqliteStore {
    /// Makes executions in a transaction that may do more than that.
    pub(super) async fn trigger_in(
        &self,
        work: &mut Work,
        triggers: Vec<Trigger>,
        decide: &DecideTrigger<'_>,
    ) -> Result<Vec<Execution>> {
        let mut loads = BTreeMap::new();
        let mut made = Vec::with_capacity(triggers.len());
        let mut asked = Asked::default();
        for (index, trigger) in triggers.iter().enumerate() {
            made.push(make_one(work, index, trigger, decide, (&mut loads, &mut asked)).await?);
        }
        asked.note(work, &triggers).await?;
        Ok(made)
    }

    async fn release_one(
        &self,
        work: &mut Work,
        execution: &Execution,
        verdict: DueVerdict,
        full: &mut BTreeSet<Uuid>,
        releases: &mut Releases,
    ) -> Result<()> {
        if let DueVerdict::Omit(omission) = &verdict {
            executions::delete(&mut work.tx, execution.id).await?;
            omit(&mut work.tx, (execution.tenant_id, execution.job_id), omission, work.now).await?;
            releases.omitted += 1;
            return Ok(());
        }
        if verdict == DueVerdict::Unplan {
            executions::delete(&mut work.tx, execution.id).await?;
            if execution.was_armed() {
                count(work, execution.job_id, -1, work.now).await?;
            }
            return Ok(());
        }
        // It was read in this transaction, so that nothing can have happened to it.
        if self.step(work, execution, &Event::Due).await?.is_err() {
            return Ok(());
        }
        releases.released += 1;
        let lag = (work.now - execution.run_at).to_std().unwrap_or_default();
        releases.worst_lag = releases.worst_lag.max(lag);
        if let DueVerdict::Replace(reason) = &verdict {
            let mut others = active_of(work, execution.job_id, execution.id).await?;
            others.retain(|other| other.cancel_requested_at.is_none());
            releases.cancelled.extend(self.cancel_all(work, &others, reason).await?);
        }
        // A further attempt is not a further execution, nor is what was granted ahead and came back.
        if execution.attempt == 0 && !execution.was_armed() && count_one(work, execution.job_id).await? {
            full.insert(execution.job_id);
        }
        Ok(())
    }
}

/// Tells fires what their tenants may still begin in this hour. Answers with the tenants that have a quota.
pub(super) async fn rooms(work: &mut Work, fires: &mut [DueFire], hourly: i64) -> Result<BTreeSet<Uuid>> {
    let mut rooms: HashMap<Uuid, Option<i64>> = HashMap::new();
    for fire in fires {
        let tenant = fire.job.tenant_id;
        fire.room = match rooms.get(&tenant) {
            Some(room) => *room,
            None => *rooms.entry(tenant).or_insert(tenants::room(work, tenant, hourly).await?),
        };
    }
    Ok(rooms.into_iter().filter_map(|(tenant, room)| room.map(|_| tenant)).collect())
}

fn is_planned(execution: &Execution) -> bool {
    execution.trigger == TriggerType::Scheduled && execution.attempt == 0
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

/// Makes what a trigger asks for, or finds what its key has made. `loads` are the active executions of jobs, those of this transaction among
/// them.
async fn make_one(
    work: &mut Work,
    index: usize,
    trigger: &Trigger,
    decide: &DecideTrigger<'_>,
    (loads, asked): (&mut BTreeMap<Uuid, i64>, &mut Asked),
) -> Result<Execution> {
    let earlier = jobs::replay(work, trigger.tenant, "execution", trigger.idempotency.as_ref(), index).await?;
    if let Some(earlier) = earlier
        && let Some(execution) = executions::any(&mut work.tx, earlier).await?
    {
        return Ok(execution);
    }
    let refused = |reason| StoreError::TriggerRefused { index, job: trigger.job, reason: Box::new(reason) };
    let job = jobs::of_tenant(&mut work.tx, trigger.tenant, trigger.job)
        .await?
        .ok_or_else(|| refused(crate::error::Error::job_not_found(trigger.job)))?;
    let load = match loads.get(&job.id) {
        Some(load) => *load,
        None if firing::counts_active(&job.spec) => load_of(work, job.id).await?.0,
        None => 0,
    };
    decide(&job, load, trigger).map_err(refused)?;
    let execution = make(work, &job, trigger).await?;
    asked.made.push((index, execution.id));
    asked.names.insert(job.id, job.spec.name.clone());
    if firing::counts_active(&job.spec) {
        loads.insert(job.id, load + i64::from(execution.is_active()));
    }
    Ok(execution)
}

/// What was made of triggers, for the audit log.
#[derive(Default)]
struct Asked {
    /// (trigger, execution).
    made: Vec<(usize, Uuid)>,
    /// Of jobs.
    names: HashMap<Uuid, String>,
}

impl Asked {
    async fn note(&self, work: &mut Work, triggers: &[Trigger]) -> Result<()> {
        let made = self.made.iter().map(|(index, execution)| (&triggers[*index], *execution));
        let name = |job| self.names.get(&job).cloned().unwrap_or_default();
        note(work, &AuditEntry::of_triggers(made, name)).await
    }
}

/// Whether an error is the answer to one trigger, and not the database's.
fn is_refusal(error: &StoreError) -> bool {
    matches!(error, StoreError::TriggerRefused { .. } | StoreError::IdempotencyKeyReused { .. })
}

async fn make(work: &mut Work, job: &Job, trigger: &Trigger) -> Result<Execution> {
    let id = manual_id(work.now);
    let lane = jobs::lane_of(&mut work.tx, job.id).await?;
    let made = trigger.execution(id, job, lane, work.now);
    executions::insert(&mut work.tx, &made).await?;
    jobs::remember(work, trigger.tenant, "execution", trigger.idempotency.as_ref(), id).await?;
    if made.state == State::Pending {
        count_one(work, job.id).await?;
    }
    Ok(made)
}

/// Due executions with their jobs, and how busy those are. None of a batch's own first fires counts, since they are still scheduled. Those
/// whose job cannot be read are put off.
async fn with_jobs(work: &mut Work, due: Vec<Execution>) -> Result<Vec<DueFire>> {
    let mut known: HashMap<Uuid, Option<(Job, i64, i64)>> = HashMap::new();
    let mut fires = Vec::with_capacity(due.len());
    for execution in due {
        let found = match known.get(&execution.job_id) {
            Some(found) => found.clone(),
            None => {
                let found = job_and_load(work, &execution).await?;
                known.insert(execution.job_id, found.clone());
                found
            }
        };
        match found {
            Some((job, active, waiting)) => fires.push(DueFire { execution, job, active, waiting, room: None }),
            None => put_off(work, execution.id).await?,
        }
    }
    Ok(fires)
}

async fn job_and_load(work: &mut Work, execution: &Execution) -> Result<Option<(Job, i64, i64)>> {
    let job = match jobs::by_id(&mut work.tx, execution.job_id).await {
        Ok(Some(job)) => job,
        Ok(None) => return Err(rows::corrupt("live_executions", format!("{} has no job", execution.id))),
        Err(StoreError::Corrupt { reason, .. }) => {
            tracing::error!(job = %execution.job_id, reason, "a job cannot be read; its fires are put off");
            return Ok(None);
        }
        Err(other) => return Err(other),
    };
    let (active, waiting) = load_of(work, job.id).await?;
    Ok(Some((job, active, waiting)))
}

/// Lets an execution wait that this version cannot read, or whose job it cannot: it is not to stand before others.
async fn put_off(work: &mut Work, id: Uuid) -> Result<()> {
    sqlx::query("update live_executions set run_at = ? where id = ?")
        .bind(micros(after(work.now, PUT_OFF)))
        .bind(id)
        .execute(&mut *work.tx)
        .await?;
    Ok(())
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

/// Executions with a `run_at` in `from..to`.
async fn come_due(work: &mut Work, from: DateTime<Utc>, to: DateTime<Utc>, limit: usize) -> Result<Vec<SqliteRow>> {
    let found = select_live!("where state = 'scheduled' and run_at >= ? and run_at < ? order by run_at, id limit ?");
    let rows = sqlx::query(found).bind(micros(from)).bind(micros(to)).bind(rows::count(limit));
    Ok(rows.fetch_all(&mut *work.tx).await?)
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

/// How many executions of a job are active, and how many of these wait for their first lease. What is granted ahead is neither.
async fn load_of(work: &mut Work, job: Uuid) -> Result<(i64, i64)> {
    let load = sqlx::query_as(concat!(
        "select count(*), count(*) filter (where state = 'pending' and attempt = 0) from live_executions where job_id = ?1 and ",
        active!(),
        " and not ",
        armed_at!("?2")
    ))
    .bind(job)
    .bind(micros(work.now))
    .fetch_one(&mut *work.tx)
    .await?;
    Ok(load)
}

/// Counts an execution of a job; see [`count`].
async fn count_one(work: &mut Work, job: Uuid) -> Result<bool> {
    count(work, job, 1, work.now).await
}

/// Counts executions of a job, the latest of which is of that instant, or takes such back where `more` is less than none. `true` where the
/// job has had all it may: it is inactive then, and its planned fires are taken back, but for those that have been counted.
pub(super) async fn count(work: &mut Work, job: Uuid, more: i64, latest: DateTime<Utc>) -> Result<bool> {
    let full: bool = sqlx::query_scalar(
        "update scheduled_jobs set execution_count = execution_count + ?1, \
         last_execution_at = case when ?1 > 0 then max(coalesce(last_execution_at, ?2), ?2) else last_execution_at end \
         where id = ?3 returning ?1 > 0 and max_executions is not null and execution_count >= max_executions",
    )
    .bind(more)
    .bind(micros(latest))
    .bind(job)
    .fetch_one(&mut *work.tx)
    .await?;
    if full {
        sqlx::query(concat!("delete from live_executions where job_id = ? and epoch = 0 and ", planned!()))
            .bind(job)
            .execute(&mut *work.tx)
            .await?;
        sqlx::query("update scheduled_jobs set status = ?, next_execution_at = null where id = ?")
            .bind(JobStatus::Inactive.as_json_str())
            .bind(job)
            .execute(&mut *work.tx)
            .await?;
    }
    Ok(full)
}

/// A job that has nothing left to fire by itself becomes inactive.
async fn retire_if_spent(work: &mut Work, job: Uuid) -> Result<()> {
    let spent = sqlx::query(select_jobs!(
        "where j.id = ? and j.status = 'active' and j.deleted_at is null and j.next_execution_at is null"
    ))
    .bind(job)
    .fetch_optional(&mut *work.tx)
    .await?;
    let Some(job) = spent.as_ref().map(rows::job).transpose()? else { return Ok(()) };
    // With a planned fire it still has something to do.
    if job.next_execution_at.is_some() || job.spec.schedule.kind == ScheduleKind::Manual {
        return Ok(());
    }
    sqlx::query("update scheduled_jobs set status = ? where id = ?")
        .bind(JobStatus::Inactive.as_json_str())
        .bind(job.id)
        .execute(&mut *work.tx)
        .await?;
    Ok(())
}
