use async_trait::async_trait;
use tokio::time::sleep_until;

use super::{Fault, Figure, Notes, Stage};
use crate::checks::Promises;
use crate::error::Result;
use crate::evidence::{Evidence, percentile};
use crate::world::Config;

/// Wall clocks an hour off, ahead and behind, of coordinators and agents.
pub(super) struct Skew;

#[async_trait(?Send)]
impl Fault for Skew {
    fn name(&self) -> &'static str {
        "clocks"
    }

    fn goal(&self) -> &'static str {
        "no early fire, no false expiry"
    }

    fn configure(&self, config: &mut Config) {
        config.skewed_coordinators = vec![(0, "+1h"), (1, "-1h")];
        config.skewed_agents = vec![(0, "+1h"), (1, "-1h")];
        // What is measured is the clocks, not whether a busy machine keeps short sessions alive.
        config.ttl = config.ttl.max(std::time::Duration::from_secs(10));
    }

    fn promises(&self) -> Promises {
        Promises { lossless: true }
    }

    async fn inject(&self, stage: &mut Stage<'_>) -> Result<()> {
        stage.notes.injections = 4;
        sleep_until(stage.until).await;
        Ok(())
    }

    fn figure(&self, evidence: &Evidence, _: &Notes) -> Figure {
        let lags = evidence.lags(|_| true);
        let lost: i32 = evidence.past.iter().map(|past| past.losses).sum();
        let (earliest, most) = (percentile(&lags, 0.0), percentile(&lags, 99.0));
        let text = format!("earliest {earliest} ms after its instant, p99 {most} ms; {lost} leases lost");
        Figure { text, met: earliest >= 0 && lost == 0 && most < 3000 }
    }
}
