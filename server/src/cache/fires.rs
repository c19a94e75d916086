//! `scheduler:next_execution:{jobId}`: the coming fires, for people.

use std::time::Duration;

use chrono::{DateTime, Utc};
use orrery_proto::v1::Fire;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Caches, JobConfig, Read};
use crate::schedule::ScheduleError;
use crate::store::StoreError;

/// How many are kept; who asks for more is not answered from here.
const KEPT: usize = 10;
/// The shortest and the longest life, in seconds; between them it ends with the first fire, after which another one is the next.
const LIFE: [i64; 2] = [1, 3600];

/// The fires after an instant, for one version of a job.
#[derive(Serialize, Deserialize)]
struct NextFires {
    version: i64,
    fires: Vec<Fire>,
    /// Whether there are no more than these.
    is_all: bool,
}

impl NextFires {
    fn after(&self, now: DateTime<Utc>) -> impl Iterator<Item = &Fire> {
        self.fires.iter().filter(move |fire| instant(fire).is_some_and(|at| at > now))
    }
}

pub(super) fn key(id: Uuid) -> String {
    format!("scheduler:next_execution:{id}")
}

fn instant(fire: &Fire) -> Option<DateTime<Utc>> {
    let at = fire.at.as_ref()?;
    DateTime::from_timestamp(at.seconds, u32::try_from(at.nanos).ok()?)
}

impl Caches {
    /// The next `count` fires of a job after `now`, which `compute` finds for a number of fires.
    ///
    /// # Errors
    /// What `compute` fails with.
    pub async fn next_fires(
        &self,
        job: &JobConfig,
        now: DateTime<Utc>,
        count: usize,
        compute: impl Fn(usize) -> Result<Vec<Fire>, ScheduleError>,
    ) -> Result<Vec<Fire>, ScheduleError> {
        if count > KEPT {
            return compute(count);
        }
        let mut failed = None;
        let read = async {
            let fires = match compute(KEPT) {
                Ok(fires) => fires,
                Err(error) => {
                    failed = Some(error);
                    return Ok::<_, StoreError>(None);
                }
            };
            let ahead = fires.first().and_then(instant).map_or(LIFE[1], |first| (first - now).num_seconds());
            let life = Duration::from_secs(ahead.clamp(LIFE[0], LIFE[1]).unsigned_abs());
            let is_all = fires.len() < KEPT;
            Ok(Some(Read { value: NextFires { version: job.version, fires, is_all }, life }))
        };
        let is_wanted = |next: &NextFires| {
            next.version == job.version && (next.is_all || next.after(now).nth(count.saturating_sub(1)).is_some())
        };
        let found = self.through("next_execution", &key(job.id), is_wanted, read).await;
        match (found, failed) {
            (_, Some(error)) => Err(error),
            (Ok(Some(next)), None) => Ok(next.after(now).take(count).cloned().collect()),
            _ => compute(count),
        }
    }
}
