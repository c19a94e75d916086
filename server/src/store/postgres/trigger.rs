//! Executions that somebody asked for.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use orrery_proto::v1::JobStatus;
use sqlx::PgConnection;
use uuid::Uuid;

use super::commit::commit;
use super::idempotency::{Keyed, reserve};
use super::lanes::Wanted;
use super::release::{count, loads};
use super::rows::job_columns;
use super::{PgStore, rows, write};
use crate::error::Error;
use crate::execution::{Execution, State};
use crate::job::Job;
use crate::store::{DecideTrigger, Idempotency, Result, StoreError, Trigger};

impl PgStore {
    /// `ids` are those of the first try, for all that follow it.
    pub(super) async fn try_trigger(
        &self,
        triggers: &[Trigger],
        decide: &DecideTrigger<'_>,
        ids: &mut Option<Vec<Uuid>>,
    ) -> Result<Vec<Execution>> {
        let mut tx = self.begin().await?;
        match self.trigger_in(&mut tx, triggers, decide, ids).await {
            Ok(made) => commit(tx).await.map(|()| made),
            Err(refused) => {
                // Now: a transaction that is dropped ends a moment later, and until then others pass its jobs over.
                tx.rollback().await?;
                Err(refused)
            }
        }
    }

    /// Makes executions in a transaction that does more than that.
    pub(super) async fn trigger_in(
        &self,
        tx: &mut PgConnection,
        triggers: &[Trigger],
        decide: &DecideTrigger<'_>,
        ids: &mut Option<Vec<Uuid>>,
    ) -> Result<Vec<Execution>> {
        let now = super::clock(tx).await?;
        let items: Vec<(Uuid, Option<&Idempotency>)> =
            triggers.iter().map(|t| (t.tenant, t.idempotency.as_ref())).collect();
        let is_repeat = ids.is_some();
        let proposed = ids.get_or_insert_with(|| write::ids(triggers.len(), now)).clone();
        let mut keyed = reserve(tx, "execution", &items, proposed, now).await?;
        let jobs = self.lock_triggered(tx, triggers, &keyed).await?;
        if is_repeat {
            // After the locks of the jobs, which a lost transaction holds to its end.
            let made = super::reads::by_ids(tx, &keyed.ids).await?;
            keyed.are_made(&made.iter().map(|execution| execution.id).collect());
        }
        let fresh = self.made(tx, triggers, &keyed, &jobs, decide, now).await?;
        write::insert(tx, &fresh).await?;
        let mut counted: HashMap<Uuid, i64> = HashMap::new();
        for execution in fresh.iter().filter(|e| e.state == State::Pending) {
            *counted.entry(execution.job_id).or_default() += 1;
        }
        let counted: Vec<(&Job, i64)> =
            counted.iter().filter_map(|(id, more)| jobs.get(id).map(|job| (job, *more))).collect();
        count(tx, &counted, now).await?;
        let known = self.with_earlier(tx, fresh, &keyed).await?;
        keyed.ids.iter().map(|id| known.get(id).cloned().ok_or(StoreError::NotFound)).collect()
    }

    async fn lock_triggered(
        &self,
        tx: &mut PgConnection,
        triggers: &[Trigger],
        keyed: &Keyed,
    ) -> Result<HashMap<Uuid, Job>> {
        let wanted: Vec<Uuid> = triggers.iter().zip(&keyed.fresh).filter(|(_, f)| **f).map(|(t, _)| t.job).collect();
        let found = sqlx::query(concat!(
            "select ",
            job_columns!(),
            " from scheduled_jobs j where j.id = any($1) and j.deleted_at is null order by j.id for no key update of j"
        ))
        .bind(wanted)
        .fetch_all(tx)
        .await?;
        found.iter().map(|row| rows::job(row, &self.inner.specs).map(|job| (job.id, job))).collect()
    }

    /// Decides over the new ones, in order, and makes them.
    async fn made(
        &self,
        tx: &mut PgConnection,
        triggers: &[Trigger],
        keyed: &Keyed,
        jobs: &HashMap<Uuid, Job>,
        decide: &DecideTrigger<'_>,
        now: DateTime<Utc>,
    ) -> Result<Vec<Execution>> {
        let mut active = loads(tx, jobs.values().map(|job| (job.tenant_id, job.id))).await?;
        let mut begun: HashMap<Uuid, i64> = HashMap::new();
        let mut made = Vec::new();
        let mut wanted = Vec::new();
        for (index, trigger) in triggers.iter().enumerate().filter(|(index, _)| keyed.fresh[*index]) {
            let refused =
                |reason: Error| StoreError::TriggerRefused { index, job: trigger.job, reason: Box::new(reason) };
            let job = jobs
                .get(&trigger.job)
                .filter(|job| job.tenant_id == trigger.tenant)
                .ok_or_else(|| refused(Error::job_not_found(trigger.job)))?;
            let (active, _) = active.entry(job.id).or_default();
            let begun = begun.entry(job.id).or_default();
            match job.spec.max_executions {
                // What this call has made is its last: it is inactive once that is counted.
                Some(most) if *begun > 0 && job.execution_count + *begun >= most => {
                    decide(&Job { status: JobStatus::Inactive, ..job.clone() }, *active, trigger)
                }
                _ => decide(job, *active, trigger),
            }
            .map_err(refused)?;
            // Its lane is known once those of all are.
            let execution = trigger.execution(keyed.ids[index], job, 0, now);
            if execution.is_active() {
                *active += 1;
                *begun += 1;
            }
            wanted.push(Wanted::of(job.tenant_id, &job.spec));
            made.push(execution);
        }
        let lanes = self.inner.lanes.ids(tx, &wanted).await?;
        for (execution, lane) in made.iter_mut().zip(lanes) {
            execution.lane_id = lane;
        }
        Ok(made)
    }

    /// What was made now and what earlier calls had made, by id.
    async fn with_earlier(
        &self,
        tx: &mut PgConnection,
        fresh: Vec<Execution>,
        keyed: &Keyed,
    ) -> Result<HashMap<Uuid, Execution>> {
        let mut known: HashMap<Uuid, Execution> = fresh.into_iter().map(|e| (e.id, e)).collect();
        let earlier: Vec<Uuid> = keyed.ids.iter().filter(|id| !known.contains_key(id)).copied().collect();
        if !earlier.is_empty() {
            known.extend(super::reads::by_ids(tx, &earlier).await?.into_iter().map(|e| (e.id, e)));
        }
        Ok(known)
    }
}
