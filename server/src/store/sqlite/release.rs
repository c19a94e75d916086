//! From planned fires to what waits to be run.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use chrono::{DateTime, Utc};
use orrery_proto::v1::TriggerType;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::counts::{count, count_one, load_of, retire_if_spent};
use super::executions::{self, active_of, omit};
use super::rows::{self, TICK, after, before, from_micros, micros, select_live};
use super::{SqliteStore, Work, jobs, tenants};
use crate::execution::{Event, Execution, ON_TIME};
use crate::job::Job;
use crate::store::{DecideDue, DueFire, DueVerdict, Places, Releases, Result, StoreError};

/// How long that waits which cannot be read.
const PUT_OFF: Duration = Duration::from_secs(60);

impl SqliteStore {
    /// One round of releasing.
    pub(super) async fn release_round(&self, places: Places, hourly: i64, decide: &DecideDue<'_>) -> Result<Releases> {
        let mut work = self.write().await?;
        let mut releases = Releases { now: work.now, ..Releases::default() };
        let edge = before(work.now, ON_TIME);
        let late = come_due(&mut work, DateTime::<Utc>::MIN_UTC, edge, places.late).await?;
        let end = after(work.now, TICK);
        let soon = come_due(&mut work, edge, end, places.all - late.len()).await?;
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

/// Executions with a `run_at` in `from..to`.
async fn come_due(work: &mut Work, from: DateTime<Utc>, to: DateTime<Utc>, limit: usize) -> Result<Vec<SqliteRow>> {
    let found = select_live!("where state = 'scheduled' and run_at >= ? and run_at < ? order by run_at, id limit ?");
    let rows = sqlx::query(found).bind(micros(from)).bind(micros(to)).bind(rows::count(limit));
    Ok(rows.fetch_all(&mut *work.tx).await?)
}
