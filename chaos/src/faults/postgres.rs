use async_trait::async_trait;
use tokio::time::{Instant, sleep};

use super::{Fault, Figure, Notes, Stage, ms};
use crate::error::Result;
use crate::evidence::{Evidence, percentile};
use crate::journal::{BY_SCHEDULE, PENDING};
use crate::world::Config;

/// SIGKILL to all of PostgreSQL.
pub(super) struct Kill;

/// How often it is to be done where there is time.
const WANTED: u64 = 20;

#[async_trait(?Send)]
impl Fault for Kill {
    fn name(&self) -> &'static str {
        "postgres-kill"
    }

    fn goal(&self) -> &'static str {
        "firing again < 5 s after it is back"
    }

    fn configure(&self, config: &mut Config) {
        config.fsync = true;
    }

    async fn inject(&self, stage: &mut Stage<'_>) -> Result<()> {
        while stage.goes_on() && stage.notes.injections < WANTED {
            stage.pause(ms(1500), ms(4000)).await;
            let killed = Instant::now();
            stage.world.postgres.kill().await?;
            stage.pause(ms(0), ms(2000)).await;
            stage.world.postgres.start().await?;
            stage.notes.mark("back");
            stage.notes.outages += killed.elapsed();
            // The next is not killed before this one was of use.
            sleep(ms(2000)).await;
        }
        Ok(())
    }

    fn figure(&self, evidence: &Evidence, notes: &Notes) -> Figure {
        let is_fire = |c: &&crate::journal::Change| {
            c.source == "live" && c.new_state == Some(PENDING) && c.trigger_type == Some(BY_SCHEDULE)
        };
        let fires: Vec<_> = evidence.changes.iter().filter(is_fire).map(|c| c.committed).collect();
        let end = evidence.workload.span.end - chrono::TimeDelta::seconds(2);
        let back = notes.marks.iter().filter(|(at, _)| *at < end);
        let delays: Vec<i64> = back
            .filter_map(|(at, _)| Some((*fires.iter().find(|fire| *fire > at)? - *at).num_milliseconds()))
            .collect();
        let worst = percentile(&delays, 100.0);
        Figure {
            text: format!("fires after p50 {} ms, worst {worst} ms", percentile(&delays, 50.0)),
            met: worst < 5000,
        }
    }
}
