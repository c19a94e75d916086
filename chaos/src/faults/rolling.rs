use async_trait::async_trait;

use super::{Fault, Figure, Notes, Stage, lag, ms};
use crate::checks::Promises;
use crate::error::Result;
use crate::evidence::Evidence;
use crate::world::Config;

/// SIGTERM to every program, one after the other, and a new one in its place.
pub(super) struct Restart;

/// How often all of them are restarted where there is time.
const ROUNDS: u64 = 10;

#[async_trait(?Send)]
impl Fault for Restart {
    fn name(&self) -> &'static str {
        "rolling-restart"
    }

    fn goal(&self) -> &'static str {
        "no loss, no extra attempt, lag p99 < 3 s"
    }

    fn configure(&self, config: &mut Config) {
        config.ttl = config.ttl.max(std::time::Duration::from_secs(10));
    }

    fn promises(&self) -> Promises {
        Promises { lossless: true }
    }

    async fn inject(&self, stage: &mut Stage<'_>) -> Result<()> {
        for _ in 0..ROUNDS {
            for number in 0..stage.world.coordinators.len() {
                if !stage.goes_on() {
                    return Ok(());
                }
                stage.notes.mark(format!("coordinator {number}"));
                if !stage.world.end_coordinator(number).await {
                    stage.notes.wrong.push(format!("coordinator {number} did not end by SIGTERM"));
                }
                stage.world.start_coordinator(number).await?;
                stage.pause(ms(200), ms(1000)).await;
            }
            for number in 0..stage.world.agents.len() {
                if !stage.goes_on() {
                    return Ok(());
                }
                stage.notes.mark(format!("agent {number}"));
                if !stage.world.end_agent(number).await {
                    stage.notes.wrong.push(format!("agent {number} did not end by SIGTERM"));
                }
                stage.world.start_agent(number)?;
                stage.pause(ms(200), ms(1000)).await;
            }
        }
        Ok(())
    }

    fn figure(&self, evidence: &Evidence, _: &Notes) -> Figure {
        let lost: i32 = evidence.past.iter().map(|past| past.losses).sum();
        let lag = lag(evidence, 3000);
        Figure { text: format!("{lost} lost; {}", lag.text), met: lag.met && lost == 0 }
    }
}
