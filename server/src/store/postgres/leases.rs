//! [`Leases`].

use std::collections::HashSet;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::apply::Locked;
use super::commit::{Tries, commit, in_time};
use super::planner::leased;
use super::rows::{armed, live_columns};
use super::{PgStore, limited, micros, retried};
use crate::execution::{Event, Execution, Rejected};
use crate::store::{Assign, Change, Claim, Claimed, Held, Leases, Reaped, Result, Wanted};

/// How long it is asked what became of a claim.
pub(super) const LEASES_ASKED: Duration = Duration::from_secs(60);

#[async_trait]
impl Leases for PgStore {
    async fn claim(&self, claim: &Claim<'_>, assign: &Assign<'_>) -> Result<Claimed> {
        let mut said = None;
        // Leases that were granted and are not handed over would be nobody's until they expire: as long as sessions live, it is worth to ask.
        let mut tries = Tries::new(&self.inner.evict).patient(LEASES_ASKED);
        retried!(self, tries, self.try_claim(claim, assign, &mut said))
    }

    async fn apply(&self, changes: Vec<Change>) -> Result<Vec<std::result::Result<Execution, Rejected>>> {
        if changes.is_empty() {
            return Ok(Vec::new());
        }
        let mut said = None;
        let notes = self.notes();
        retried!(self, self.try_apply(&changes, &mut said, &notes))
    }

    async fn reap(&self, slack: Duration, limit: usize) -> Result<Reaped> {
        let mut tries = Tries::new(&self.inner.evict);
        let reaped = retried!(self, tries, self.try_reap(slack, limit));
        self.tell_of_lost(&tries);
        reaped
    }

    async fn cancels(&self, sessions: &[Uuid]) -> Result<Vec<Wanted>> {
        // The definition of a job is compared only for what is granted ahead: few, and never for long.
        let query = sqlx::query(concat!(
            "select e.session_id, e.id, e.epoch, e.cancel_requested_at is null as is_recall from live_executions e
             where e.session_id = any($1) and (e.cancel_requested_at is not null or (",
            armed!(),
            " and exists (select 1 from scheduled_jobs j where j.id = e.job_id and j.version <> e.job_version)))
             order by e.id"
        ));
        let found = in_time(async { Ok(query.bind(sessions).fetch_all(self.pool()).await?) }).await?;
        let wanted = |row: &PgRow| Ok(Wanted { lease: held(row)?, is_recall: row.try_get("is_recall")? });
        found.iter().map(wanted).collect()
    }
}

impl PgStore {
    async fn try_reap(&self, slack: Duration, limit: usize) -> Result<Reaped> {
        let mut tx = self.begin_keyed().await?;
        let sessions = end_sessions(&mut tx, limit).await?;
        let (locked, now, dead) = lock_lost(&mut tx, slack, limit).await?;
        let lost = locked.len();
        let changed = self
            .apply_to(&mut tx, locked, now, |execution, _| match execution.lease() {
                Some(lease) if dead.contains(&execution.id) => {
                    Event::LeaseExpired { session_id: lease.session_id, epoch: execution.epoch }
                }
                _ => Event::TimedOut { epoch: execution.epoch },
            })
            .await?;
        let late = lock_unstarted(&mut tx, limit.saturating_sub(changed.len())).await?;
        let unstarted = self.apply_to(&mut tx, late, now, |_, _| Event::StartDeadlinePassed).await?;
        let next: Option<DateTime<Utc>> = sqlx::query_scalar(concat!(
            "select least(
                (select min(start_by) from live_executions where start_by is not null and state = 1 and attempt = 0),
                (select min(expires_at) from agent_sessions),
                (select min(e.deadline) from live_executions e where ",
            leased!("e"),
            ") + $1 * interval '1 microsecond')",
        ))
        .bind(micros(slack))
        .fetch_one(&mut *tx)
        .await?;
        commit(tx).await?;
        let executions = changed.into_iter().filter_map(|(before, after)| Some((lease_of(&before)?, after))).collect();
        // A full batch means that there may be more to take back at once.
        let is_full = lost + unstarted.len() >= limit;
        let unstarted = unstarted.into_iter().map(|(_, after)| after).collect();
        Ok(Reaped { sessions, executions, unstarted, next: if is_full { Some(now) } else { next } })
    }
}

/// The lease that an execution holds.
pub(super) fn lease_of(execution: &Execution) -> Option<Held> {
    let lease = execution.lease()?;
    Some(Held { session_id: lease.session_id, execution_id: execution.id, epoch: execution.epoch })
}

pub(super) fn held(row: &PgRow) -> Result<Held> {
    Ok(Held { session_id: row.try_get("session_id")?, execution_id: row.try_get("id")?, epoch: row.try_get("epoch")? })
}

async fn end_sessions(tx: &mut PgConnection, limit: usize) -> Result<Vec<Uuid>> {
    Ok(sqlx::query_scalar(
        "delete from agent_sessions where id in (
            select id from agent_sessions where expires_at <= statement_timestamp() order by id limit $1 for update skip locked)
         returning id",
    )
    .bind(limited(limit))
    .fetch_all(tx)
    .await?)
}

/// Leases whose session is over or whose time is up, locked, the clock, and which of them have lost their session. There are never more
/// leases than the agents have slots, so they are looked through without an index on deadlines, which every start would have to move.
async fn lock_lost(
    tx: &mut PgConnection,
    slack: Duration,
    limit: usize,
) -> Result<(Vec<Locked>, DateTime<Utc>, HashSet<Uuid>)> {
    let found = sqlx::query(concat!(
        "select ",
        live_columns!(),
        ", not exists (select 1 from agent_sessions s where s.id = e.session_id) as is_dead
         from live_executions e join scheduled_jobs j on j.id = e.job_id
         where ",
        leased!("e"),
        " and (e.deadline < statement_timestamp() - $1 * interval '1 microsecond'
            or not exists (select 1 from agent_sessions s where s.id = e.session_id))
         order by e.id limit $2 for update of e skip locked"
    ))
    .bind(micros(slack))
    .bind(limited(limit))
    .fetch_all(&mut *tx)
    .await?;
    let mut dead = HashSet::new();
    for row in &found {
        if row.try_get("is_dead")? {
            dead.insert(row.try_get("id")?);
        }
    }
    let locked = found.iter().map(Locked::of).collect::<Result<_>>()?;
    Ok((locked, super::clock(tx).await?, dead))
}

/// What nobody has begun by its start deadline, locked.
async fn lock_unstarted(tx: &mut PgConnection, limit: usize) -> Result<Vec<Locked>> {
    let found = sqlx::query(concat!(
        "select ",
        live_columns!(),
        " from live_executions e join scheduled_jobs j on j.id = e.job_id
         where e.start_by <= statement_timestamp() and e.state = 1 and e.attempt = 0
         order by e.start_by limit $1 for update of e skip locked"
    ))
    .bind(limited(limit))
    .fetch_all(tx)
    .await?;
    found.iter().map(Locked::of).collect()
}
