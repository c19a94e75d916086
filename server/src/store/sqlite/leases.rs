//! From executions to their end.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::{Sqlite, Transaction};
use uuid::Uuid;

use super::audit::note;
use super::executions::{self, armed_at, clean};
use super::rows::{self, before, from_micros, micros, select_live, span};
use super::save::save_all;
use super::{SqliteStore, Work, pick};
use crate::execution::{Event, Execution, Policy, Rejected, apply};
use crate::fairness::Turn;
use crate::job::RetryPolicy;
use crate::store::{
    Assign, AuditEntry, Candidate, Change, Claim, Claimed, Grant, Held, Leases, Reaped, Result, StoreError, Wanted,
};

#[async_trait]
impl Leases for SqliteStore {
    async fn claim(&self, claim: &Claim<'_>, assign: &Assign<'_>) -> Result<Claimed> {
        if claim.lanes.is_empty() || claim.limit == 0 {
            return Ok(Claimed::default());
        }
        let mut work = self.write().await?;
        let offer = pick::offer(self, &mut work, claim).await?;
        let mut claimed = Claimed { more: offer.more, ..Claimed::default() };
        let offered = offer.executions.len();
        let candidates: Vec<Candidate<'_>> = offer.executions.iter().map(|execution| Candidate { execution }).collect();
        let assignments = if candidates.is_empty() { Vec::new() } else { assign(&candidates) };
        let mut living = Living::default();
        for (execution, assignment) in offer.executions.into_iter().zip(assignments) {
            let Some(assignment) = assignment else { continue };
            // A lease of a session that is over would only be taken back again.
            if !living.lives(&mut work, assignment.session_id).await?
                || !living.is_attached(&mut work, assignment.session_id, assignment.attachment).await?
            {
                continue;
            }
            let version = match execution.job_version {
                0 => living.version(&mut work, execution.job_id).await?,
                begun => begun,
            };
            let spec = match self.spec(&mut work, execution.job_id, version).await {
                Ok(spec) => spec,
                Err(error @ StoreError::Corrupt { .. }) => {
                    // What cannot be read waits, and holds nobody up.
                    tracing::error!(execution = %execution.id, %error, "a definition cannot be read; what runs by it waits");
                    continue;
                }
                Err(error) => return Err(error),
            };
            let timeout = spec.timeout(claim.timeouts);
            let event = Event::Granted {
                session_id: assignment.session_id,
                worker_name: assignment.worker_name,
                timeout: span(timeout),
                job_version: version,
            };
            if let Ok(execution) = self.after(&mut work, &execution, &event).await? {
                claimed.grants.push(Grant { execution, spec, timeout, attachment: assignment.attachment });
            }
        }
        save_all(&mut work.tx, claimed.grants.iter().map(|grant| &grant.execution)).await?;
        claimed.left = offer.left || claimed.grants.len() < offered;
        work.commit().await?;
        let turn = |grant: &Grant| {
            let tenant = grant.execution.tenant_id;
            Turn { tenant, lane: grant.execution.lane_id, weight: offer.weights.get(&tenant).copied().unwrap_or(1) }
        };
        self.turns().granted(claimed.grants.iter().map(turn));
        Ok(claimed)
    }

    async fn apply(&self, changes: Vec<Change>) -> Result<Vec<std::result::Result<Execution, Rejected>>> {
        let notes = self.notes();
        let mut work = self.write().await?;
        let mut living = Living::default();
        let mut read = executions::all_live(&mut work.tx, changes.iter().map(|change| change.execution)).await?;
        let mut changed = BTreeSet::new();
        let mut answers = Vec::with_capacity(changes.len());
        for change in changes.clone() {
            let answer = self.decide(&mut work, change, &mut read, &mut living).await?;
            changed.extend(answer.as_ref().ok().map(|next| next.id));
            answers.push(answer);
        }
        // Each is written once, however much has become of it.
        save_all(&mut work.tx, changed.iter().filter_map(|id| read.get(id))).await?;
        note(&mut work, &AuditEntry::of_cancels(&notes, &changes, &answers)).await?;
        work.commit().await?;
        Ok(answers)
    }

    async fn reap(&self, slack: Duration, limit: usize) -> Result<Reaped> {
        let mut work = self.write().await?;
        let sessions = sqlx::query_scalar(
            "delete from agent_sessions where id in (select id from agent_sessions where expires_at <= ? order by id limit ?) \
             returning id",
        )
        .bind(micros(work.now))
        .bind(rows::count(limit))
        .fetch_all(&mut *work.tx)
        .await?;
        let mut reaped = Reaped { sessions, ..Reaped::default() };
        // Whatever names a session that is not there, so that no lease can be forgotten.
        let lost = sqlx::query(select_live!(
            "where session_id is not null and not exists (select 1 from agent_sessions s where s.id = session_id) \
             order by id limit ?"
        ))
        .bind(rows::count(limit))
        .fetch_all(&mut *work.tx)
        .await?;
        for row in &lost {
            self.take_back(&mut work, rows::live(row)?, &mut reaped, lease_expired).await?;
        }
        let overdue = sqlx::query(select_live!("where deadline < ? order by deadline, id limit ?"))
            .bind(micros(before(work.now, slack)))
            .bind(rows::count(limit.saturating_sub(lost.len())))
            .fetch_all(&mut *work.tx)
            .await?;
        for row in &overdue {
            self.take_back(&mut work, rows::live(row)?, &mut reaped, timed_out).await?;
        }
        let late = sqlx::query(select_live!(
            "where start_by <= ? and state = 'pending' and attempt = 0 order by start_by, id limit ?"
        ))
        .bind(micros(work.now))
        .bind(rows::count(limit.saturating_sub(lost.len() + overdue.len())))
        .fetch_all(&mut *work.tx)
        .await?;
        for row in &late {
            if let Ok(ended) = self.step(&mut work, &rows::live(row)?, &Event::StartDeadlinePassed).await? {
                reaped.unstarted.push(ended);
            }
        }
        // A full batch means that there may be more to take back at once.
        let is_full = lost.len() + overdue.len() + late.len() >= limit;
        reaped.next = if is_full { Some(work.now) } else { next_end(&mut work.tx, slack).await? };
        work.commit().await?;
        Ok(reaped)
    }

    async fn cancels(&self, sessions: &[Uuid]) -> Result<Vec<Wanted>> {
        let mut work = self.read().await?;
        let mut wanted = Vec::new();
        for session in sessions {
            wanted.extend(wanted_of(&mut work, *session).await?);
        }
        Ok(wanted)
    }
}

impl SqliteStore {
    /// What a change makes of an execution that is `read`, and not written yet.
    async fn decide(
        &self,
        work: &mut Work,
        change: Change,
        read: &mut BTreeMap<Uuid, Execution>,
        living: &mut Living,
    ) -> Result<std::result::Result<Execution, Rejected>> {
        let event = clean(change.event);
        let visible = |execution: &Execution| change.tenant.is_none_or(|tenant| tenant == execution.tenant_id);
        let found = read.get(&change.execution).filter(|execution| visible(execution));
        let Some(execution) = found.filter(|execution| !execution.is_done()) else {
            let over = match found {
                Some(over) => Some(over.clone()),
                None => executions::finished(&mut work.tx, change.execution).await?.filter(visible),
            };
            // History changes no more; the state machine says why.
            let idle = Policy { retry: RetryPolicy::default(), delivery: Default::default(), random: 0.0 };
            return Ok(match over {
                Some(over) if over.has_heard(&event) => Err(Rejected::Repeated),
                Some(over) => apply(&over, &event, &idle, work.now),
                None => Err(Rejected::Unknown),
            });
        };
        if execution.has_heard(&event) {
            return Ok(Err(Rejected::Repeated));
        }
        if let Some((session, epoch)) = event.spoken_for()
            && !living.lives(work, session).await?
        {
            return Ok(Err(Rejected::of_dead_session(execution, epoch)));
        }
        let next = self.after(work, execution, &event).await?;
        if let Ok(next) = &next {
            read.insert(next.id, next.clone());
        }
        Ok(next)
    }

    /// Applies what `event` makes of a lease, and notes the lease that was lost by it.
    pub(super) async fn take_back(
        &self,
        work: &mut Work,
        execution: Execution,
        reaped: &mut Reaped,
        event: fn(&Held) -> Event,
    ) -> Result<()> {
        let Some(session_id) = execution.lease().map(|lease| lease.session_id) else { return Ok(()) };
        let lease = Held { session_id, execution_id: execution.id, epoch: execution.epoch };
        if let Ok(next) = self.step(work, &execution, &event(&lease)).await? {
            reaped.executions.push((lease, next));
        }
        Ok(())
    }
}

/// Which sessions live and are attached, and which versions jobs have, as far as this transaction has looked.
#[derive(Default)]
pub(super) struct Living {
    sessions: HashMap<Uuid, bool>,
    attached: HashMap<(Uuid, i64), bool>,
    versions: HashMap<Uuid, i64>,
}

impl Living {
    pub(super) async fn lives(&mut self, work: &mut Work, session: Uuid) -> Result<bool> {
        if let Some(lives) = self.sessions.get(&session) {
            return Ok(*lives);
        }
        let lives = sqlx::query_scalar("select exists (select 1 from agent_sessions where id = ? and expires_at > ?)")
            .bind(session)
            .bind(micros(work.now))
            .fetch_one(&mut *work.tx)
            .await?;
        self.sessions.insert(session, lives);
        Ok(lives)
    }

    /// Whether the session is still carried by this stream.
    pub(super) async fn is_attached(&mut self, work: &mut Work, session: Uuid, attachment: i64) -> Result<bool> {
        if let Some(attached) = self.attached.get(&(session, attachment)) {
            return Ok(*attached);
        }
        let attached =
            sqlx::query_scalar("select exists (select 1 from agent_sessions where id = ? and attachment = ?)")
                .bind(session)
                .bind(attachment)
                .fetch_one(&mut *work.tx)
                .await?;
        self.attached.insert((session, attachment), attached);
        Ok(attached)
    }

    /// The version that a job has now.
    async fn version(&mut self, work: &mut Work, job: Uuid) -> Result<i64> {
        if let Some(version) = self.versions.get(&job) {
            return Ok(*version);
        }
        let version = sqlx::query_scalar("select version from scheduled_jobs where id = ?")
            .bind(job)
            .fetch_one(&mut *work.tx)
            .await?;
        self.versions.insert(job, version);
        Ok(version)
    }
}

pub(super) fn lease_expired(lease: &Held) -> Event {
    Event::LeaseExpired { session_id: lease.session_id, epoch: lease.epoch }
}

fn timed_out(lease: &Held) -> Event {
    Event::TimedOut { epoch: lease.epoch }
}

/// The leases that a session holds.
pub(super) async fn held(tx: &mut Transaction<'static, Sqlite>, session: Uuid) -> Result<Vec<Held>> {
    let found: Vec<(Uuid, i64)> =
        sqlx::query_as("select id, epoch from live_executions where session_id = ? order by id")
            .bind(session)
            .fetch_all(&mut **tx)
            .await?;
    Ok(found.into_iter().map(|(execution_id, epoch)| Held { session_id: session, execution_id, epoch }).collect())
}

/// Those whose executions somebody wants to end, and those granted ahead by a definition that is not their job's any more.
async fn wanted_of(work: &mut Work, session_id: Uuid) -> Result<Vec<Wanted>> {
    let found: Vec<(Uuid, i64, bool)> = sqlx::query_as(concat!(
        "select id, epoch, cancel_requested_at is null from live_executions \
         where session_id = ?1 and (cancel_requested_at is not null or (",
        armed_at!("?2"),
        " and job_version <> (select version from scheduled_jobs j where j.id = job_id))) order by id"
    ))
    .bind(session_id)
    .bind(micros(work.now))
    .fetch_all(&mut *work.tx)
    .await?;
    let wanted =
        |(execution_id, epoch, is_recall)| Wanted { lease: Held { session_id, execution_id, epoch }, is_recall };
    Ok(found.into_iter().map(wanted).collect())
}

/// When the next session or attempt ends by itself.
async fn next_end(
    tx: &mut Transaction<'static, Sqlite>,
    slack: Duration,
) -> Result<Option<chrono::DateTime<chrono::Utc>>> {
    let (expiry, deadline, start_by): (Option<i64>, Option<i64>, Option<i64>) = sqlx::query_as(
        "select (select min(expires_at) from agent_sessions), \
         (select min(deadline) from live_executions where deadline is not null), \
         (select min(start_by) from live_executions where start_by is not null and state = 'pending' and attempt = 0)",
    )
    .fetch_one(&mut **tx)
    .await?;
    let deadline = from_micros(deadline).map(|deadline| rows::after(deadline, slack));
    Ok(from_micros(expiry).into_iter().chain(deadline).chain(from_micros(start_by)).min())
}
