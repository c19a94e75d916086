//! [`Fires`].

use std::time::Duration;

use async_trait::async_trait;

use super::commit::{Tries, in_time};
use super::leases::LEASES_ASKED;
use super::{PgStore, lanes, retried};
use crate::execution::Execution;
use crate::store::{
    Arm, Armed, Assign, AtOnce, DecideArm, DecideDue, DecidePlan, DecideTrigger, Fires, Lane, Made, Places, Planned,
    Releases, Result, Trigger,
};

#[async_trait]
impl Fires for PgStore {
    async fn plan_some(&self, ahead: Duration, places: Places, decide: &DecidePlan<'_>) -> Result<Planned> {
        let mut tries = Tries::new(&self.inner.evict);
        let planned = retried!(self, tries, self.try_plan(ahead, places, decide));
        self.tell_of_lost(&tries);
        planned
    }

    async fn release_within(&self, places: Places, hourly: i64, decide: &DecideDue<'_>) -> Result<Releases> {
        let mut tries = Tries::new(&self.inner.evict);
        let done = retried!(self, tries, self.try_release(places, hourly, decide));
        self.tell_of_lost(&tries);
        done
    }

    async fn arm(&self, arm: &Arm<'_>, decide: &DecideArm<'_>, assign: &Assign<'_>) -> Result<Armed> {
        let mut said = None;
        // As with claims: what is granted and not handed over would be nobody's.
        let mut tries = Tries::new(&self.inner.evict).patient(LEASES_ASKED);
        retried!(self, tries, self.try_arm(arm, decide, assign, &mut said))
    }

    async fn trigger(&self, triggers: Vec<Trigger>, decide: &DecideTrigger<'_>) -> Result<Vec<Execution>> {
        if triggers.is_empty() {
            return Ok(Vec::new());
        }
        let mut ids = None;
        retried!(self, self.try_trigger(&triggers, decide, &mut ids))
    }

    async fn trigger_each(
        &self,
        triggers: Vec<Trigger>,
        decide: &DecideTrigger<'_>,
        at_once: Option<AtOnce<'_>>,
    ) -> Result<Vec<Result<Made>>> {
        self.each(triggers, decide, at_once).await
    }

    async fn lanes_after(&self, id: i64) -> Result<Vec<Lane>> {
        in_time(lanes::after(self.pool(), id)).await
    }
}
