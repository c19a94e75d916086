//! From planned fires to leases, ahead of their instant.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::apply::{Locked, applied, spec_of};
use super::claim::{hold_sessions, standing};
use super::commit::commit;
use super::hours::{Hours, per_tenant};
use super::release::{Counted, count_at, unused_policy};
use super::rows::live_columns;
use super::{PgStore, gates, limited, micros, write};
use crate::admission::{Admission, Gate};
use crate::execution::Event;
use crate::job::Job;
use crate::store::{Arm, Armed, Assign, Assignment, Candidate, DecideArm, DueFire, Grant, Result};

/// What is locked of a planned fire, and the limits that it may meet beside that of its job.
struct Planned {
    locked: Locked,
    gates: Vec<Gate>,
    limits: Vec<(Gate, i64)>,
}

impl PgStore {
    /// `said` is what a try before this one granted, whose outcome is unknown, and then what this one grants.
    pub(super) async fn try_arm(
        &self,
        arm: &Arm<'_>,
        decide: &DecideArm<'_>,
        assign: &Assign<'_>,
        said: &mut Option<Armed>,
    ) -> Result<Armed> {
        let mut tx = self.begin_keyed().await?;
        if let Some(before) = said {
            let grants = standing(&mut tx, &before.grants).await?;
            if !grants.is_empty() {
                return Ok(Armed { grants, ..before.clone() });
            }
        }
        let (found, now) = lock_planned(&mut tx, arm).await?;
        let mut armed = Armed { more: found.len() >= arm.limit, now, ..Armed::default() };
        if !found.is_empty() {
            let executions: Vec<_> = found.iter().map(|planned| planned.locked.execution.as_ref().clone()).collect();
            let jobs = self.lock_jobs(&mut tx, &executions, now).await?;
            let hours = Hours::of(&mut tx, &per_tenant(executions.iter().map(|e| e.tenant_id)), arm.hourly).await?;
            let offered = decided(&mut tx, found, &jobs, (&hours, decide)).await?;
            let offered = self.within_limits(&mut tx, offered).await?;
            let given = assigned(offered, assign);
            armed.grants = self.grant_ahead(&mut tx, given, (&jobs, &hours), arm).await?;
        }
        armed.next = next(&mut tx, arm).await?;
        // Before the end, for it may not come back.
        *said = Some(armed);
        commit(tx).await?;
        Ok(said.take().unwrap_or_default())
    }

    /// Those that have a free place in their queue, tenant and key. What somebody else is counting just now is left for the next round.
    async fn within_limits(&self, tx: &mut PgConnection, offered: Vec<Planned>) -> Result<Vec<Planned>> {
        let mut limits: BTreeMap<Gate, i64> = BTreeMap::new();
        for (gate, limit) in offered.iter().flat_map(|planned| &planned.limits) {
            limits.entry(gate.clone()).and_modify(|least| *least = (*least).min(*limit)).or_insert(*limit);
        }
        if limits.is_empty() {
            return Ok(offered);
        }
        let shared: BTreeSet<Gate> = limits.keys().cloned().collect();
        let had = gates::lock_shared(tx, self.inner.scope, &shared, false).await?;
        limits.retain(|gate, _| had.contains(gate));
        let named: Vec<(Gate, i64)> = limits.iter().map(|(gate, limit)| (gate.clone(), *limit)).collect();
        let mut rooms = gates::counted(tx, &named).await?;
        for (gate, room) in &mut rooms {
            // Of a key, only what is due has been asked for its limit, and these are not.
            room.limit = room.limit.min(limits.get(gate).copied().unwrap_or(room.limit));
        }
        let mut admission = Admission::new(rooms);
        let mut admitted = |planned: &Planned| {
            planned.limits.iter().all(|(gate, _)| had.contains(gate)) && admission.admit(&planned.gates)
        };
        Ok(offered.into_iter().filter(|planned| admitted(planned)).collect())
    }

    async fn grant_ahead(
        &self,
        tx: &mut PgConnection,
        given: Vec<(Locked, Assignment)>,
        (jobs, hours): (&HashMap<Uuid, Job>, &Hours),
        arm: &Arm<'_>,
    ) -> Result<Vec<Grant>> {
        if given.is_empty() {
            return Ok(Vec::new());
        }
        let sessions: HashSet<(Uuid, i64)> = given.iter().map(|(_, a)| (a.session_id, a.attachment)).collect();
        let (now, alive) = hold_sessions(tx, &sessions).await?;
        let specs = self.inner.specs.load(tx, given.iter().map(|(l, _)| l.version())).await?;
        let mut grants = Vec::with_capacity(given.len());
        let mut counted: HashMap<Uuid, Counted<'_>> = HashMap::new();
        let mut begun = Vec::new();
        for (locked, assignment) in given {
            let Some(job) = jobs.get(&locked.execution.job_id) else { continue };
            // A version that came between the two locks is left for the next round, and what cannot be read for its release.
            let Ok(spec) = spec_of(&specs, locked.version()) else { continue };
            if locked.version().1 != job.version || !alive.contains(&(assignment.session_id, assignment.attachment)) {
                continue;
            }
            let timeout = spec.timeout(arm.timeouts);
            let event = Event::Armed {
                session_id: assignment.session_id,
                worker_name: assignment.worker_name,
                timeout: chrono::Duration::from_std(timeout).unwrap_or(chrono::Duration::days(365)),
                job_version: job.version,
            };
            let Ok(execution) = applied(&locked.execution, &event, &unused_policy(), now) else { continue };
            if !locked.execution.was_armed() {
                let counted = counted.entry(job.id).or_insert(Counted { job, more: 0, latest: execution.run_at });
                counted.more += 1;
                begun.push(job.tenant_id);
                counted.latest = counted.latest.max(execution.run_at);
            }
            grants.push(Grant { execution, spec, timeout, attachment: assignment.attachment });
        }
        write::grant(tx, &grants.iter().map(|g| &g.execution).collect::<Vec<_>>()).await?;
        count_at(tx, &counted.into_values().collect::<Vec<_>>()).await?;
        hours.count(tx, begun.into_iter()).await?;
        Ok(grants)
    }
}

/// Locks what is due within reach, and the clock. Of jobs that are at work and have a limit nothing: it is decided when it is due. Nor what
/// comes after another fire of such a job, which may be too near to be granted ahead: that would find its place taken.
async fn lock_planned(tx: &mut PgConnection, arm: &Arm<'_>) -> Result<(Vec<Planned>, DateTime<Utc>)> {
    let rows = sqlx::query(concat!(
        "select ",
        live_columns!(),
        ", coalesce(q.max_concurrent, 0)::bigint as of_queue, coalesce(t.max_concurrent, $5)::bigint as of_tenant,
           clock_timestamp() as now
         from (
            select l.* from live_executions l
            where l.state = 0 and l.attempt = 0 and l.trigger_type = 1 and l.lane_id = any($1)
              and l.run_at > statement_timestamp() + $2 * interval '1 microsecond'
              and l.run_at <= statement_timestamp() + $3 * interval '1 microsecond'
              and ((select s.max_concurrent from scheduled_jobs s where s.id = l.job_id) = 0 or not exists (
                select 1 from live_executions a
                where a.tenant_id = l.tenant_id and a.job_id = l.job_id
                  and (a.state > 0 or a.attempt > 0 or a.run_at < l.run_at)))
            order by l.run_at, l.id limit $4 for update skip locked
         ) e
         join scheduled_jobs j on j.id = e.job_id
         left join queue_limits q on q.tenant_id = e.tenant_id and q.name = e.queue
         left join tenants t on t.id = e.tenant_id
         order by e.run_at, e.id"
    ))
    .bind(arm.lanes)
    .bind(micros(arm.least))
    .bind(micros(arm.ahead))
    .bind(limited(arm.limit))
    .bind(arm.tenant_limit)
    .fetch_all(&mut *tx)
    .await?;
    let now = match rows.first() {
        Some(first) => first.try_get("now")?,
        None => super::clock(tx).await?,
    };
    let mut found = Vec::with_capacity(rows.len());
    for row in &rows {
        // What cannot be read is for its release to put off.
        let Ok(locked) = Locked::of(row) else { continue };
        let of: [i64; 2] = [row.try_get("of_queue")?, row.try_get("of_tenant")?];
        let key = locked.execution.concurrency.as_ref().map(|concurrency| i64::from(concurrency.limit));
        let gates: Vec<Gate> =
            Gate::of(&locked.execution).into_iter().filter(|gate| !matches!(gate, Gate::Job(..))).collect();
        let limit = |gate: &Gate| match gate {
            Gate::Queue(..) => Some(of[0]).filter(|limit| *limit > 0),
            Gate::Tenant(_) => Some(of[1]).filter(|limit| *limit > 0),
            Gate::Key(..) => key,
            Gate::Job(..) => None,
        };
        let limits = gates.iter().filter_map(|gate| Some((gate.clone(), limit(gate)?))).collect();
        found.push(Planned { locked, gates, limits });
    }
    Ok((found, now))
}

/// Those that may be granted. Jobs that somebody else has locked just now keep their fires until the next round.
async fn decided(
    tx: &mut PgConnection,
    found: Vec<Planned>,
    jobs: &HashMap<Uuid, Job>,
    (hours, decide): (&Hours, &DecideArm<'_>),
) -> Result<Vec<Planned>> {
    let busy = busy(tx, jobs).await?;
    let mut fires = Vec::with_capacity(found.len());
    let mut planned = Vec::with_capacity(found.len());
    for one in found {
        let Some(job) = jobs.get(&one.locked.execution.job_id) else { continue };
        let active = busy.get(&job.id).copied().unwrap_or(0);
        let execution = one.locked.execution.as_ref().clone();
        let room = hours.room(job.tenant_id);
        fires.push(DueFire { execution, job: job.clone(), active, waiting: 0, room });
        planned.push(one);
    }
    Ok(planned.into_iter().zip(decide(&fires)).filter(|(_, may)| *may).map(|(planned, _)| planned).collect())
}

/// What is active of these (locked) jobs, or granted ahead. One is as good as many.
async fn busy(tx: &mut PgConnection, jobs: &HashMap<Uuid, Job>) -> Result<HashMap<Uuid, i64>> {
    let (tenants, ids): (Vec<Uuid>, Vec<Uuid>) =
        jobs.values().filter(|job| job.spec.max_concurrent > 0).map(|job| (job.tenant_id, job.id)).unzip();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let busy: Vec<Uuid> = sqlx::query_scalar(
        "select u.job_id from unnest($1::uuid[], $2::uuid[]) as u(tenant_id, job_id) where exists (
            select 1 from live_executions e
            where e.tenant_id = u.tenant_id and e.job_id = u.job_id and (e.state > 0 or e.attempt > 0))",
    )
    .bind(tenants)
    .bind(ids)
    .fetch_all(tx)
    .await?;
    Ok(busy.into_iter().map(|job| (job, 1)).collect())
}

fn assigned(offered: Vec<Planned>, assign: &Assign<'_>) -> Vec<(Locked, Assignment)> {
    if offered.is_empty() {
        return Vec::new();
    }
    let candidates: Vec<Candidate<'_>> =
        offered.iter().map(|planned| Candidate { execution: &planned.locked.execution }).collect();
    let answers = assign(&candidates);
    offered.into_iter().zip(answers).filter_map(|(planned, answer)| Some((planned.locked, answer?))).collect()
}

async fn next(tx: &mut PgConnection, arm: &Arm<'_>) -> Result<Option<DateTime<Utc>>> {
    Ok(sqlx::query_scalar(
        "select min(run_at) from live_executions
         where state = 0 and attempt = 0 and trigger_type = 1 and lane_id = any($1)
           and run_at > statement_timestamp() + $2 * interval '1 microsecond'",
    )
    .bind(arm.lanes)
    .bind(micros(arm.least))
    .fetch_one(tx)
    .await?)
}
