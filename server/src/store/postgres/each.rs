//! Executions that callers asked for one by one, made together.
//!
//! Most of them are [quick](super::at_once): one statement makes them, and waits for nothing. What that cannot decide (keys, limits, a time to
//! come, a job that is new here or locked just now) is made in one transaction, which waits for locks, but not for long: behind a job
//! that somebody holds, nobody else is to wait, so that each is then asked for alone.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use uuid::Uuid;

use super::at_once::Lost;
use super::commit::{Tries, commit};
use super::trigger::Outcomes;
use super::{PgStore, retried};
use crate::execution::{Execution, State};
use crate::store::{AtOnce, DecideTrigger, Fires, Grant, Made, Result, StoreError, Trigger};

/// How long several wait together for a lock.
const A_LOCK: Duration = Duration::from_millis(250);
/// How many are asked for alone at once, so that they do not take all connections.
const ALONE: usize = 4;

type Answers = Vec<Option<Result<Made>>>;

impl PgStore {
    pub(super) async fn each(
        &self,
        triggers: Vec<Trigger>,
        decide: &DecideTrigger<'_>,
        at_once: Option<AtOnce<'_>>,
    ) -> Result<Vec<Result<Made>>> {
        let mut answers: Answers = triggers.iter().map(|_| None).collect();
        let lost = self.make_quickly(&triggers, decide, at_once, &mut answers).await;
        let (rest, left) = left_of(&triggers, &answers);
        if !rest.is_empty() {
            let made = match self.together(&left, decide, lost.map(|lost| lost.of(&rest))).await {
                Err(error) if is_of_one(&error) => {
                    tracing::debug!(%error, "triggers that were made together are made alone");
                    left.iter().map(|_| None).collect()
                }
                made => made?,
            };
            for (index, made) in rest.into_iter().zip(made) {
                answers[index] = made;
            }
        }
        self.alone(&triggers, &mut answers, decide).await;
        Ok(answers.into_iter().map(|answer| answer.unwrap_or(Err(StoreError::NotFound))).collect())
    }

    /// In one transaction; with what is lost, in as many as it takes to learn what became of it.
    async fn together(&self, left: &[Trigger], decide: &DecideTrigger<'_>, lost: Option<Lost>) -> Result<Answers> {
        let mut tries = Tries::new(&self.inner.evict);
        let (mut ids, mut given) = (None, Vec::new());
        if let Some(lost) = lost {
            let estimate = super::at_once::instant(&lost.ids);
            let id = |id: Option<Uuid>| id.unwrap_or_else(|| crate::execution::manual_id(estimate));
            ids = Some(lost.ids.into_iter().map(id).collect());
            given = lost.given;
            tries.after(StoreError::Unknown(lost.error)).await?;
        }
        let outcomes = retried!(self, tries, self.try_each(left, decide, &mut ids))?;
        let granted = |execution: &Execution| {
            given
                .iter()
                .find(|grant: &&Grant| stands(grant, execution))
                .map(|grant| Grant { execution: execution.clone(), ..grant.clone() })
        };
        let made = |execution: Execution| Made { grant: granted(&execution), execution };
        Ok(outcomes.answers.into_iter().map(|answer| answer.map(|answer| answer.map(made))).collect())
    }

    async fn try_each(
        &self,
        triggers: &[Trigger],
        decide: &DecideTrigger<'_>,
        ids: &mut Option<Vec<Uuid>>,
    ) -> Result<Outcomes> {
        let mut tx = self.begin_keyed().await?;
        // A repeat has to wait until the lost transaction is over.
        if ids.is_none() {
            let wait = "select set_config('lock_timeout', $1, true)";
            sqlx::query(wait).bind(format!("{}ms", A_LOCK.as_millis())).execute(&mut *tx).await?;
        }
        match self.trigger_each_in(&mut tx, triggers, decide, ids).await {
            Ok(outcomes) => {
                commit(tx).await?;
                self.learn(&outcomes);
                Ok(outcomes)
            }
            Err(error) => {
                tx.rollback().await?;
                Err(error)
            }
        }
    }

    /// Remembers the jobs of what has been made: the next triggers of them are quick.
    fn learn(&self, outcomes: &Outcomes) {
        for made in outcomes.answers.iter().flatten().flatten() {
            if let Some(job) = outcomes.jobs.get(&made.job_id)
                && self.inner.asked.get(job.tenant_id, job.id).is_none()
            {
                self.inner.asked.put(job.clone(), made.lane_id);
            }
        }
    }

    /// One by one, what has no answer yet.
    async fn alone(&self, triggers: &[Trigger], answers: &mut Answers, decide: &DecideTrigger<'_>) {
        let (rest, left) = left_of(triggers, answers);
        let one = |trigger: Trigger| async move {
            let made = self.trigger(vec![trigger], decide).await?;
            made.into_iter().next().map(Made::from).ok_or(StoreError::NotFound)
        };
        let made: Vec<Result<Made>> = stream::iter(left).map(one).buffered(ALONE).collect().await;
        for (index, made) in rest.into_iter().zip(made) {
            answers[index] = Some(made);
        }
    }
}

/// What has no answer yet.
fn left_of(triggers: &[Trigger], answers: &Answers) -> (Vec<usize>, Vec<Trigger>) {
    let left = triggers.iter().enumerate().filter(|(index, _)| answers[*index].is_none());
    left.map(|(index, trigger)| (index, trigger.clone())).unzip()
}

/// Whether an error may be that of one row, and not of the database: the others need not share it.
fn is_of_one(error: &StoreError) -> bool {
    let is_lock = |error: &sqlx::Error| {
        error.as_database_error().and_then(sqlx::error::DatabaseError::code).as_deref() == Some("55P03")
    };
    match error {
        StoreError::Unavailable(error) => is_lock(error),
        other => !other.is_away(),
    }
}

/// Whether an execution is leased as a lost statement was to lease it: by its first epoch, which nobody else can have granted.
fn stands(grant: &Grant, stored: &Execution) -> bool {
    let wanted = grant.execution.lease().map(|lease| lease.session_id);
    let is_leased = matches!(stored.state, State::Leased(_));
    grant.execution.id == stored.id
        && is_leased
        && stored.epoch == grant.execution.epoch
        && stored.lease().map(|lease| lease.session_id) == wanted
}
