//! Executions that somebody asked for, all or none.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use orrery_proto::v1::JobStatus;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::audit::note;
use super::commit::commit;
use super::idempotency::{Keyed, give_back, reserve};
use super::lanes::Wanted;
use super::release::{count, loads};
use super::rows::job_columns;
use super::{PgStore, insert, rows, write};
use crate::error::Error;
use crate::execution::{Execution, State};
use crate::firing::counts_active;
use crate::job::Job;
use crate::store::{AuditEntry, DecideTrigger, Idempotency, Result, StoreError, Trigger};

/// What becomes of triggers that are made beside each other.
pub(super) struct Outcomes {
    /// By trigger; `None` for one that must be asked for again, alone: the one before it with its key was refused.
    pub answers: Vec<Option<Result<Execution>>>,
    /// The jobs that were locked, as they stood before.
    pub jobs: HashMap<Uuid, Job>,
}

/// What is decided on.
struct Known {
    now: DateTime<Utc>,
    keyed: Keyed,
    jobs: HashMap<Uuid, Job>,
}

impl PgStore {
    /// `ids` are those of the first try, for all that follow it.
    pub(super) async fn try_trigger(
        &self,
        triggers: &[Trigger],
        decide: &DecideTrigger<'_>,
        ids: &mut Option<Vec<Uuid>>,
    ) -> Result<Vec<Execution>> {
        let mut tx = self.begin_all(triggers.iter().map(|trigger| trigger.tenant)).await?;
        match self.trigger_in(&mut tx, triggers, decide, ids).await {
            Ok(made) => commit(tx).await.map(|()| made),
            Err(refused) => {
                // Now: a transaction that is dropped ends a moment later, and until then others pass its jobs over.
                tx.rollback().await?;
                Err(refused)
            }
        }
    }

    /// Makes executions in a transaction that does more than that. With an error the transaction is to be rolled back.
    pub(super) async fn trigger_in(
        &self,
        tx: &mut PgConnection,
        triggers: &[Trigger],
        decide: &DecideTrigger<'_>,
        ids: &mut Option<Vec<Uuid>>,
    ) -> Result<Vec<Execution>> {
        let known = self.known_of(tx, triggers, ids).await?;
        known.keyed.check()?;
        let decided = self.decided(tx, triggers, &known, decide).await?;
        let fresh = decided.into_iter().flatten().collect::<Result<Vec<_>>>()?;
        self.write_fresh(tx, triggers, &fresh, &known).await?;
        if fresh.len() == triggers.len() {
            return Ok(fresh);
        }
        let made = with_earlier(tx, fresh, &known.keyed).await?;
        known.keyed.ids.iter().map(|id| made.get(id).cloned().ok_or(StoreError::NotFound)).collect()
    }

    /// Makes those executions that are not refused.
    pub(super) async fn trigger_each_in(
        &self,
        tx: &mut PgConnection,
        triggers: &[Trigger],
        decide: &DecideTrigger<'_>,
        ids: &mut Option<Vec<Uuid>>,
    ) -> Result<Outcomes> {
        let known = self.known_of(tx, triggers, ids).await?;
        let mut decided = self.decided(tx, triggers, &known, decide).await?;
        let fresh: Vec<Execution> =
            decided.iter_mut().filter_map(|one| one.take_if(|made| made.is_ok())?.ok()).collect();
        self.write_fresh(tx, triggers, &fresh, &known).await?;
        let refused = |index: &usize| matches!(decided[*index], Some(Err(_)));
        let refused: Vec<usize> = (0..triggers.len()).filter(refused).collect();
        give_back_keys(tx, triggers, &known.keyed, &refused).await?;
        let gone: HashSet<Uuid> = refused.iter().map(|index| known.keyed.ids[*index]).collect();
        let made = with_earlier(tx, fresh, &known.keyed).await?;
        let answer = |(index, decided): (usize, Option<Result<Execution>>)| {
            let id = known.keyed.ids[index];
            match decided {
                Some(refused) => Some(refused),
                None if gone.contains(&id) => None,
                None if known.keyed.reused.contains(&index) => Some(Err(StoreError::IdempotencyKeyReused { index })),
                None => Some(made.get(&id).cloned().ok_or(StoreError::NotFound)),
            }
        };
        Ok(Outcomes { answers: decided.into_iter().enumerate().map(answer).collect(), jobs: known.jobs })
    }

    /// Locks what is decided on: first the keys, then the jobs.
    async fn known_of(
        &self,
        tx: &mut PgConnection,
        triggers: &[Trigger],
        ids: &mut Option<Vec<Uuid>>,
    ) -> Result<Known> {
        let is_repeat = ids.is_some();
        let mut propose = |now| ids.get_or_insert_with(|| write::ids(triggers.len(), now)).clone();
        let wanted = |fresh: &dyn Fn(usize) -> bool| -> Vec<Uuid> {
            let jobs: HashSet<Uuid> =
                triggers.iter().enumerate().filter(|(index, _)| fresh(*index)).map(|(_, t)| t.job).collect();
            jobs.into_iter().collect()
        };
        let (now, mut keyed, jobs) = if triggers.iter().all(|trigger| trigger.idempotency.is_none()) {
            let (now, jobs) = self.lock_triggered(tx, wanted(&|_| true)).await?;
            (now, Keyed::without_keys(propose(now)), jobs)
        } else {
            let now = super::clock(tx).await?;
            let items: Vec<(Uuid, Option<&Idempotency>)> =
                triggers.iter().map(|t| (t.tenant, t.idempotency.as_ref())).collect();
            let keyed = reserve(tx, "execution", &items, propose(now), now).await?;
            let (_, jobs) = self.lock_triggered(tx, wanted(&|index| keyed.fresh[index])).await?;
            (now, keyed, jobs)
        };
        if is_repeat {
            // After the locks of the jobs, which a lost transaction holds to its end.
            let made = super::reads::by_ids(tx, &keyed.ids).await?;
            keyed.are_made(&made.iter().map(|execution| execution.id).collect());
        }
        Ok(Known { now, keyed, jobs })
    }

    /// Locks jobs, in the order of their ids. The clock is read once that is done.
    async fn lock_triggered(
        &self,
        tx: &mut PgConnection,
        wanted: Vec<Uuid>,
    ) -> Result<(DateTime<Utc>, HashMap<Uuid, Job>)> {
        let found = sqlx::query(concat!(
            "with held as materialized (select ",
            job_columns!(),
            " from scheduled_jobs j where j.id = any($1) and j.deleted_at is null order by j.id for no key update of j)
             select held.*, clock_timestamp() as now from held"
        ))
        .bind(wanted)
        .fetch_all(&mut *tx)
        .await?;
        let now = match found.last() {
            Some(last) => last.try_get("now")?,
            None => super::clock(tx).await?,
        };
        let jobs = found.iter().map(|row| rows::job(row, &self.inner.specs).map(|job| (job.id, job)));
        Ok((now, jobs.collect::<Result<_>>()?))
    }

    /// Decides over the new ones, in order; `None` for those that are not new.
    async fn decided(
        &self,
        tx: &mut PgConnection,
        triggers: &[Trigger],
        known: &Known,
        decide: &DecideTrigger<'_>,
    ) -> Result<Vec<Option<Result<Execution>>>> {
        let counted = known.jobs.values().filter(|job| counts_active(&job.spec));
        let active = loads(tx, counted.map(|job| (job.tenant_id, job.id))).await?;
        let lanes = self.lanes_of(tx, &known.jobs).await?;
        let mut turn = Turn { known, decide, lanes, begun: HashMap::new(), active };
        let fresh = triggers.iter().zip(&known.keyed.fresh).enumerate();
        Ok(fresh.map(|(index, (trigger, fresh))| fresh.then(|| turn.take(index, trigger))).collect())
    }

    /// The lanes of jobs, by job.
    async fn lanes_of(&self, tx: &mut PgConnection, jobs: &HashMap<Uuid, Job>) -> Result<HashMap<Uuid, i64>> {
        let wanted: Vec<Wanted> = jobs.values().map(|job| Wanted::of(job.tenant_id, &job.spec)).collect();
        Ok(jobs.keys().copied().zip(self.inner.lanes.ids(tx, &wanted).await?).collect())
    }

    /// Inserts what is new, writes down who asked for it, and counts it.
    async fn write_fresh(
        &self,
        tx: &mut PgConnection,
        triggers: &[Trigger],
        fresh: &[Execution],
        known: &Known,
    ) -> Result<()> {
        insert::insert_asked(tx, fresh).await?;
        let made: HashSet<Uuid> = fresh.iter().map(|execution| execution.id).collect();
        let asked = triggers.iter().zip(known.keyed.ids.iter().copied()).filter(|(_, id)| made.contains(id));
        let name = |job| known.jobs.get(&job).map(|job| job.spec.name.clone()).unwrap_or_default();
        note(tx, &AuditEntry::of_triggers(asked, name)).await?;
        let mut counted: HashMap<Uuid, i64> = HashMap::new();
        for execution in fresh.iter().filter(|e| e.state == State::Pending) {
            *counted.entry(execution.job_id).or_default() += 1;
        }
        let counted: Vec<(&Job, i64)> =
            counted.iter().filter_map(|(id, more)| known.jobs.get(id).map(|job| (job, *more))).collect();
        count(tx, &counted, known.now).await
    }
}

/// The decisions of one transaction, one after the other: what is made counts for what follows.
struct Turn<'a> {
    known: &'a Known,
    decide: &'a DecideTrigger<'a>,
    lanes: HashMap<Uuid, i64>,
    /// Made here, by job.
    begun: HashMap<Uuid, i64>,
    active: HashMap<Uuid, (i64, i64)>,
}

impl Turn<'_> {
    fn take(&mut self, index: usize, trigger: &Trigger) -> Result<Execution> {
        let refused = |reason: Error| StoreError::TriggerRefused { index, job: trigger.job, reason: Box::new(reason) };
        let found = self.known.jobs.get(&trigger.job).filter(|job| job.tenant_id == trigger.tenant);
        let job = found.ok_or_else(|| refused(Error::job_not_found(trigger.job)))?;
        let begun = self.begun.entry(job.id).or_default();
        let active = self.active.get(&job.id).map_or(0, |(active, _)| *active);
        match job.spec.max_executions {
            // What this call has made is its last: it is inactive once that is counted.
            Some(most) if *begun > 0 && job.execution_count + *begun >= most => {
                (self.decide)(&Job { status: JobStatus::Inactive, ..job.clone() }, active, trigger)
            }
            _ => (self.decide)(job, active, trigger),
        }
        .map_err(refused)?;
        let lane = self.lanes.get(&job.id).copied().ok_or(StoreError::NotFound)?;
        let execution = trigger.execution(self.known.keyed.ids[index], job, lane, self.known.now);
        if execution.is_active() {
            *begun += 1;
            if let Some((active, _)) = self.active.get_mut(&job.id) {
                *active += 1;
            }
        }
        Ok(execution)
    }
}

/// What was made now and what earlier calls had made, by id.
async fn with_earlier(tx: &mut PgConnection, fresh: Vec<Execution>, keyed: &Keyed) -> Result<HashMap<Uuid, Execution>> {
    let mut known: HashMap<Uuid, Execution> = fresh.into_iter().map(|e| (e.id, e)).collect();
    let earlier: Vec<Uuid> = keyed.ids.iter().filter(|id| !known.contains_key(id)).copied().collect();
    if !earlier.is_empty() {
        known.extend(super::reads::by_ids(tx, &earlier).await?.into_iter().map(|e| (e.id, e)));
    }
    Ok(known)
}

/// Gives back the keys of triggers that were refused: they may be used again.
async fn give_back_keys(tx: &mut PgConnection, triggers: &[Trigger], keyed: &Keyed, refused: &[usize]) -> Result<()> {
    let of = |index: &usize| {
        let trigger = &triggers[*index];
        Some(((trigger.tenant, trigger.idempotency.as_ref()?), keyed.ids[*index]))
    };
    let (items, proposed): (Vec<_>, Vec<_>) = refused.iter().filter_map(of).unzip();
    give_back(tx, "execution", &items, &proposed).await
}
