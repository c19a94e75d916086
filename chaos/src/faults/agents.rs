use std::collections::HashSet;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use rand::Rng;
use rustix::process::Signal;
use tokio::time::sleep;
use uuid::Uuid;

use super::{Fault, Figure, Notes, Stage, ms, stale};
use crate::error::Result;
use crate::evidence::{Evidence, percentile};
use crate::wait::until;
use crate::workload::JobPlan;
use crate::world::Config;

/// How long work is waited for to be under way.
const WORK: std::time::Duration = ms(5000);

/// SIGKILL to agents in the middle of their work.
pub(super) struct Kill;

#[async_trait(?Send)]
impl Fault for Kill {
    fn name(&self) -> &'static str {
        "agent-kill"
    }

    fn goal(&self) -> &'static str {
        "work is taken back within TTL + 2 s"
    }

    async fn inject(&self, stage: &mut Stage<'_>) -> Result<()> {
        let ttl = stage.world.config.ttl;
        while stage.goes_on() {
            let number = stage.some_agent();
            let name = stage.world.agents[number].name.clone();
            let _ = working(stage, &name).await;
            stage.world.kill_agent(number).await;
            stage.notes.mark(name);
            // Sooner than its session ends, so that the next process resumes it; or later.
            let pause = if stage.rng.random_bool(0.5) { ms(300) } else { ttl + ms(2500) };
            sleep(pause).await;
            stage.world.start_agent(number)?;
            stage.pause(ms(500), ms(2000)).await;
        }
        Ok(())
    }

    fn figure(&self, evidence: &Evidence, notes: &Notes) -> Figure {
        let delays = taken_back(evidence, notes);
        let limit = i64::try_from(evidence.ttl.as_millis()).unwrap_or(i64::MAX) + 2000;
        let (most, worst) = (percentile(&delays, 99.0), percentile(&delays, 100.0));
        let text = format!("{} leases, taken back after p99 {most} ms, worst {worst} ms", delays.len());
        Figure { text, met: worst <= limit }
    }
}

/// SIGSTOP to agents past the life of their session, then SIGCONT.
pub(super) struct Freeze;

#[async_trait(?Send)]
impl Fault for Freeze {
    fn name(&self) -> &'static str {
        "agent-stop"
    }

    fn shape(&self, plans: &mut Vec<JobPlan>, config: &Config) {
        // Work that goes on long after the session of a frozen agent, where nobody ends it.
        let ttl = u64::try_from(config.ttl.as_millis()).unwrap_or(u64::MAX);
        plans.iter_mut().filter(|plan| plan.name == "long").for_each(|plan| plan.work_ms = (ttl + 5000, ttl + 8000));
    }

    fn goal(&self) -> &'static str {
        "what it says too late is refused, its children are dead"
    }

    async fn inject(&self, stage: &mut Stage<'_>) -> Result<()> {
        let ttl = stage.world.config.ttl;
        while stage.goes_on() {
            let number = stage.some_agent();
            let name = stage.world.agents[number].name.clone();
            let _ = working(stage, &name).await;
            signal(stage, number, Signal::STOP);
            stage.notes.mark(name);
            sleep(ttl + stage.rng.random_range(ms(500)..ms(4000))).await;
            signal(stage, number, Signal::CONT);
            stage.pause(ms(1000), ms(3000)).await;
        }
        Ok(())
    }

    fn figure(&self, evidence: &Evidence, notes: &Notes) -> Figure {
        let (taken, stale) = (taken_back(evidence, notes), stale(evidence));
        let text = format!(
            "{stale} stale words accepted; {} leases, taken back after {} ms",
            taken.len(),
            percentile(&taken, 99.0)
        );
        Figure { text, met: stale == 0 }
    }
}

fn signal(stage: &Stage<'_>, number: usize, signal: Signal) {
    if let Some(process) = &stage.world.agents[number].process {
        process.signal(signal);
    }
}

/// Waits until an agent runs something.
async fn working(stage: &Stage<'_>, name: &str) -> Result<()> {
    until("it works", WORK, async || {
        let running: i64 = sqlx::query_scalar(
            "select count(*) from live_executions e join agent_sessions s on s.id = e.session_id
             where s.name = $1 and e.started_at is not null",
        )
        .bind(name)
        .fetch_one(&stage.world.pool)
        .await?;
        Ok((running > 0).then_some(()))
    })
    .await
}

/// How long after its agent was hurt each lease was taken back, in milliseconds.
fn taken_back(evidence: &Evidence, notes: &Notes) -> Vec<i64> {
    let mut delays = Vec::new();
    for (at, name) in &notes.marks {
        let sessions: HashSet<Uuid> = sessions(evidence, name);
        let held = |from: DateTime<Utc>, to: Option<DateTime<Utc>>| from < *at && to.is_none_or(|to| to > *at);
        let hit =
            evidence.leases.iter().filter(|l| l.session.is_some_and(|s| sessions.contains(&s)) && held(l.from, l.to));
        delays.extend(hit.filter_map(|lease| Some((lease.to? - *at).num_milliseconds())));
    }
    delays
}

fn sessions(evidence: &Evidence, name: &str) -> HashSet<Uuid> {
    let its = evidence.changes.iter().filter(|c| c.source == "session" && c.name.as_deref() == Some(name));
    its.filter_map(|c| c.new_session).collect()
}
