use async_trait::async_trait;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep};

use super::{Fault, Figure, Notes, Stage, ms};
use crate::error::Result;
use crate::evidence::Evidence;
use crate::trap::Deed;

/// Connections to the database that end at a commit: the coordinator does not know whether it was done.
pub(super) struct Cut;

/// How many commits there are to one that is cut.
const ONE_IN: u32 = 4;

/// How often it is to be done where there is time.
const WANTED: u64 = 1000;

#[async_trait(?Send)]
impl Fault for Cut {
    fn name(&self) -> &'static str {
        "commit-cut"
    }

    fn goal(&self) -> &'static str {
        "no double, no loss"
    }

    async fn inject(&self, stage: &mut Stage<'_>) -> Result<()> {
        let deeds = [Deed::CutAfter, Deed::CutAfter, Deed::CutAfter, Deed::CutBefore];
        for coordinator in &stage.world.coordinators {
            let rng = StdRng::from_rng(stage.rng);
            coordinator.trap.arm_often(ONE_IN, deeds.to_vec(), rng);
        }
        let sprung = |stage: &Stage<'_>| stage.world.coordinators.iter().map(|c| c.trap.sprung()).sum();
        while Instant::now() < stage.until && stage.notes.injections < WANTED {
            sleep(ms(100)).await;
            stage.notes.injections = sprung(stage);
        }
        let commits: u64 = stage.world.coordinators.iter().map(|c| c.trap.commits()).sum();
        stage.notes.remark = format!("{} of {commits} commits cut", stage.notes.injections);
        Ok(())
    }

    fn figure(&self, evidence: &Evidence, notes: &Notes) -> Figure {
        let again = evidence.leases.iter().filter(|lease| lease.epoch > 1).count();
        let text = format!("{}; of {} leases {again} again", notes.remark, evidence.leases.len());
        Figure { text, met: notes.injections > 0 }
    }
}
