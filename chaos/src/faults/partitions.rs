use async_trait::async_trait;
use chrono::Utc;
use rand::Rng;
use rand::seq::IndexedRandom;
use tokio::time::{Instant, sleep, timeout};

use super::{Fault, Figure, Notes, Stage, ms};
use crate::error::Result;
use crate::evidence::{Evidence, percentile};
use crate::proxy::{Link, Rule};

/// Ways that are half open, pass one direction only, are late, slow, or end by reset: between agents and coordinators, and between coordinators
/// and the database.
pub(super) struct Partition;

const RULES: [Rule; 8] = [
    Rule::Drop,
    Rule::Drop,
    Rule::OnlyThere,
    Rule::OnlyBack,
    Rule::OnlyBack,
    Rule::Delay(ms(400)),
    Rule::Slow,
    Rule::Reset,
];

#[async_trait(?Send)]
impl Fault for Partition {
    fn name(&self) -> &'static str {
        "partitions"
    }

    fn goal(&self) -> &'static str {
        "noticed in < 15 s"
    }

    async fn inject(&self, stage: &mut Stage<'_>) -> Result<()> {
        while stage.goes_on() {
            let rule = RULES.choose(stage.rng).copied().unwrap_or(Rule::Drop);
            let ttl = stage.world.config.ttl;
            let length = stage.rng.random_range(ms(500)..ttl * 3 / 2);
            match stage.rng.random_range(0..6) {
                0 => {
                    let number = stage.some_coordinator();
                    stage.notes.mark(format!("database of {number}: {rule:?}"));
                    stage.world.coordinators[number].to_database.set(rule);
                    sleep(length).await;
                    stage.world.coordinators[number].to_database.set(Rule::Pass);
                }
                1 => stalled(stage).await,
                2 => {
                    let number = stage.some_agent();
                    stage.notes.mark(format!("agent {number} from all: {rule:?}"));
                    stage.world.coordinators.iter().for_each(|c| c.from_agents[number].set(rule));
                    sleep(length + ttl / 2).await;
                    stage.world.coordinators.iter().for_each(|c| c.from_agents[number].set(Rule::Pass));
                }
                _ => one_way(stage, rule, length).await?,
            }
            stage.pause(ms(200), ms(1000)).await;
        }
        Ok(())
    }

    fn figure(&self, _: &Evidence, notes: &Notes) -> Figure {
        let (count, worst) = (notes.millis.len(), percentile(&notes.millis, 100.0));
        let text =
            format!("{count} half-open ways left after p50 {} ms, worst {worst} ms", percentile(&notes.millis, 50.0));
        Figure { text, met: worst < 15_000 }
    }
}

/// Holds one statement that writes up, in the middle of its transaction, for longer than fires are planned ahead.
async fn stalled(stage: &mut Stage<'_>) {
    let number = stage.some_coordinator();
    let (others, lasting) = (stage.rng.random_range(0..8), stage.rng.random_range(ms(1000)..ms(8000)));
    stage.notes.mark(format!("a write of {number} for {lasting:?}"));
    let trap = stage.world.coordinators[number].trap.clone();
    trap.stall_once(others, lasting);
    if timeout(ms(3000), trap.springs()).await.is_ok() {
        sleep(lasting).await;
    }
    trap.disarm();
}

/// Breaks the way between an agent and its coordinator; where it is half open, until the agent is elsewhere.
async fn one_way(stage: &mut Stage<'_>, rule: Rule, length: std::time::Duration) -> Result<()> {
    let number = stage.some_agent();
    let name = stage.world.agents[number].name.clone();
    let links: Vec<&Link> = stage.world.coordinators.iter().map(|c| &c.from_agents[number]).collect();
    let before = attachment(stage, &name).await?;
    let Some(link) = links.iter().find(|link| link.is_busy()) else { return Ok(()) };
    link.set(rule);
    let (began, at) = (Instant::now(), Utc::now());
    let is_broken = matches!(rule, Rule::Drop | Rule::OnlyThere | Rule::OnlyBack);
    let mut noticed = None;
    while began.elapsed() < length || (is_broken && noticed.is_none() && began.elapsed() < ms(20_000)) {
        sleep(ms(50)).await;
        if noticed.is_none() && attachment(stage, &name).await? != before {
            noticed = Some((Utc::now() - at).num_milliseconds());
        }
    }
    link.set(Rule::Pass);
    stage.notes.mark(format!("way of {name}: {rule:?}, noticed after {noticed:?}"));
    if is_broken {
        stage.notes.millis.push(noticed.unwrap_or(i64::MAX));
    }
    Ok(())
}

/// The number of the newest attachment of an agent.
async fn attachment(stage: &Stage<'_>, name: &str) -> Result<Option<(uuid::Uuid, i64)>> {
    let newest = "select new_session, attachment from chaos.changes
        where source = 'session' and name = $1 and op <> 'delete' order by id desc limit 1";
    let found: Option<(uuid::Uuid, i64)> = sqlx::query_as(newest).bind(name).fetch_optional(&stage.world.pool).await?;
    Ok(found)
}
