use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::caller::Answers;
use crate::error::Result;
use crate::journal::{self, Change, LEASED, Omitted, PENDING, Past};
use crate::ledger::{self, Entry};
use crate::watch::Sighting;
use crate::workload::{Workload, ledger_file};
use crate::world::World;

/// A lease, as the database's own journal has it.
#[derive(Clone, Debug)]
pub struct Lease {
    pub execution: Uuid,
    pub job: Uuid,
    pub epoch: i64,
    pub session: Option<Uuid>,
    pub from: DateTime<Utc>,
    /// None while it is held.
    pub to: Option<DateTime<Utc>>,
    pub deadline: Option<DateTime<Utc>>,
    /// The changes that begin and end it.
    pub begin: i64,
    pub end: i64,
}

/// Executions by job, with from when to when each was active.
pub type Active = HashMap<Uuid, Vec<(Uuid, DateTime<Utc>, DateTime<Utc>)>>;

/// Everything that is known of one scenario once it is quiet again.
#[derive(Clone, Debug)]
pub struct Evidence {
    pub ttl: Duration,
    pub workload: Workload,
    pub changes: Vec<Change>,
    pub past: Vec<Past>,
    pub omitted: Vec<Omitted>,
    pub ledger: Vec<Entry>,
    pub answers: Answers,
    pub sightings: Vec<Sighting>,
    pub leases: Vec<Lease>,
    /// Processes that were left over at the end.
    pub left_over: Vec<(i32, Uuid, i64)>,
    /// Connections of coordinators that hold a transaction open and do nothing with it.
    pub open_transactions: i64,
    /// Resident memory at the end, in MiB.
    pub resident: Vec<(String, u64)>,
    /// How long the database was away altogether.
    pub outages: Duration,
}

impl Evidence {
    /// Reads it all.
    ///
    /// # Errors
    /// Where the database or the ledger cannot be read.
    pub async fn gather(world: &World, workload: Workload) -> Result<Self> {
        let changes = journal::changes(&world.pool).await?;
        let coordinators = world
            .coordinators
            .iter()
            .enumerate()
            .filter_map(|(n, c)| Some((format!("coordinator-{n}"), c.process.as_ref()?.resident_mib()?)));
        let agents = world.agents.iter().filter_map(|a| Some((a.name.clone(), a.process.as_ref()?.resident_mib()?)));
        Ok(Self {
            ttl: world.config.ttl,
            workload,
            leases: leases(&changes),
            changes,
            past: journal::past(&world.pool).await?,
            omitted: journal::omitted(&world.pool).await?,
            ledger: ledger::read(&ledger_file(world))?,
            answers: Answers::default(),
            sightings: Vec::new(),
            left_over: crate::watch::processes(world.id),
            open_transactions: open_transactions(world).await?,
            resident: coordinators.chain(agents).collect(),
            outages: Duration::ZERO,
        })
    }

    /// How late fires became pending for all to see, in milliseconds; of jobs that pass. What was granted ahead was not late.
    pub fn lags(&self, of: impl Fn(Uuid) -> bool) -> Vec<i64> {
        let given = |c: &&Change| matches!(c.new_state, Some(PENDING | LEASED));
        let released = self.changes.iter().filter(|c| c.source == "live").filter(given);
        released
            .filter(|c| c.old_state == Some(0) && c.trigger_type == Some(journal::BY_SCHEDULE))
            .filter(|c| c.attempt == Some(0) || c.is_armed())
            .filter(|c| c.job.is_some_and(&of))
            .filter_map(|c| Some((c.committed - c.scheduled_at?).num_milliseconds().max(0)))
            .collect()
    }

    /// From when to when each execution counted as active for its job's limit: from the beginning of the transaction that released it, or from
    /// its instant where it was granted ahead of that, to the commit of its end.
    pub fn active(&self) -> Active {
        let mut spans: BTreeMap<Uuid, (Uuid, DateTime<Utc>, DateTime<Utc>)> = BTreeMap::new();
        for change in self.changes.iter().filter(|c| c.source == "live") {
            let (Some(execution), Some(job)) = (change.execution, change.job) else { continue };
            let begins = change.new_state.is_some_and(|state| state >= PENDING);
            if begins {
                let from = if change.is_armed() { change.run_at.unwrap_or(change.began) } else { change.began };
                spans.entry(execution).or_insert((job, from, DateTime::<Utc>::MAX_UTC));
            }
            if change.op == "delete"
                && let Some(span) = spans.get_mut(&execution)
            {
                span.2 = change.committed;
            }
        }
        let mut by_job = Active::new();
        for (execution, (job, from, to)) in spans {
            by_job.entry(job).or_default().push((execution, from, to));
        }
        by_job
    }

    /// The session's life, with room for a busy machine.
    pub fn ttl(&self) -> TimeDelta {
        TimeDelta::from_std(self.ttl).unwrap_or_default()
    }
}

async fn open_transactions(world: &World) -> Result<i64> {
    let query = "select count(*) from pg_stat_activity
        where application_name <> 'chaos' and state like 'idle in transaction%' and state_change < clock_timestamp() - interval '2 seconds'";
    Ok(sqlx::query_scalar(query).fetch_one(&world.pool).await?)
}

/// The leases that these changes begin and end.
pub(crate) fn leases(changes: &[Change]) -> Vec<Lease> {
    let mut held: HashMap<Uuid, Lease> = HashMap::new();
    let mut ended = Vec::new();
    for change in changes.iter().filter(|c| c.source == "live") {
        let (Some(execution), Some(job)) = (change.execution, change.job) else { continue };
        let epoch = change.new_epoch.unwrap_or_default();
        let goes_on =
            change.new_state == Some(LEASED) && held.get(&execution).is_some_and(|lease| lease.epoch == epoch);
        if goes_on {
            continue;
        }
        if let Some(lease) = held.remove(&execution) {
            ended.push(Lease { to: Some(change.at), end: change.id, ..lease });
        }
        if change.new_state == Some(LEASED) {
            let (session, deadline) = (change.new_session, change.deadline);
            let lease = Lease {
                execution,
                job,
                epoch,
                session,
                from: change.at,
                to: None,
                deadline,
                begin: change.id,
                end: i64::MAX,
            };
            held.insert(execution, lease);
        }
    }
    ended.extend(held.into_values());
    ended.sort_by_key(|lease| lease.begin);
    ended
}

/// The value below which so many of a hundred lie.
pub fn percentile(values: &[i64], percent: f64) -> i64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    // The number of a value is far below 2^52.
    #[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss)]
    let index = ((sorted.len() as f64 * percent / 100.0).ceil() as usize).saturating_sub(1);
    sorted.get(index).copied().unwrap_or_default()
}
