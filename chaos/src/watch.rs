//! Looks at the processes of a world, apart from anything that it says of itself.

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use uuid::Uuid;

use crate::world::MARK;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(250);

/// Processes of one lease.
#[derive(Clone, Debug)]
pub struct Sighting {
    pub execution: Uuid,
    pub epoch: i64,
    pub pid: i32,
    pub first: DateTime<Utc>,
    pub last: DateTime<Utc>,
}

/// Keeps looking until it is dropped.
pub struct Watch {
    seen: Arc<Mutex<BTreeMap<i32, Sighting>>>,
    looking: JoinHandle<()>,
}

impl Watch {
    /// Looks for the processes of this world's jobs.
    pub fn start(world: Uuid) -> Self {
        let seen: Arc<Mutex<BTreeMap<i32, Sighting>>> = Arc::default();
        let record = seen.clone();
        let looking = tokio::spawn(async move {
            loop {
                let found = tokio::task::spawn_blocking(move || processes(world)).await.unwrap_or_default();
                note(&record, found);
                sleep(LOOK).await;
            }
        });
        Self { seen, looking }
    }

    /// What was seen so far.
    pub fn sightings(&self) -> Vec<Sighting> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

fn note(record: &Mutex<BTreeMap<i32, Sighting>>, found: Vec<(i32, Uuid, i64)>) {
    let now = Utc::now();
    let mut seen = record.lock().unwrap_or_else(PoisonError::into_inner);
    for (pid, execution, epoch) in found {
        let first = Sighting { execution, epoch, pid, first: now, last: now };
        let entry = seen.entry(pid).or_insert_with(|| first.clone());
        if (entry.execution, entry.epoch) == (execution, epoch) {
            entry.last = now;
        } else {
            // The number is another process's now.
            *entry = first;
        }
    }
}

/// The living processes that carry a world's mark, with the lease that they run.
pub fn processes(world: Uuid) -> Vec<(i32, Uuid, i64)> {
    let Ok(all) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = all.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| of_world(pid, &world.to_string())).collect()
}

fn of_world(pid: i32, world: &str) -> Option<(i32, Uuid, i64)> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let variable = |name: &str| {
        let found = environment.split(|b| *b == 0).find_map(|v| v.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
        String::from_utf8(found.to_vec()).ok()
    };
    if variable(MARK)? != world {
        return None;
    }
    Some((pid, variable("ORRERY_EXECUTION_ID")?.parse().ok()?, variable("ORRERY_EPOCH")?.parse().ok()?))
}
