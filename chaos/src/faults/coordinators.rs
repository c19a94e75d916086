use std::time::Duration;

use async_trait::async_trait;
use rand::Rng;
use rand::seq::IndexedRandom;
use rustix::process::Signal;
use tokio::time::{sleep, timeout};

use super::{Fault, Figure, Notes, Stage, lag, ms, stale};
use crate::error::Result;
use crate::evidence::Evidence;
use crate::proxy::Rule;
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
        let mut round = 0;
        while stage.goes_on() {
            match round % 4 {
                0 | 2 => all_frozen(stage).await,
                1 => late_words(stage).await,
                _ => one_frozen(stage).await,
            }
            round += 1;
            stage.pause(ms(500), ms(2000)).await;
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

async fn one_frozen(stage: &mut Stage<'_>) {
    let number = stage.some_coordinator();
    let pause = stage.rng.random_range(ms(500)..stage.world.config.ttl * 3);
    stage.notes.mark(format!("{number} for {pause:?}"));
    stage.world.coordinators[number].victim.signal(Signal::STOP);
    sleep(pause).await;
    stage.world.coordinators[number].victim.signal(Signal::CONT);
}

/// What agents have said meanwhile is read when all sessions are over, and before anybody can end them.
async fn all_frozen(stage: &mut Stage<'_>) {
    let ttl = stage.world.config.ttl;
    // Somewhat less than a life since the last word is more than one since the last heartbeat, and the stream is not given up yet.
    let pause =
        if stage.rng.random_bool(0.7) { ttl - stage.rng.random_range(ms(100)..ms(800)) } else { ttl + ms(2000) };
    let late = ms(1500);
    stage.notes.mark(format!("all for {pause:?}"));
    stage.world.coordinators.iter().for_each(|c| c.victim.signal(Signal::STOP));
    sleep(pause).await;
    stage.world.coordinators.iter().for_each(|c| c.trap.stall_all("delete from agent_sessions", late));
    stage.world.coordinators.iter().for_each(|c| c.victim.signal(Signal::CONT));
    sleep(late).await;
    stage.world.coordinators.iter().for_each(|c| c.trap.disarm());
    stage.notes.outages += pause + late;
}

/// One coordinator is frozen, and its agents come to no other: what they have said is read once others do their work again.
async fn late_words(stage: &mut Stage<'_>) {
    let number = stage.some_coordinator();
    let coordinators = &stage.world.coordinators;
    let its: Vec<usize> =
        (0..stage.world.agents.len()).filter(|a| coordinators[number].from_agents[*a].is_busy()).collect();
    stage.notes.mark(format!("{number}, with agents {its:?}"));
    let others = |rule| {
        let others = coordinators.iter().enumerate().filter(|(n, _)| *n != number);
        others.for_each(|(_, c)| its.iter().for_each(|agent| c.from_agents[*agent].set(rule)));
    };
    others(Rule::Drop);
    coordinators[number].victim.signal(Signal::STOP);
    sleep(stage.world.config.ttl + ms(1500)).await;
    coordinators[number].victim.signal(Signal::CONT);
    sleep(ms(500)).await;
    others(Rule::Pass);
}
