use std::time::Duration;

use async_trait::async_trait;
use rand::Rng;
use rand::seq::IndexedRandom;
use rustix::process::Signal;
use tokio::time::{sleep, timeout};

use super::{Fault, Figure, Notes, Stage, lag, ms, stale};
use crate::error::Result;
use crate::evidence::Evidence;
use crate::trap::Deed;
use crate::world::START;

/// SIGKILL to coordinators, at any time and at the very point of a commit.
pub(super) struct Kill;

/// How long a commit is waited for to kill at.
const AT_COMMIT: Duration = Duration::from_secs(3);

#[async_trait(?Send)]
impl Fault for Kill {
    fn name(&self) -> &'static str {
        "coordinator-kill"
    }

    fn goal(&self) -> &'static str {
        "fires go on: lag p99 < 3 s"
    }

    async fn inject(&self, stage: &mut Stage<'_>) -> Result<()> {
        while stage.goes_on() {
            let number = stage.some_coordinator();
            let deed = [None, Some(Deed::KillBefore), Some(Deed::KillAfter)].choose(stage.rng).copied().flatten();
            if let Some(deed) = deed {
                let others = stage.rng.random_range(0..12);
                let trap = stage.world.coordinators[number].trap.clone();
                trap.arm_once(others, deed);
                let _ = timeout(AT_COMMIT, trap.springs()).await;
                trap.disarm();
            }
            stage.world.kill_coordinator(number).await;
            stage.notes.mark(format!("{number} {deed:?}"));
            stage.pause(ms(0), ms(1500)).await;
            stage.world.begin_coordinator(number)?;
            stage.world.finish_coordinator(number, START).await?;
            stage.pause(ms(500), ms(4000)).await;
        }
        Ok(())
    }

    fn figure(&self, evidence: &Evidence, _: &Notes) -> Figure {
        lag(evidence, 3000)
    }
}

/// SIGSTOP to coordinators, past the life of a session too, then SIGCONT: what they do on waking relies on what is over. Now and then to all at
/// once, while agents go on to speak.
pub(super) struct Freeze;

#[async_trait(?Send)]
impl Fault for Freeze {
    fn name(&self) -> &'static str {
        "coordinator-stop"
    }

    fn goal(&self) -> &'static str {
        "no stale write accepted"
    }

    async fn inject(&self, stage: &mut Stage<'_>) -> Result<()> {
        let ttl = stage.world.config.ttl;
        while stage.goes_on() {
            let all = stage.notes.injections % 3 == 1;
            let frozen: Vec<usize> =
                if all { (0..stage.world.coordinators.len()).collect() } else { vec![stage.some_coordinator()] };
            let signal = |stage: &Stage<'_>, signal| {
                frozen.iter().for_each(|number| stage.world.coordinators[*number].victim.signal(signal));
            };
            signal(stage, Signal::STOP);
            stage.notes.mark(format!("{frozen:?}"));
            let pause = if all { ttl + ms(2500) } else { stage.rng.random_range(ms(500)..ttl * 3) };
            sleep(pause).await;
            signal(stage, Signal::CONT);
            if all {
                stage.notes.outages += pause;
            }
            stage.pause(ms(1000), ms(3000)).await;
        }
        Ok(())
    }

    fn figure(&self, evidence: &Evidence, _: &Notes) -> Figure {
        let again = evidence.leases.iter().filter(|lease| lease.epoch > 1).count();
        let stale = stale(evidence);
        Figure {
            text: format!("{stale} stale, of {} leases {again} were taken over", evidence.leases.len()),
            met: stale == 0,
        }
    }
}
