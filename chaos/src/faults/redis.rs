use async_trait::async_trait;
use rand::Rng;
use rustix::process::Signal;
use tokio::time::sleep;

use super::{Fault, Figure, Notes, Stage, lag, ms};
use crate::checks::Promises;
use crate::error::Result;
use crate::evidence::Evidence;
use crate::proxy::Rule;

/// Redis killed, emptied, frozen and cut off.
pub(super) struct Trouble;

#[async_trait(?Send)]
impl Fault for Trouble {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn goal(&self) -> &'static str {
        "as without: lag p99 < 1 s"
    }

    fn promises(&self) -> Promises {
        Promises { lossless: true }
    }

    async fn inject(&self, stage: &mut Stage<'_>) -> Result<()> {
        if !stage.world.has_redis {
            stage.notes.remark = "this build knows no REDIS_URL; ".into();
        }
        while stage.goes_on() {
            let kind = stage.rng.random_range(0..4);
            let pause = stage.rng.random_range(ms(500)..ms(4000));
            stage.notes.mark(kind.to_string());
            match kind {
                0 => {
                    stage.world.redis.kill().await;
                    sleep(pause).await;
                    stage.world.redis.start().await?;
                }
                1 => stage.world.redis.call("FLUSHALL").await?,
                2 => {
                    stage.world.redis.signal(Signal::STOP);
                    sleep(pause).await;
                    stage.world.redis.signal(Signal::CONT);
                }
                _ => {
                    stage.world.coordinators.iter().for_each(|c| c.to_redis.set(Rule::Drop));
                    sleep(pause).await;
                    stage.world.coordinators.iter().for_each(|c| c.to_redis.set(Rule::Pass));
                }
            }
            stage.pause(ms(300), ms(1500)).await;
        }
        Ok(())
    }

    fn figure(&self, evidence: &Evidence, notes: &Notes) -> Figure {
        let lag = lag(evidence, 1000);
        Figure { text: format!("{}{}", notes.remark, lag.text), ..lag }
    }
}
