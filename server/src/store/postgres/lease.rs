//! How leases that have just been granted are written.
//!
//! What one claim grants to one session, of one version of a job, differs in nothing but the row: such leases are written by constants, at the
//! places that their locks have told. The others are written as a set that says each.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::apply::Locked;
use super::place::Place;
use super::rows;
use super::write::{self, plain};
use crate::execution::{Execution, Lease};
use crate::store::Result;

/// Fewer alike are not worth a statement of their own.
const ALIKE: usize = 8;

/// What leases have in common that are written together.
type Alike<'a> = (Uuid, &'a str, DateTime<Utc>, DateTime<Utc>, i64);

/// Writes the leases of executions that have just been granted, whose locks the caller holds: only what a grant changes. Each comes with what
/// it was before.
pub(super) async fn write(tx: &mut PgConnection, granted: &[(&Locked, &Execution)]) -> Result<()> {
    let mut groups: HashMap<Alike<'_>, Vec<(Place, &Execution)>> = HashMap::new();
    let mut others: Vec<&Execution> = Vec::new();
    for (before, after) in granted {
        match alike(before, after) {
            Some((key, place)) => groups.entry(key).or_default().push((place, after)),
            None => others.push(after),
        }
    }
    for (key, group) in groups {
        if group.len() < ALIKE {
            others.extend(group.into_iter().map(|(_, execution)| execution));
        } else {
            write_alike(tx, key, group.into_iter().map(|(place, _)| place).collect()).await?;
        }
    }
    write::grant(tx, &others).await
}

/// What it has in common with others, and its place, where the grant was a step as nearly all are.
fn alike<'a>(before: &Locked, after: &'a Execution) -> Option<(Alike<'a>, Place)> {
    let Lease { session_id, worker_name, granted_at, started_at, deadline } = after.lease()?;
    let was = &before.execution;
    let is_a_step = after.epoch == was.epoch + 1
        && after.attempt == was.attempt + 1
        && after.run_at == was.run_at
        && after.progress == 0
        && started_at.is_none();
    let key = (*session_id, worker_name.as_str(), *granted_at, *deadline, after.job_version);
    Some((key, before.place.filter(|_| is_a_step)?))
}

async fn write_alike(tx: &mut PgConnection, alike: Alike<'_>, places: Vec<Place>) -> Result<()> {
    let (session_id, worker_name, granted_at, deadline, job_version) = alike;
    let wanted = places.len() as u64;
    // `+`: no index of what waits is to look better than the places.
    let written = sqlx::query(
        "update live_executions e set state = 2, progress = 0, attempt = e.attempt + 1, epoch = e.epoch + 1, job_version = $1,
            session_id = $2, worker_name = $3, granted_at = $4, started_at = null, deadline = $5
         where e.ctid = any($6) and +e.state = 1",
    )
    .bind(job_version)
    .bind(session_id)
    .bind(plain(worker_name))
    .bind(granted_at)
    .bind(deadline)
    .bind(places)
    .execute(tx)
    .await?
    .rows_affected();
    // Under their locks none can have gone elsewhere. If one had, nobody would hold a lease that an agent believes to have.
    if written == wanted {
        Ok(())
    } else {
        Err(rows::corrupt("live_executions", "ctid", "elsewhere, in spite of a lock"))
    }
}
