//! Executions that somebody asked for.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use super::audit::note;
use super::counts::{count_one, load_of};
use super::{SqliteStore, Work, executions, jobs};
use crate::execution::{Execution, State, manual_id};
use crate::firing;
use crate::job::Job;
use crate::store::{AuditEntry, DecideTrigger, Made, Result, StoreError, Trigger};

impl SqliteStore {
    /// Makes executions in a transaction that may do more than that.
    pub(super) async fn trigger_in(
        &self,
        work: &mut Work,
        triggers: Vec<Trigger>,
        decide: &DecideTrigger<'_>,
    ) -> Result<Vec<Execution>> {
        let mut loads = BTreeMap::new();
        let mut made = Vec::with_capacity(triggers.len());
        let mut asked = Asked::default();
        for (index, trigger) in triggers.iter().enumerate() {
            made.push(make_one(work, index, trigger, decide, (&mut loads, &mut asked)).await?);
        }
        asked.note(work, &triggers).await?;
        Ok(made)
    }

    /// Makes executions, each with its answer, in one transaction, and no lease in it: here a claim costs as little.
    pub(super) async fn trigger_all(
        &self,
        triggers: Vec<Trigger>,
        decide: &DecideTrigger<'_>,
    ) -> Result<Vec<Result<Made>>> {
        let mut work = self.write().await?;
        let (mut loads, mut asked) = (BTreeMap::new(), Asked::default());
        let mut answers = Vec::with_capacity(triggers.len());
        for (index, trigger) in triggers.iter().enumerate() {
            // Whatever is refused is refused before anything of it is written.
            match make_one(&mut work, index, trigger, decide, (&mut loads, &mut asked)).await {
                Err(error) if !is_refusal(&error) => return Err(error),
                made => answers.push(made.map(Made::from)),
            }
        }
        asked.note(&mut work, &triggers).await?;
        work.commit().await?;
        Ok(answers)
    }
}

/// Makes what a trigger asks for, or finds what its key has made. `loads` are the active executions of jobs, those of this transaction among
/// them.
async fn make_one(
    work: &mut Work,
    index: usize,
    trigger: &Trigger,
    decide: &DecideTrigger<'_>,
    (loads, asked): (&mut BTreeMap<Uuid, i64>, &mut Asked),
) -> Result<Execution> {
    let earlier = jobs::replay(work, trigger.tenant, "execution", trigger.idempotency.as_ref(), index).await?;
    if let Some(earlier) = earlier
        && let Some(execution) = executions::any(&mut work.tx, earlier).await?
    {
        return Ok(execution);
    }
    let refused = |reason| StoreError::TriggerRefused { index, job: trigger.job, reason: Box::new(reason) };
    let job = jobs::of_tenant(&mut work.tx, trigger.tenant, trigger.job)
        .await?
        .ok_or_else(|| refused(crate::error::Error::job_not_found(trigger.job)))?;
    let load = match loads.get(&job.id) {
        Some(load) => *load,
        None if firing::counts_active(&job.spec) => load_of(work, job.id).await?.0,
        None => 0,
    };
    decide(&job, load, trigger).map_err(refused)?;
    let execution = make(work, &job, trigger).await?;
    asked.made.push((index, execution.id));
    asked.names.insert(job.id, job.spec.name.clone());
    if firing::counts_active(&job.spec) {
        loads.insert(job.id, load + i64::from(execution.is_active()));
    }
    Ok(execution)
}

/// What was made of triggers, for the audit log.
#[derive(Default)]
struct Asked {
    /// (trigger, execution).
    made: Vec<(usize, Uuid)>,
    /// Of jobs.
    names: HashMap<Uuid, String>,
}

impl Asked {
    async fn note(&self, work: &mut Work, triggers: &[Trigger]) -> Result<()> {
        let made = self.made.iter().map(|(index, execution)| (&triggers[*index], *execution));
        let name = |job| self.names.get(&job).cloned().unwrap_or_default();
        note(work, &AuditEntry::of_triggers(made, name)).await
    }
}

/// Whether an error is the answer to one trigger, and not the database's.
fn is_refusal(error: &StoreError) -> bool {
    matches!(error, StoreError::TriggerRefused { .. } | StoreError::IdempotencyKeyReused { .. })
}

async fn make(work: &mut Work, job: &Job, trigger: &Trigger) -> Result<Execution> {
    let id = manual_id(work.now);
    let lane = jobs::lane_of(&mut work.tx, job.id).await?;
    let made = trigger.execution(id, job, lane, work.now);
    executions::insert(&mut work.tx, &made).await?;
    jobs::remember(work, trigger.tenant, "execution", trigger.idempotency.as_ref(), id).await?;
    if made.state == State::Pending {
        count_one(work, job.id).await?;
    }
    Ok(made)
}
