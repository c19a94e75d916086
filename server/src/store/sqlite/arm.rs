//! From planned fires to leases, ahead of their instant.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use super::counts::count;
use super::executions::planned;
use super::gates::Rooms;
use super::leases::Living;
use super::release::rooms;
use super::rows::{self, after, from_micros, micros, select_live, span};
use super::{SqliteStore, Work, jobs, tenants};
use crate::admission::Gate;
use crate::execution::{Event, Execution};
use crate::job::Job;
use crate::store::{Arm, Armed, Assign, Assignment, Candidate, DecideArm, DueFire, Grant, Result, StoreError};

impl SqliteStore {
    pub(super) async fn arm_in(
        &self,
        work: &mut Work,
        arm: &Arm<'_>,
        decide: &DecideArm<'_>,
        assign: &Assign<'_>,
    ) -> Result<Armed> {
        let found = within_reach(work, arm).await?;
        let more = found.len() >= arm.limit;
        // What cannot be read is for its release to put off.
        let found: Vec<Execution> = found.iter().filter_map(|row| rows::live(row).ok()).collect();
        let mut fires = with_jobs(work, found).await?;
        let limited = rooms(work, &mut fires, arm.hourly).await?;
        let verdicts = if fires.is_empty() { Vec::new() } else { decide(&fires) };
        let fires: Vec<DueFire> =
            fires.into_iter().zip(verdicts).filter(|(_, may)| *may).map(|(fire, _)| fire).collect();
        let offered = within_limits(work, fires, arm.tenant_limit).await?;
        let candidates: Vec<Candidate<'_>> =
            offered.iter().map(|fire| Candidate { execution: &fire.execution }).collect();
        let answers = if candidates.is_empty() { Vec::new() } else { assign(&candidates) };
        let mut armed = Armed { more, now: work.now, ..Armed::default() };
        let mut living = Living::default();
        for (fire, assignment) in offered.into_iter().zip(answers) {
            let Some(assignment) = assignment else { continue };
            if !living.lives(work, assignment.session_id).await?
                || !living.is_attached(work, assignment.session_id, assignment.attachment).await?
            {
                continue;
            }
            let granted = self.grant_ahead(work, &fire, assignment, arm).await?;
            if granted.is_some() && limited.contains(&fire.job.tenant_id) && !fire.execution.was_armed() {
                tenants::count(work, fire.job.tenant_id, 1).await?;
            }
            armed.grants.extend(granted);
        }
        armed.next = next(work, arm).await?;
        Ok(armed)
    }

    async fn grant_ahead(
        &self,
        work: &mut Work,
        fire: &DueFire,
        assignment: Assignment,
        arm: &Arm<'_>,
    ) -> Result<Option<Grant>> {
        let (execution, version) = (&fire.execution, fire.job.version);
        let spec = match self.spec(work, fire.job.id, version).await {
            Ok(spec) => spec,
            Err(StoreError::Corrupt { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let timeout = spec.timeout(arm.timeouts);
        let event = Event::Armed {
            session_id: assignment.session_id,
            worker_name: assignment.worker_name,
            timeout: span(timeout),
            job_version: version,
        };
        let Ok(armed) = self.step(work, execution, &event).await? else { return Ok(None) };
        if !execution.was_armed() {
            count(work, fire.job.id, 1, execution.run_at).await?;
        }
        Ok(Some(Grant { execution: armed, spec, timeout, attachment: assignment.attachment }))
    }
}

/// What is due within reach. Of jobs that are at work and have a limit nothing: it is decided when it is due. Nor what comes after another
/// fire of such a job, which may be too near to be granted ahead: that would find its place taken.
async fn within_reach(work: &mut Work, arm: &Arm<'_>) -> Result<Vec<SqliteRow>> {
    let lanes = rows::to_json("lanes", &arm.lanes)?;
    let found = select_live!(
        "where ",
        planned!(),
        " and run_at > ?1 and run_at <= ?2 and lane_id in (select value from json_each(?3)) \
          and not exists (select 1 from scheduled_jobs j join live_executions a on a.job_id = j.id \
            where j.id = live_executions.job_id and j.max_concurrent > 0 \
            and (a.state in ('pending', 'leased', 'running') or a.attempt > 0 or a.run_at < live_executions.run_at)) \
          order by run_at, id limit ?4"
    );
    let query = sqlx::query(found)
        .bind(micros(after(work.now, arm.least)))
        .bind(micros(after(work.now, arm.ahead)))
        .bind(lanes)
        .bind(rows::count(arm.limit));
    Ok(query.fetch_all(&mut *work.tx).await?)
}

/// Fires with their jobs. None of these has anything active that matters to it: what has was not read.
async fn with_jobs(work: &mut Work, found: Vec<Execution>) -> Result<Vec<DueFire>> {
    let mut known: HashMap<Uuid, Option<Job>> = HashMap::new();
    let mut fires = Vec::with_capacity(found.len());
    for execution in found {
        let job = match known.get(&execution.job_id) {
            Some(job) => job.clone(),
            None => {
                let job = jobs::by_id(&mut work.tx, execution.job_id).await.ok().flatten();
                known.insert(execution.job_id, job.clone());
                job
            }
        };
        fires.extend(job.map(|job| DueFire { execution, job, active: 0, waiting: 0, room: None }));
    }
    Ok(fires)
}

/// Those that have a free place in their queue, tenant and key.
async fn within_limits(work: &mut Work, fires: Vec<DueFire>, tenant_limit: i64) -> Result<Vec<DueFire>> {
    let mut rooms = Rooms::default();
    // Of a key, only what is due has been asked for its limit, and these are not. The smallest of all holds.
    for execution in fires.iter().map(|fire| &fire.execution) {
        if let Some(concurrency) = &execution.concurrency {
            let gate = Gate::Key(execution.tenant_id, concurrency.key.clone());
            rooms.lower(work, &gate, i64::from(concurrency.limit)).await?;
        }
    }
    let mut offered = Vec::new();
    for fire in fires {
        let of_job = |gate: &Gate| matches!(gate, Gate::Job(..));
        let gates: Vec<Gate> = Gate::of(&fire.execution).into_iter().filter(|gate| !of_job(gate)).collect();
        if rooms.admit(work, &gates, tenant_limit).await? {
            offered.push(fire);
        }
    }
    Ok(offered)
}

async fn next(work: &mut Work, arm: &Arm<'_>) -> Result<Option<DateTime<Utc>>> {
    let next = sqlx::query_scalar(concat!(
        "select min(run_at) from live_executions where ",
        planned!(),
        " and run_at > ? and lane_id in (select value from json_each(?))"
    ))
    .bind(micros(after(work.now, arm.least)))
    .bind(rows::to_json("lanes", &arm.lanes)?)
    .fetch_one(&mut *work.tx)
    .await?;
    Ok(from_micros(next))
}
