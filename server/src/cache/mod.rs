//! The documented caches, in Redis where it is there. Without it there is none: the database answers as fast, and is asked.
//!
//! | key | what | lives |
//! |---|---|---|
//! | `scheduler:job_config:{jobId}` | the definition, without the executor's config | 1 h |
//! | `scheduler:next_execution:{jobId}` | the coming fires | until the first of them |
//! | `scheduler:stats:{tenantId}:{date}` | the totals of one day | 24 h once nothing of it can change, else 2 s |
//!
//! Nothing that decides is read from here: no fire, no lease, no limit. And what is read is never older than the last change that somebody was
//! told of, by three means:
//!
//! - **Fence and leases.** A change first puts a fence where the value was, and takes it away after its commit. A reader that finds nothing
//!   is handed a lease, and may only fill in what it then reads while its lease still stands: a fence, and a Redis that has lost
//!   its memory, end it. So no value of before a change comes back after it ([`entry`]).
//! - **Generations.** Where Redis could not be told of a change, the next generation of caches begins, in the database, before the change and
//!   again after it. Values carry their generation, and an older one counts for nothing. Each coordinator reads the number every
//!   second, and asks no cache once what it knows is [`TRUST`] old, or since Redis was away. That bounds what is stale by [`TRUST`] even
//!   where one coordinator has lost Redis and another has not.
//! - **Versions and tenants** stand in the values, and are compared by who reads them.

mod entry;
mod fires;
mod job;
mod stats;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::entry::{Entries, Found};
pub use self::job::JobConfig;
use crate::redis::{Redis, Unavailable};
use crate::store::{DynStore, StoreError};
use crate::telemetry::Metrics;

/// How long a generation that was read is believed in.
pub const TRUST: Duration = Duration::from_secs(3);
/// How often it is read.
const LOOK: Duration = Duration::from_secs(1);
/// What took longer to read than this is not filled in: its lease is about to end.
const FRESH: Duration = Duration::from_secs(5);

/// Caches of what people read. Cheap to clone.
#[derive(Clone)]
pub struct Caches {
    inner: Arc<Inner>,
}

struct Inner {
    store: DynStore,
    entries: Option<Entries>,
    metrics: Metrics,
    known: Mutex<Option<Known>>,
}

/// What is known of the generation of caches.
#[derive(Clone, Copy)]
struct Known {
    generation: i64,
    at: Instant,
    /// Which finding of Redis that was.
    finding: u64,
}

/// A value that was read from the store, and for how long it may be kept.
struct Read<T> {
    value: T,
    life: Duration,
}

impl Caches {
    /// Caches in `redis`, of what `store` says.
    pub fn new(store: DynStore, redis: Option<Redis>, metrics: Metrics) -> Self {
        let entries = redis.map(Entries::new);
        let inner = Inner { store, entries, metrics, known: Mutex::default() };
        Self { inner: Arc::new(inner) }
    }

    /// Keeps the generation known until the end. Until it has begun, no cache is asked.
    pub async fn keep(self, shutdown: CancellationToken) {
        let Some(entries) = &self.inner.entries else { return };
        loop {
            let (at, finding) = (Instant::now(), entries.redis().findings());
            match self.inner.store.cache_generation().await {
                Ok(generation) => *self.known() = Some(Known { generation, at, finding }),
                Err(error) => tracing::debug!(%error, "the generation of caches cannot be read; they are not asked"),
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// The entries and the generation, where they may be trusted.
    fn trusted(&self) -> Option<(&Entries, i64)> {
        let entries = self.inner.entries.as_ref()?;
        let known = (*self.known())?;
        let is_fresh = known.at.elapsed() < TRUST && known.finding == entries.redis().findings();
        (is_fresh && entries.redis().is_up()).then_some((entries, known.generation))
    }

    /// Answers from the cache what `is_wanted` takes, and otherwise from `read`, which is then filled in.
    async fn through<T, R>(
        &self,
        cache: &'static str,
        key: &str,
        is_wanted: impl Fn(&T) -> bool,
        read: R,
    ) -> Result<Option<T>, StoreError>
    where
        T: Serialize + DeserializeOwned,
        R: Future<Output = Result<Option<Read<T>>, StoreError>>,
    {
        let Some((entries, generation)) = self.trusted() else {
            return Ok(read.await?.map(|read| read.value));
        };
        let lease = match entries.get(key, generation).await {
            Ok(Found::Value(text)) => match serde_json::from_str::<T>(&text).ok().filter(&is_wanted) {
                Some(value) => {
                    self.inner.metrics.cache_hit(cache);
                    return Ok(Some(value));
                }
                None => entries.renew(key).await.unwrap_or_default(),
            },
            Ok(Found::Lease(lease)) => Some(lease),
            Ok(Found::Busy) | Err(Unavailable) => None,
        };
        self.inner.metrics.cache_missed(cache);
        let began = Instant::now();
        let Some(Read { value, life }) = read.await? else { return Ok(None) };
        if let Some(lease) = lease
            && began.elapsed() < FRESH
            && let Ok(text) = serde_json::to_string(&value)
        {
            // Where it is not filled in, the next reader asks the database as well.
            let _ = entries.fill(key, &lease, generation, &text, life).await;
        }
        Ok(Some(value))
    }

    /// Begins the next generation: a cache could not be told of something.
    async fn distrust(&self) {
        match self.inner.store.next_cache_generation().await {
            Ok(generation) => tracing::debug!(generation, "Redis could not be told of a change; caches begin anew"),
            Err(error) => tracing::warn!(%error, "Redis could not be told of a change, and neither could the database"),
        }
    }

    fn known(&self) -> MutexGuard<'_, Option<Known>> {
        self.inner.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
