use async_trait::async_trait;
use tokio::time::sleep_until;

use super::{Fault, Figure, Notes, Stage, lag};
use crate::checks::Promises;
use crate::error::Result;
use crate::evidence::Evidence;

/// Nothing is done: what is found wrong here is wrong without any fault.
pub(super) struct None;

#[async_trait(?Send)]
impl Fault for None {
    fn name(&self) -> &'static str {
        "none"
    }

    fn goal(&self) -> &'static str {
        "lag p99 < 1 s"
    }

    fn promises(&self) -> Promises {
        Promises { lossless: true }
    }

    async fn inject(&self, stage: &mut Stage<'_>) -> Result<()> {
        sleep_until(stage.until).await;
        Ok(())
    }

    fn figure(&self, evidence: &Evidence, _: &Notes) -> Figure {
        lag(evidence, 1000)
    }
}
