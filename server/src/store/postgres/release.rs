//! From planned executions to pending ones.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use orrery_proto::v1::{JobStatus, TriggerType};
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::apply::{Locked, policy_of};
use super::commit::commit;
use super::hours::{Hours, per_tenant};
use super::place::Place;
use super::rows::{armed, job_columns, live_columns};
use super::{PgStore, limited, micros, rows, write};
use crate::execution::{Event, Execution, ON_TIME, Policy, State, apply};
use crate::firing::is_begun;
use crate::job::{Job, ScheduleKind};
use crate::store::{DecideDue, DueFire, DueVerdict, NewOmission, Places, Releases, Result, StoreError};

/// Active executions of a job that are counted; more than any limit of a job that has one.
const COUNTED: i64 = 10_000;

/// How long that waits which cannot be read.
const PUT_OFF: TimeDelta = TimeDelta::minutes(1);

/// What a release does, gathered before anything is written.
#[derive(Default)]
struct Batch {
    /// In the order in which they came due.
    due: Vec<Execution>,
    /// Those of them that are so late that they come due now, and not at their instant.
    moved: HashSet<Uuid>,
    /// Other executions that a replacement ends.
    ended: BTreeMap<Uuid, Execution>,
    /// Fires that do not happen.
    dropped: Vec<Uuid>,
    omissions: Vec<(Uuid, Uuid, NewOmission)>,
    /// Executions that count, by job.
    counted: HashMap<Uuid, i64>,
    /// Those that `replace` ended or asked to end.
    cancelled: Vec<Execution>,
    /// How long after its instant anything was released, the longest.
    worst_lag: TimeDelta,
}

impl PgStore {
    pub(super) async fn try_release(&self, places: Places, hourly: i64, decide: &DecideDue<'_>) -> Result<Releases> {
        let mut tx = self.begin_keyed().await?;
        let (Due { executions: due, late, placed }, now) = lock_due(&mut tx, places).await?;
        let jobs = self.lock_jobs(&mut tx, &due, now).await?;
        // A job that somebody else has locked just now keeps its fires until the next round.
        let due: Vec<Execution> = due.into_iter().filter(|e| e.attempt > 0 || jobs.contains_key(&e.job_id)).collect();
        let mut fires = offered(&mut tx, &due, &jobs).await?;
        let hours = Hours::of(&mut tx, &per_tenant(fires.iter().map(|fire| fire.job.tenant_id)), hourly).await?;
        fires.iter_mut().for_each(|fire| fire.room = hours.room(fire.job.tenant_id));
        let verdicts: HashMap<Uuid, DueVerdict> =
            fires.iter().map(|f| f.execution.id).zip(decide(&fires, now)).collect();
        let others = self.replaced(&mut tx, &due, &verdicts).await?;
        let batch = Batch::gather(due, &jobs, &verdicts, &others, now)?;
        batch.write(&mut tx, &placed, now).await?;
        settle_jobs(&mut tx, &jobs, &batch, &fires, now).await?;
        let begun = |fire: &&DueFire| {
            let verdict = verdicts.get(&fire.execution.id);
            verdict.is_some_and(|verdict| is_begun(fire, verdict)) && !batch.dropped.contains(&fire.execution.id)
        };
        let next_due =
            sqlx::query_scalar("select min(run_at) from live_executions where state = 0").fetch_one(&mut *tx).await?;
        hours.count(&mut tx, fires.iter().filter(begun).map(|fire| fire.job.tenant_id)).await?;
        commit(tx).await?;
        Ok(Releases {
            released: batch.due.len(),
            late,
            omitted: batch.omissions.len(),
            cancelled: batch.cancelled,
            next_due,
            worst_lag: batch.worst_lag.to_std().unwrap_or_default(),
            now,
        })
    }

    /// Locks the jobs of first attempts: they are counted, and their overlap is decided.
    pub(super) async fn lock_jobs(
        &self,
        tx: &mut PgConnection,
        due: &[Execution],
        now: DateTime<Utc>,
    ) -> Result<HashMap<Uuid, Job>> {
        let ids: HashSet<Uuid> = due.iter().filter(|e| e.attempt == 0).map(|e| e.job_id).collect();
        if ids.is_empty() {
            return Ok(HashMap::new());
        }
        let found = sqlx::query(concat!(
            "select ",
            job_columns!(),
            " from scheduled_jobs j where j.id = any($1) order by j.id for no key update of j skip locked"
        ))
        .bind(ids.into_iter().collect::<Vec<_>>())
        .fetch_all(&mut *tx)
        .await?;
        let (mut jobs, mut unreadable) = (HashMap::with_capacity(found.len()), Vec::new());
        for row in &found {
            match rows::job(row, &self.inner.specs) {
                Ok(job) => drop(jobs.insert(job.id, job)),
                Err(error) => {
                    let job: Uuid = row.try_get("id")?;
                    tracing::error!(%job, %error, "a job cannot be read; its fires are put off");
                    unreadable.extend(due.iter().filter(|e| e.job_id == job && e.attempt == 0).map(|e| e.id));
                }
            }
        }
        put_off(tx, &unreadable, now).await?;
        Ok(jobs)
    }

    /// The active executions, locked, of jobs with a fire that replaces them.
    async fn replaced(
        &self,
        tx: &mut PgConnection,
        due: &[Execution],
        verdicts: &HashMap<Uuid, DueVerdict>,
    ) -> Result<Vec<(Execution, Policy)>> {
        let replacing = |e: &&Execution| matches!(verdicts.get(&e.id), Some(DueVerdict::Replace(_)));
        let jobs: Vec<Uuid> = due.iter().filter(replacing).map(|e| e.job_id).collect();
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        let tenants: Vec<Uuid> = due.iter().filter(replacing).map(|e| e.tenant_id).collect();
        let found = sqlx::query(concat!(
            "select ",
            live_columns!(),
            " from live_executions e join scheduled_jobs j on j.id = e.job_id
             where (e.tenant_id, e.job_id) in (select * from unnest($1::uuid[], $2::uuid[]))
               and (e.state > 0 or e.attempt > 0) and e.id <> all($3) and not ",
            armed!(),
            " order by e.id for update of e"
        ))
        .bind(tenants)
        .bind(jobs)
        .bind(due.iter().map(|e| e.id).collect::<Vec<_>>())
        .fetch_all(&mut *tx)
        .await?;
        let locked = found.iter().map(Locked::of).collect::<Result<Vec<_>>>()?;
        let specs = self.inner.specs.load(tx, locked.iter().map(Locked::version)).await?;
        locked.into_iter().map(|l| Ok((l.execution.as_ref().clone(), policy_of(&specs, l.version())))).collect()
    }
}

impl Batch {
    fn gather(
        due: Vec<Execution>,
        jobs: &HashMap<Uuid, Job>,
        verdicts: &HashMap<Uuid, DueVerdict>,
        others: &[(Execution, Policy)],
        now: DateTime<Utc>,
    ) -> Result<Self> {
        let mut batch = Self::default();
        // Retries first: they are active already, so a replacement in this batch ends them too.
        let (retries, first): (Vec<_>, Vec<_>) = due.into_iter().partition(|e| e.attempt > 0);
        for execution in retries {
            batch.come_due(&execution, now)?;
        }
        for execution in first {
            let job = jobs.get(&execution.job_id);
            let verdict = verdicts.get(&execution.id).unwrap_or(&DueVerdict::Admit);
            let is_counted = execution.was_armed();
            let is_new = execution.trigger == TriggerType::Scheduled && !is_counted;
            if is_new && job.is_some_and(|job| batch.is_full(job)) {
                // The job has had all its executions: this fire was planned before it was known.
                batch.dropped.push(execution.id);
                continue;
            }
            if let DueVerdict::Omit(omission) = verdict {
                batch.dropped.push(execution.id);
                batch.omissions.push((execution.tenant_id, execution.job_id, omission.clone()));
                continue;
            }
            if *verdict == DueVerdict::Unplan {
                batch.dropped.push(execution.id);
                *batch.counted.entry(execution.job_id).or_default() -= i64::from(is_counted);
                continue;
            }
            if let DueVerdict::Replace(reason) = verdict {
                batch.replace(execution.job_id, reason, others, now);
            }
            *batch.counted.entry(execution.job_id).or_default() += i64::from(!is_counted);
            batch.come_due(&execution, now)?;
        }
        Ok(batch)
    }

    fn come_due(&mut self, execution: &Execution, now: DateTime<Utc>) -> Result<()> {
        self.worst_lag = self.worst_lag.max(now - execution.run_at);
        let due = come_due(execution, now)?;
        if due.run_at != execution.run_at {
            self.moved.insert(due.id);
        }
        self.due.push(due);
        Ok(())
    }

    fn is_full(&self, job: &Job) -> bool {
        job.spec.max_executions.is_some_and(|max| self.count_of(job) >= max)
    }

    fn count_of(&self, job: &Job) -> i64 {
        job.execution_count + self.counted.get(&job.id).copied().unwrap_or(0)
    }

    fn replace(&mut self, job: Uuid, reason: &str, others: &[(Execution, Policy)], now: DateTime<Utc>) {
        let event = Event::CancelRequested { reason: reason.to_owned() };
        for (other, policy) in others {
            let known = self.ended.contains_key(&other.id) || other.cancel_requested_at.is_some();
            if other.job_id != job || known {
                continue;
            }
            if let Ok(ended) = apply(other, &event, policy, now) {
                self.cancelled.push(ended.clone());
                self.ended.insert(other.id, ended);
            }
        }
        let unused = unused_policy();
        for earlier in self.due.iter_mut().filter(|e| e.job_id == job && !e.is_done()) {
            if let Ok(ended) = apply(earlier, &event, &unused, now) {
                self.cancelled.push(ended.clone());
                *earlier = ended;
            }
        }
    }

    async fn write(&self, tx: &mut PgConnection, placed: &Placed, now: DateTime<Utc>) -> Result<()> {
        let pending = self.due.iter().filter(|e| e.state == State::Pending);
        let (moved, kept): (Vec<&Execution>, Vec<&Execution>) = pending.partition(|e| self.moved.contains(&e.id));
        release(tx, &kept, placed, None).await?;
        release(tx, &moved, placed, Some(now)).await?;
        let ended: Vec<&Execution> = self.due.iter().filter(|e| e.is_done()).chain(self.ended.values()).collect();
        write::save(tx, &ended).await?;
        if !self.dropped.is_empty() {
            let drop = "delete from live_executions where id = any($1)";
            sqlx::query(drop).bind(&self.dropped).execute(&mut *tx).await?;
        }
        let omissions: Vec<(Uuid, Uuid, &NewOmission)> = self.omissions.iter().map(|(t, j, o)| (*t, *j, o)).collect();
        write::omit(tx, &omissions, now).await
    }
}

fn come_due(execution: &Execution, now: DateTime<Utc>) -> Result<Execution> {
    apply(execution, &Event::Due, &unused_policy(), now)
        .map_err(|rejected| rows::corrupt("live_executions", "state", rejected))
}

/// Writes that executions wait for a lease now, at the places that their locks have told; with the instant since when, where that is another
/// one than was planned.
async fn release(
    tx: &mut PgConnection,
    due: &[&Execution],
    placed: &Placed,
    since: Option<DateTime<Utc>>,
) -> Result<()> {
    if due.is_empty() {
        return Ok(());
    }
    let places: Vec<Place> = due.iter().filter_map(|e| placed.get(&e.id).copied()).collect();
    // `+`: no index of what is planned is to look better than the places.
    let release = "update live_executions e set state = 1, run_at = coalesce($2, e.run_at) where e.ctid = any($1) and +e.state = 0";
    let written = sqlx::query(release).bind(places).bind(since).execute(tx).await?.rows_affected();
    // Under their locks none can have gone elsewhere. One that had would never run.
    if written == due.len() as u64 {
        Ok(())
    } else {
        Err(rows::corrupt("live_executions", "ctid", "elsewhere, in spite of a lock"))
    }
}

/// For events that ask no policy.
pub(super) fn unused_policy() -> Policy {
    Policy { retry: crate::job::RetryPolicy::default(), delivery: orrery_proto::v1::Delivery::AtLeastOnce, random: 0.0 }
}

/// What has come due, locked.
#[derive(Default)]
struct Due {
    /// In the order in which they came due.
    executions: Vec<Execution>,
    /// How many of them are late.
    late: usize,
    placed: Placed,
}

/// Where locked executions are.
type Placed = HashMap<Uuid, Place>;

/// Locks what has come due.
async fn lock_due(tx: &mut PgConnection, places: Places) -> Result<(Due, DateTime<Utc>)> {
    // Every column comes out of the select that locks: whatever is read again beside it is as old as the statement's snapshot. It has no join, and
    // the order is the index's: otherwise all that is due would be read and sorted, again in each round.
    let found = sqlx::query(concat!(
        "with late as materialized (
            select ",
        live_columns!(),
        ", e.ctid::text as place, true as is_late from (
                select l.*, l.ctid from live_executions l
                where l.state = 0 and l.run_at < statement_timestamp() - $2 * interval '1 microsecond'
                order by l.run_at, l.id limit $3 for update skip locked
            ) e join scheduled_jobs j on j.id = e.job_id
         ), soon as materialized (
            select ",
        live_columns!(),
        ", e.ctid::text as place, false as is_late from (
                select l.*, l.ctid from live_executions l
                where l.state = 0 and l.run_at <= statement_timestamp()
                    and l.run_at >= statement_timestamp() - $2 * interval '1 microsecond'
                order by l.run_at, l.id limit $1::bigint - (select count(*) from late) for update skip locked
            ) e join scheduled_jobs j on j.id = e.job_id
         ), due as (select * from late union all select * from soon)
         select due.*, clock_timestamp() as now from due order by run_at, id"
    ))
    .bind(limited(places.all))
    .bind(micros(ON_TIME))
    .bind(limited(places.late))
    .fetch_all(&mut *tx)
    .await?;
    let now = match found.first() {
        Some(first) => first.try_get("now")?,
        None => super::clock(tx).await?,
    };
    let (mut due, mut unreadable) = (Due::default(), Vec::new());
    for row in &found {
        due.late += usize::from(row.try_get::<bool, _>("is_late")?);
        match rows::live(row) {
            Ok(execution) => {
                due.placed.insert(execution.id, Place::of(row, "place")?);
                due.executions.push(execution);
            }
            Err(error) => {
                let id: Uuid = row.try_get("id")?;
                tracing::error!(execution = %id, %error, "an execution cannot be read; it is put off");
                unreadable.push(id);
            }
        }
    }
    put_off(tx, &unreadable, now).await?;
    Ok((due, now))
}

/// Lets executions wait that this version cannot read, or whose job it cannot: they are not to stand before others.
async fn put_off(tx: &mut PgConnection, executions: &[Uuid], now: DateTime<Utc>) -> Result<()> {
    if executions.is_empty() {
        return Ok(());
    }
    sqlx::query("update live_executions set run_at = $2 where id = any($1)")
        .bind(executions)
        .bind(now + PUT_OFF)
        .execute(tx)
        .await?;
    Ok(())
}

/// The fires that overlap and misfire are decided for: first attempts that a schedule made.
async fn offered(tx: &mut PgConnection, due: &[Execution], jobs: &HashMap<Uuid, Job>) -> Result<Vec<DueFire>> {
    let fires: Vec<(&Execution, &Job)> = due
        .iter()
        .filter(|e| e.attempt == 0 && e.trigger == TriggerType::Scheduled)
        .filter_map(|e| jobs.get(&e.job_id).map(|job| (e, job)))
        .collect();
    let loads = loads(tx, fires.iter().map(|(_, job)| (job.tenant_id, job.id))).await?;
    let fire = |(execution, job): (&Execution, &Job)| {
        let (active, waiting) = loads.get(&job.id).copied().unwrap_or_default();
        DueFire { execution: execution.clone(), job: job.clone(), active, waiting, room: None }
    };
    Ok(fires.into_iter().map(fire).collect())
}

/// Active executions of jobs, and how many of them wait for their first lease, counted up to a bound.
pub(super) async fn loads(
    tx: &mut PgConnection,
    jobs: impl Iterator<Item = (Uuid, Uuid)>,
) -> Result<HashMap<Uuid, (i64, i64)>> {
    let (tenants, jobs): (Vec<Uuid>, Vec<Uuid>) = jobs.collect::<HashSet<_>>().into_iter().unzip();
    if jobs.is_empty() {
        return Ok(HashMap::new());
    }
    let counts = sqlx::query(concat!(
        "select u.job_id, c.active, c.waiting from unnest($1::uuid[], $2::uuid[]) as u(tenant_id, job_id)
         cross join lateral (
            select count(*) as active, count(*) filter (where a.state = 1 and a.attempt = 0) as waiting from (
                select e.state, e.attempt from live_executions e
                where e.tenant_id = u.tenant_id and e.job_id = u.job_id and (e.state > 0 or e.attempt > 0) and not ",
        armed!(),
        " limit $3
            ) a
         ) c",
    ))
    .bind(tenants)
    .bind(jobs)
    .bind(COUNTED)
    .fetch_all(tx)
    .await?;
    counts.iter().map(|r| Ok((r.try_get("job_id")?, (r.try_get("active")?, r.try_get("waiting")?)))).collect()
}

/// Counts executions, and makes jobs inactive that have had their last one.
async fn settle_jobs(
    tx: &mut PgConnection,
    jobs: &HashMap<Uuid, Job>,
    batch: &Batch,
    fires: &[DueFire],
    now: DateTime<Utc>,
) -> Result<()> {
    let counted: Vec<(&Job, i64)> =
        batch.counted.iter().filter_map(|(id, count)| jobs.get(id).map(|job| (job, *count))).collect();
    count(tx, &counted, now).await?;
    let touched: HashSet<Uuid> = fires
        .iter()
        .filter(|f| f.job.status == JobStatus::Active && f.job.cursor.is_none())
        .filter(|f| f.job.spec.schedule.kind != ScheduleKind::Manual)
        .map(|f| f.job.id)
        .collect();
    if touched.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "update scheduled_jobs j set status = 'inactive'
         where j.id = any($1) and j.status = 'active' and j.next_execution_at is null and not exists (
            select 1 from live_executions e where e.job_id = j.id and e.state = 0 and e.attempt = 0 and e.trigger_type = 1)",
    )
    .bind(touched.into_iter().collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}

/// Executions that count for a (locked) job.
pub(super) struct Counted<'a> {
    pub(super) job: &'a Job,
    /// Less than none where some that had been counted are taken back.
    pub(super) more: i64,
    /// The latest instant of them.
    pub(super) latest: DateTime<Utc>,
}

/// Adds executions of now to their (locked) jobs; see [`count_at`].
pub(super) async fn count(
    tx: &mut PgConnection,
    counted: &[(&Job, i64)],
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    let counted: Vec<Counted<'_>> =
        counted.iter().map(|(job, more)| Counted { job, more: *more, latest: now }).collect();
    count_at(tx, &counted).await
}

/// Adds executions to their (locked) jobs. One that has reached its maximum becomes inactive, and what is planned of it is taken back, but
/// for fires that have been counted.
pub(super) async fn count_at(tx: &mut PgConnection, counted: &[Counted<'_>]) -> Result<(), StoreError> {
    let counted: Vec<&Counted<'_>> = counted.iter().filter(|counted| counted.more != 0).collect();
    if counted.is_empty() {
        return Ok(());
    }
    let full = |c: &&&Counted<'_>| c.job.spec.max_executions.is_some_and(|max| c.job.execution_count + c.more >= max);
    sqlx::query(
        "update scheduled_jobs j set execution_count = j.execution_count + u.more,
            last_execution_at = case when u.more > 0 then greatest(j.last_execution_at, u.latest) else j.last_execution_at end,
            status = case when u.is_full then 'inactive' else j.status end,
            next_execution_at = case when u.is_full then null else j.next_execution_at end
         from unnest($1::uuid[], $2::bigint[], $3::timestamptz[], $4::boolean[]) as u(id, more, latest, is_full)
         where j.id = u.id",
    )
    .bind(counted.iter().map(|c| c.job.id).collect::<Vec<_>>())
    .bind(counted.iter().map(|c| c.more).collect::<Vec<_>>())
    .bind(counted.iter().map(|c| c.latest).collect::<Vec<_>>())
    .bind(counted.iter().map(|c| full(&c)).collect::<Vec<_>>())
    .execute(&mut *tx)
    .await?;
    let full: Vec<Uuid> = counted.iter().filter(full).map(|c| c.job.id).collect();
    if !full.is_empty() {
        let unplan = "delete from live_executions
            where job_id = any($1) and state = 0 and attempt = 0 and trigger_type = 1 and epoch = 0";
        sqlx::query(unplan).bind(full).execute(tx).await?;
    }
    Ok(())
}
