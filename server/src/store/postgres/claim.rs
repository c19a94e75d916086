//! From pending executions to leases.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::commit::commit;
use super::apply::{Locked, applied, lock, policy_of, spec_of};
use super::rows::live_columns;
use super::{PgStore, limited, write};
use crate::execution::{Event, Execution};
use crate::store::{Assign, Assignment, Candidate, Claim, Claimed, Grant, Result};

impl PgStore {
    /// `said` is what a try before this one granted, whose outcome is unknown, and then what this one grants.
    pub(super) async fn try_claim(
        &self,
        claim: &Claim<'_>,
        assign: &Assign<'_>,
        said: &mut Option<Claimed>,
    ) -> Result<Claimed> {
        if claim.lanes.is_empty() || claim.limit == 0 {
            return Ok(Claimed::default());
        }
        let mut tx = self.pool().begin().await?;
        if let Some(before) = said {
            let grants = standing(&mut tx, &before.grants).await?;
            if !grants.is_empty() {
                return Ok(Claimed { grants, ..before.clone() });
            }
        }
        let (picked, locked) = pick(&mut tx, claim).await?;
        let mut claimed = Claimed { more: picked >= claim.limit || locked.len() < picked, ..Claimed::default() };
        let (offered, at_limit) = admit(&mut tx, locked).await?;
        claimed.at_limit = at_limit;
        let candidates: Vec<Candidate> = offered.iter().map(|l| Candidate { execution: l.execution.clone() }).collect();
        let given: Vec<(Locked, Assignment)> = match candidates.is_empty() {
            true => Vec::new(),
            false => {
                let answers = assign(&candidates);
                offered.into_iter().zip(answers).filter_map(|(l, answer)| Some((l, answer?))).collect()
            }
        };
        if !given.is_empty() {
            claimed.grants = self.grant(&mut tx, given, claim).await?;
        }
        *said = Some(claimed.clone());
        commit(tx).await?;
        Ok(claimed)
    }

    async fn grant(
        &self,
        tx: &mut PgConnection,
        given: Vec<(Locked, Assignment)>,
        claim: &Claim<'_>,
    ) -> Result<Vec<Grant>> {
        let sessions: HashSet<(Uuid, i64)> = given.iter().map(|(_, a)| (a.session_id, a.attachment)).collect();
        let (now, alive) = hold_sessions(tx, &sessions).await?;
        let specs = self.inner.specs.load(tx, given.iter().map(|(l, _)| l.version())).await?;
        let mut grants = Vec::with_capacity(given.len());
        for (locked, assignment) in given {
            if !alive.contains(&(assignment.session_id, assignment.attachment)) {
                continue;
            }
            let spec = spec_of(&specs, &locked)?;
            let policy = policy_of(&specs, &locked)?;
            let timeout = spec.timeout(claim.timeouts);
            let event = Event::Granted {
                session_id: assignment.session_id,
                worker_name: assignment.worker_name,
                timeout: chrono::Duration::from_std(timeout).unwrap_or(chrono::Duration::days(365)),
                job_version: locked.version().1,
            };
            if let Ok(execution) = applied(&locked.execution, &event, &policy, now) {
                grants.push(Grant { execution, spec, timeout, attachment: assignment.attachment });
            }
        }
        write::save(tx, &grants.iter().map(|g| &g.execution).collect::<Vec<_>>()).await?;
        Ok(grants)
    }
}

/// Which of these leases are held: a try before this one had been committed. Its locks are waited for, so that it is over one way or the other.
async fn standing(tx: &mut PgConnection, grants: &[Grant]) -> Result<Vec<Grant>> {
    let locked = lock(tx, &grants.iter().map(|grant| grant.execution.id).collect::<Vec<_>>()).await?;
    let held: HashMap<Uuid, Execution> = locked.into_iter().map(|l| (l.execution.id, l.execution)).collect();
    let stands = |grant: &&Grant| {
        held.get(&grant.execution.id).is_some_and(|stored| {
            let granted = |e: &Execution| (e.epoch, e.lease().map(|lease| (lease.session_id, lease.granted_at)));
            granted(stored) == granted(&grant.execution)
        })
    };
    Ok(grants.iter().filter(stands).cloned().collect())
}

/// Picks pending executions, the highest priority first and in turns between lanes, and locks those that nobody else has locked.
/// Answers also with how many were picked: where fewer could be locked, others are at them, and it is worth to look again.
async fn pick(tx: &mut PgConnection, claim: &Claim<'_>) -> Result<(usize, Vec<Locked>)> {
    let passed_over: Vec<Uuid> = claim.passed_over.iter().copied().collect();
    // Unlocked first: to lock within each lane would lock `limit` of every lane, and take them from the others for nothing.
    let picked: Vec<Uuid> = sqlx::query_scalar(
        "select p.id from unnest($1::bigint[]) as lane(id) cross join lateral (
            select n.id, n.priority, n.run_at, n.late, row_number() over (order by n.priority desc, n.late, n.run_at, n.id) as turn from (
                select e.id, e.priority, e.late, e.run_at from live_executions e
                where e.lane_id = lane.id and e.state = 1 and e.cancel_requested_at is null and e.job_id <> all($2)
                  and (e.start_by is null or e.start_by > statement_timestamp())
                order by e.priority desc, e.late, e.run_at, e.id limit $3
            ) n
         ) p order by p.priority desc, p.late, p.turn, p.run_at, p.id limit $3",
    )
    .bind(claim.lanes)
    .bind(&passed_over)
    .bind(limited(claim.limit))
    .fetch_all(&mut *tx)
    .await?;
    if picked.is_empty() {
        return Ok((0, Vec::new()));
    }
    let found = sqlx::query(concat!(
        "select ",
        live_columns!(),
        " from live_executions e join scheduled_jobs j on j.id = e.job_id
         where e.id = any($1) and e.state = 1 and e.cancel_requested_at is null
           and (e.start_by is null or e.start_by > statement_timestamp()) for update of e skip locked"
    ))
    .bind(&picked)
    .fetch_all(tx)
    .await?;
    let mut locked = HashMap::with_capacity(found.len());
    for row in &found {
        let one = Locked::of(row)?;
        locked.insert(one.execution.id, one);
    }
    Ok((picked.len(), picked.iter().filter_map(|id| locked.remove(id)).collect()))
}

/// Leaves out what would take a job over its limit; answers also with the jobs that are at it. The limited jobs are locked, so that no
/// other claim counts at the same time; one that is locked by somebody else is left for the next round.
async fn admit(tx: &mut PgConnection, locked: Vec<Locked>) -> Result<(Vec<Locked>, Vec<Uuid>)> {
    let jobs: HashSet<Uuid> = locked.iter().map(|l| l.execution.job_id).collect();
    let jobs: Vec<Uuid> = jobs.into_iter().collect();
    let limits = sqlx::query("select id, max_concurrent from scheduled_jobs where id = any($1) and max_concurrent > 0")
        .bind(&jobs)
        .fetch_all(&mut *tx)
        .await?;
    if limits.is_empty() {
        return Ok((locked, Vec::new()));
    }
    let limited: HashSet<Uuid> = limits.iter().map(|r| r.try_get("id")).collect::<sqlx::Result<_>>()?;
    let mut free = places(tx, &limited.iter().copied().collect::<Vec<_>>()).await?;
    let mut at_limit = HashSet::new();
    let mut offered = Vec::with_capacity(locked.len());
    for one in locked {
        let job = one.execution.job_id;
        if !limited.contains(&job) {
            offered.push(one);
            continue;
        }
        match free.get_mut(&job) {
            Some(free) if *free > 0 => {
                *free -= 1;
                offered.push(one);
            }
            Some(_) => {
                at_limit.insert(job);
            }
            None => {}
        }
    }
    Ok((offered, at_limit.into_iter().collect()))
}

/// Free places of the jobs that could be locked.
async fn places(tx: &mut PgConnection, jobs: &[Uuid]) -> Result<HashMap<Uuid, i64>> {
    let held = sqlx::query(
        "select id, max_concurrent from scheduled_jobs where id = any($1) order by id for no key update skip locked",
    )
    .bind(jobs)
    .fetch_all(&mut *tx)
    .await?;
    let mut free: HashMap<Uuid, i64> = HashMap::with_capacity(held.len());
    for row in &held {
        free.insert(row.try_get("id")?, i64::from(row.try_get::<i32, _>("max_concurrent")?));
    }
    // In a statement of its own, whose snapshot is younger than the locks.
    let leased = sqlx::query(
        "select job_id, count(*) as leased from live_executions
         where job_id = any($1) and session_id is not null group by job_id",
    )
    .bind(free.keys().copied().collect::<Vec<_>>())
    .fetch_all(tx)
    .await?;
    for row in &leased {
        if let Some(free) = free.get_mut(&row.try_get::<Uuid, _>("job_id")?) {
            *free -= row.try_get::<i64, _>("leased")?;
        }
    }
    Ok(free)
}

/// The clock, and which of these sessions live on these attachments. They cannot end or move before this transaction does, so no lease is
/// granted to a session that is gone or to a stream that is lost; heartbeats go on.
async fn hold_sessions(
    tx: &mut PgConnection,
    sessions: &HashSet<(Uuid, i64)>,
) -> Result<(DateTime<Utc>, HashSet<(Uuid, i64)>)> {
    let (ids, attachments): (Vec<Uuid>, Vec<i64>) = sessions.iter().copied().unzip();
    let held: Vec<(Uuid, i64)> = sqlx::query_as(
        "select s.id, s.attachment from agent_sessions s
         join unnest($1::uuid[], $2::bigint[]) as u(id, attachment) on u.id = s.id and u.attachment = s.attachment
         where s.expires_at > statement_timestamp() order by s.id for key share of s",
    )
    .bind(ids)
    .bind(attachments)
    .fetch_all(&mut *tx)
    .await?;
    Ok((super::clock(tx).await?, held.into_iter().collect()))
}
