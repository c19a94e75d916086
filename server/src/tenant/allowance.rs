//! Executions that callers ask for, within the hourly quota of their tenant.
//!
//! A coordinator sets a block of the quota aside, a hundredth at most, and counts from there without the database. Blocks never add up to
//! more than the quota; of what the quota has left when it runs out, up to a block may lie unused at each other coordinator until the hour is over.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::Directory;
use crate::error::{Error, Kind};
use crate::limiter::RETRY_AFTER;
use crate::store::DynStore;

/// The most that is set aside at once beside what is asked for.
const MOST: i64 = 1000;
/// How long a tenant that has used its quota up is believed to have.
const EXHAUSTED: Duration = Duration::from_secs(1);

/// Counts executions of tenants that have an hourly quota. Cheap to clone.
#[derive(Clone)]
pub struct Allowance {
    store: DynStore,
    tenants: Directory,
    default: i64,
    blocks: Arc<Mutex<HashMap<Uuid, Block>>>,
}

#[derive(Clone, Copy, Debug)]
struct Block {
    left: i64,
    /// The end of its hour.
    until: Instant,
    /// Nothing more is to be had before that, as far as is known.
    exhausted_until: Option<Instant>,
}

impl Block {
    fn take(&mut self, wanted: i64, now: Instant) -> bool {
        let has = now < self.until && self.left >= wanted;
        if has {
            self.left -= wanted;
        }
        has
    }
}

impl Allowance {
    /// For the tenants of a directory; `default` is the quota of those that have none of their own, 0 none.
    pub fn new(store: DynStore, tenants: Directory, default: i64) -> Self {
        Self { store, tenants, default, blocks: Arc::default() }
    }

    /// Takes so many executions of a tenant, all or none.
    ///
    /// # Errors
    /// QUOTA_EXCEEDED, with when the next hour begins; the store's.
    pub async fn take(&self, tenant: Uuid, wanted: usize) -> Result<(), Error> {
        let most = self.tenants.rules(tenant).await?.max_executions_per_hour;
        if most == 0 {
            return Ok(());
        }
        let wanted = i64::try_from(wanted).unwrap_or(i64::MAX);
        let now = Instant::now();
        let missing = {
            let mut blocks = self.blocks();
            let block = blocks.get_mut(&tenant).filter(|block| now < block.until);
            match block {
                None => wanted,
                Some(block) => {
                    if block.take(wanted, now) {
                        return Ok(());
                    }
                    if block.exhausted_until.is_some_and(|until| now < until) {
                        return Err(exceeded(most, block.until.saturating_duration_since(now)));
                    }
                    wanted - block.left
                }
            }
        };
        let ahead = (most / 100).clamp(1, MOST);
        let set_aside = self.store.set_aside(tenant, missing.max(ahead), self.default).await?;
        let until = now + set_aside.ends_in;
        let mut blocks = self.blocks();
        blocks.retain(|_, block| now < block.until);
        let block = blocks.entry(tenant).or_insert(Block { left: 0, until, exhausted_until: None });
        block.left += set_aside.granted;
        if block.take(wanted, now) {
            block.exhausted_until = None;
            return Ok(());
        }
        block.exhausted_until = Some(now + EXHAUSTED);
        Err(exceeded(most, set_aside.ends_in))
    }

    /// What was taken was not used.
    pub fn give_back(&self, tenant: Uuid, unused: usize) {
        if let Some(block) = self.blocks().get_mut(&tenant) {
            block.left += i64::try_from(unused).unwrap_or(0);
            block.exhausted_until = None;
        }
    }

    /// The quota of a tenant was changed here.
    pub fn forget(&self, tenant: Uuid) {
        if let Some(block) = self.blocks().get_mut(&tenant) {
            block.exhausted_until = None;
        }
    }

    fn blocks(&self) -> MutexGuard<'_, HashMap<Uuid, Block>> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn exceeded(most: i64, ends_in: Duration) -> Error {
    let seconds = ends_in.as_secs() + 1;
    let message = format!(
        "the tenant may begin {most} executions an hour (UTC), and has; wait {seconds} s, or have maxExecutionsPerHour of the tenant \
         raised, or MAX_EXECUTIONS_PER_HOUR"
    );
    Error::new(Kind::Exhausted, "QUOTA_EXCEEDED", message).with("limit", most).with(RETRY_AFTER, seconds)
}
