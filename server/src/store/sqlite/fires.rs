//! From schedules to executions.

use std::time::Duration;

use async_trait::async_trait;

use super::{SqliteStore, rows};
use crate::execution::Execution;
use crate::store::{
    Arm, Armed, Assign, AtOnce, DecideArm, DecideDue, DecidePlan, DecideTrigger, Fires, Lane, Made, Places, Planned,
    Releases, Result, Trigger,
};

#[async_trait]
impl Fires for SqliteStore {
    async fn plan_some(&self, ahead: Duration, places: Places, decide: &DecidePlan<'_>) -> Result<Planned> {
        self.plan_round(ahead, places, decide).await
    }

    async fn release_within(&self, places: Places, hourly: i64, decide: &DecideDue<'_>) -> Result<Releases> {
        self.release_round(places, hourly, decide).await
    }

    async fn arm(&self, arm: &Arm<'_>, decide: &DecideArm<'_>, assign: &Assign<'_>) -> Result<Armed> {
        let mut work = self.write().await?;
        let armed = self.arm_in(&mut work, arm, decide, assign).await?;
        work.commit().await?;
        Ok(armed)
    }

    async fn trigger(&self, triggers: Vec<Trigger>, decide: &DecideTrigger<'_>) -> Result<Vec<Execution>> {
        let mut work = self.write().await?;
        let made = self.trigger_in(&mut work, triggers, decide).await?;
        work.commit().await?;
        Ok(made)
    }

    async fn trigger_each(
        &self,
        triggers: Vec<Trigger>,
        decide: &DecideTrigger<'_>,
        _: Option<AtOnce<'_>>,
    ) -> Result<Vec<Result<Made>>> {
        self.trigger_all(triggers, decide).await
    }

    async fn lanes_after(&self, id: i64) -> Result<Vec<Lane>> {
        let found = sqlx::query("select id, tenant_id, queue, executor, selector from lanes where id > ? order by id")
            .bind(id)
            .fetch_all(&self.readers)
            .await?;
        found.iter().map(rows::lane).collect()
    }
}
