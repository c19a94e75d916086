//! What is done to a world, and what is measured meanwhile.

mod agents;
mod clocks;
mod commits;
mod coordinators;
mod none;
mod outage;
mod partitions;
mod poison;
mod postgres;
mod redis;
mod rolling;

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep, sleep_until};

use crate::checks::{self, Findings, Invariant, Promises};
use crate::error::Result;
use crate::evidence::{Evidence, percentile};
use crate::workload::JobPlan;
use crate::world::{Config, World};

/// One kind of fault.
#[async_trait(?Send)]
pub trait Fault: Send + Sync {
    /// Its name on the command line.
    fn name(&self) -> &'static str;

    /// What its figure is to be.
    fn goal(&self) -> &'static str;

    /// Changes the world that it is done to.
    fn configure(&self, _config: &mut Config) {}

    /// Changes what the jobs are.
    fn shape(&self, _plans: &mut Vec<JobPlan>, _config: &Config) {}

    /// What holds beyond what always does.
    fn promises(&self) -> Promises {
        Promises::default()
    }

    /// Makes what takes long to make, before any job fires.
    ///
    /// # Errors
    /// Where the harness cannot go on.
    async fn prepare(&self, _world: &mut World) -> Result<()> {
        Ok(())
    }

    /// Does it until the stage's end.
    ///
    /// # Errors
    /// Where the harness cannot go on.
    async fn inject(&self, stage: &mut Stage<'_>) -> Result<()>;

    /// What was measured.
    fn figure(&self, evidence: &Evidence, notes: &Notes) -> Figure;
}

/// Where a fault is done.
pub struct Stage<'a> {
    pub world: &'a mut World,
    pub rng: &'a mut StdRng,
    /// No fault begins after this.
    pub until: Instant,
    pub notes: &'a mut Notes,
}

/// What was done, for the figure.
#[derive(Debug, Default)]
pub struct Notes {
    pub injections: u64,
    /// How long the database was away altogether, or all coordinators were.
    pub outages: Duration,
    /// Instants, and what they mean is the fault's own.
    pub marks: Vec<(DateTime<Utc>, String)>,
    /// Measured on the way, in milliseconds.
    pub millis: Vec<i64>,
    /// What was seen to be wrong on the way.
    pub wrong: Vec<String>,
    /// Something else to tell.
    pub remark: String,
}

impl Notes {
    /// Notes that something was done now.
    pub fn mark(&mut self, what: impl Into<String>) {
        self.injections += 1;
        self.marks.push((Utc::now(), what.into()));
    }
}

/// What was measured, and whether it keeps the goal.
#[derive(Clone, Debug)]
pub struct Figure {
    pub text: String,
    pub met: bool,
}

impl Stage<'_> {
    /// Whether there is time for more.
    pub fn goes_on(&self) -> bool {
        Instant::now() < self.until
    }

    /// Waits for a random time, or to the end.
    pub async fn pause(&mut self, least: Duration, most: Duration) {
        let pause = self.rng.random_range(least..=most);
        let end = self.until;
        tokio::select! {
            () = sleep(pause) => {}
            () = sleep_until(end) => {}
        }
    }

    /// The number of some coordinator.
    pub fn some_coordinator(&mut self) -> usize {
        self.rng.random_range(0..self.world.coordinators.len())
    }

    /// The number of some agent.
    pub fn some_agent(&mut self) -> usize {
        self.rng.random_range(0..self.world.agents.len())
    }
}

/// The lag of fires, with a goal for its 99th percentile.
fn lag(evidence: &Evidence, goal_ms: i64) -> Figure {
    let lags = evidence.lags(|_| true);
    let (half, most, worst) = (percentile(&lags, 50.0), percentile(&lags, 99.0), percentile(&lags, 100.0));
    Figure { text: format!("lag p50 {half} ms, p99 {most} ms, worst {worst} ms"), met: most < goal_ms }
}

/// Words that were accepted though their session was over or their epoch old.
fn stale(evidence: &Evidence) -> usize {
    let mut findings = Findings::default();
    checks::history::check(evidence, &mut findings);
    findings.violations.iter().filter(|violation| violation.invariant == Invariant::I3).count()
}

/// Milliseconds.
const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Every fault, in the order in which they are run.
pub fn all() -> Vec<Box<dyn Fault>> {
    vec![
        Box::new(none::None),
        Box::new(coordinators::Kill),
        Box::new(coordinators::Freeze),
        Box::new(agents::Kill),
        Box::new(agents::Freeze),
        Box::new(poison::Poison),
        Box::new(commits::Cut),
        Box::new(postgres::Kill),
        Box::new(redis::Trouble),
        Box::new(partitions::Partition),
        Box::new(clocks::Skew),
        Box::new(outage::Outage),
        Box::new(rolling::Restart),
    ]
}
