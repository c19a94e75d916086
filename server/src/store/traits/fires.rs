use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::error::Error;
use crate::execution::Execution;
use crate::job::Job;
use crate::store::*;

/// From schedules to executions.
#[async_trait]
pub trait Fires: Send + Sync {
    /// Locks jobs whose cursor lies before now + `ahead` (skipping those that another coordinator has locked), lets `decide` say which
    /// fires to make, and in one transaction inserts their executions (state Scheduled) and moves the cursors on. Jobs whose cursor is late
    /// are handed to `decide` after the others. A job that cannot be read is put off, with an omission, and holds nobody up.
    async fn plan_some(&self, ahead: Duration, places: Places, decide: &DecidePlan<'_>) -> Result<Planned>;

    /// The same, with half of the places for what is late.
    async fn plan(&self, ahead: Duration, limit: usize, decide: &DecidePlan<'_>) -> Result<Planned> {
        self.plan_some(ahead, Places::of(limit), decide).await
    }

    /// Executions whose `run_at` has come become Pending, or, for fires that `decide` omits, an omission. Counts the executions of their
    /// jobs; a job that has reached its maximum, or has nothing left to fire, becomes inactive. What is late gets half of the places at
    /// most. What cannot be read is put off for a minute.
    async fn release(&self, limit: usize, decide: &DecideDue<'_>) -> Result<Releases> {
        self.release_within(Places::of(limit), 0, decide).await
    }

    /// The same, where tenants without an hourly quota of their own have this one; 0 is none. Fires know what their tenant may still begin,
    /// and those that are admitted are counted.
    async fn release_within(&self, places: Places, hourly: i64, decide: &DecideDue<'_>) -> Result<Releases>;

    /// Grants planned fires ahead of their instant, to sessions that `assign` gives them to: those that `decide` lets, within the limits of
    /// queue, tenant and key, counted as in [`Leases::claim`]. They are counted as executions of their jobs now, unless they were before and
    /// came back. What is not granted stays planned.
    async fn arm(&self, arm: &Arm<'_>, decide: &DecideArm<'_>, assign: &Assign<'_>) -> Result<Armed>;

    /// Makes executions that somebody asked for, all or none: Pending, or Scheduled where their `run_at` lies ahead.
    ///
    /// # Errors
    /// [`StoreError::TriggerRefused`] with the index and what `decide` refused, [`StoreError::IdempotencyKeyReused`].
    async fn trigger(&self, triggers: Vec<Trigger>, decide: &DecideTrigger<'_>) -> Result<Vec<Execution>>;

    /// Makes executions that callers asked for one by one, in as few transactions as it takes. Each has its own answer, in their order, as if
    /// it had come alone: one that is refused does not hinder the others. What nothing limits may be granted in the transaction that
    /// makes it, where `at_once` has a session for it that lives and is on the attachment named.
    ///
    /// # Errors
    /// Of each: [`StoreError::TriggerRefused`], [`StoreError::IdempotencyKeyReused`]. Of all: where the database is away.
    async fn trigger_each(
        &self,
        triggers: Vec<Trigger>,
        decide: &DecideTrigger<'_>,
        at_once: Option<AtOnce<'_>>,
    ) -> Result<Vec<Result<Made>>>;

    /// Lanes with a greater id, by id. Lanes never change and are few. Ids are handed out before they are committed, so that a lane may
    /// appear below one that has been seen: ask from 0 now and then.
    async fn lanes_after(&self, id: i64) -> Result<Vec<Lane>>;
}

/// Decides which fires of a job to make.
pub type DecidePlan<'a> = dyn Fn(&PlanCandidate) -> JobPlan + Send + Sync + 'a;

/// Decides over fires that have come due, in their order. As many verdicts as fires.
pub type DecideDue<'a> = dyn Fn(&[DueFire], DateTime<Utc>) -> Vec<DueVerdict> + Send + Sync + 'a;

/// Decides which planned fires may be granted ahead of their instant. As many answers as fires, in their order.
pub type DecideArm<'a> = dyn Fn(&[DueFire]) -> Vec<bool> + Send + Sync + 'a;

/// Decides whether a job takes a trigger, given the active executions it has with those of the same call. They are counted where they decide
/// (see [`crate::firing::counts_active`]), and 0 elsewhere.
pub type DecideTrigger<'a> = dyn Fn(&Job, i64, &Trigger) -> std::result::Result<(), Error> + Send + Sync + 'a;
