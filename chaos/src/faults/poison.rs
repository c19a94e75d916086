use async_trait::async_trait;
use orrery_proto::v1::OverlapPolicy;
use tokio::time::sleep;

use super::{Fault, Figure, Notes, Stage, ms};
use crate::error::Result;
use crate::evidence::Evidence;
use crate::process::Process;
use crate::workload::{JobPlan, When};
use crate::world::Config;

/// A job that kills whatever agent runs it.
pub(super) struct Poison;

const NAME: &str = "poison";

#[async_trait(?Send)]
impl Fault for Poison {
    fn name(&self) -> &'static str {
        "poison"
    }

    fn goal(&self) -> &'static str {
        "given up after three agents"
    }

    fn shape(&self, plans: &mut Vec<JobPlan>, _: &Config) {
        let when = When::Every(60_000);
        let forbid = OverlapPolicy::Forbid;
        plans.push(JobPlan { when, overlap: forbid, limit: 1, poison: true, ..JobPlan::named(NAME) });
    }

    async fn inject(&self, stage: &mut Stage<'_>) -> Result<()> {
        // The work of others is lost with each agent: it must not be so long that it is given up as well.
        while stage.goes_on() {
            for number in 0..stage.world.agents.len() {
                if stage.world.agents[number].process.as_mut().is_some_and(Process::has_ended) {
                    stage.notes.mark(number.to_string());
                    stage.world.kill_agent(number).await;
                    stage.world.start_agent(number)?;
                }
            }
            sleep(ms(200)).await;
        }
        Ok(())
    }

    fn figure(&self, evidence: &Evidence, notes: &Notes) -> Figure {
        let of_job = evidence.workload.id(NAME).unwrap_or_default();
        let ends = evidence.past.iter().filter(|past| past.job_id == of_job);
        let ends: Vec<(&str, i32)> = ends.map(|past| (past.status.as_str(), past.losses)).collect();
        let met = !ends.is_empty() && ends.iter().all(|(status, losses)| *status == "failed" && *losses == 3);
        Figure { text: format!("{} agents killed; ended as {ends:?}", notes.injections), met }
    }
}
