//! Caches in Redis. What they answer is what the store says, whatever comes between.
//!
//! Redis is reached by `ORRERY_TEST_REDIS_URL`.

use std::time::Duration;

use chrono::{NaiveTime, TimeDelta};
use orrery_server::cache::Caches;
use orrery_server::job::Job;
use orrery_server::redis::Redis;
use orrery_server::store::*;
use orrery_server::telemetry::Metrics;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::locks::{connection, url};
use crate::support::*;

/// One coordinator's caches.
struct Coordinator {
    caches: Caches,
    metrics: Metrics,
    _loops: DropGuard,
}

impl Coordinator {
    /// One that has found Redis and trusts it.
    async fn new(store: &DynStore) -> Self {
        let (metrics, loops) = (Metrics::default(), CancellationToken::new());
        let redis = Redis::with_patience(&url(), Duration::from_secs(60), metrics.clone()).unwrap();
        redis.look().await;
        assert!(redis.is_up(), "the Redis of ORRERY_TEST_REDIS_URL does not answer");
        let caches = Caches::new(store.clone(), Some(redis.clone()), metrics.clone());
        tokio::spawn(redis.keep(loops.clone()));
        tokio::spawn(caches.clone().keep(loops.clone()));
        Self { caches, metrics, _loops: loops.drop_guard() }
    }

    async fn name(&self, job: &Job) -> String {
        self.caches.job(TENANT, job.id).await.unwrap().unwrap().spec.name
    }

    fn hits(&self, cache: &str) -> f64 {
        let series = format!("scheduler_cache_hits_total{{cache=\"{cache}\"}}");
        self.metrics.sample().get(&series).copied().unwrap_or_default()
    }

    /// Asks until the answer comes from the cache.
    async fn cached(&self, job: &Job) -> String {
        let before = self.hits("job_config");
        let until = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            let name = self.name(job).await;
            if self.hits("job_config") > before {
                return name;
            }
            assert!(tokio::time::Instant::now() < until, "the cache does not answer");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn rename(store: &DynStore, job: &Job, name: &str) {
    let change = |job: &Job, _| {
        let mut job = job.clone();
        job.spec.name = name.to_owned();
        Ok(JobChange { job, unplan: false, cancel: None, omission: None })
    };
    store.change_job(TENANT, job.id, &change).await.unwrap();
}

async fn ask<T: redis::FromRedisValue>(command: &[&str]) -> T {
    let mut asked = redis::cmd(command[0]);
    for argument in &command[1..] {
        asked.arg(argument);
    }
    asked.query_async(&mut connection().await).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_edit_ends_what_is_cached_everywhere() {
    crate::engines::run(crate::engines::postgres(), |store| async move {
        let job = job(&store, "a").await;
        let (one, two) = (Coordinator::new(&store).await, Coordinator::new(&store).await);
        assert_eq!((one.cached(&job).await, two.cached(&job).await), ("a".into(), "a".into()));
        let life: i64 = ask(&["PTTL", &format!("scheduler:job_config:{}", job.id)]).await;
        assert!((3_500_000..=3_600_000).contains(&life), "{life}");
        // Another tenant has no such job.
        assert!(one.caches.job(uuid::Uuid::from_u128(99), job.id).await.unwrap().is_none());
        for name in ["b", "c", "d"] {
            let changing = one.caches.changing(job.id).await;
            rename(&store, &job, name).await;
            // The fence stands: whoever asks, asks the store.
            assert_eq!(two.name(&job).await, name);
            changing.done().await;
            assert_eq!((two.name(&job).await, two.cached(&job).await), (name.into(), name.into()));
        }
    })
    .await;
}

/// A reader that read before the edit and fills in after it must not bring the old value back.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_of_before_comes_back() {
    crate::engines::run(crate::engines::postgres(), |store| async move {
        let job = job(&store, "0").await;
        let writer = Coordinator::new(&store).await;
        let reader = Coordinator::new(&store).await;
        reader.cached(&job).await;
        let seen = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        let stop = CancellationToken::new();
        let readers: Vec<_> = (0..8)
            .map(|_| {
                let (caches, seen, stop, id) = (reader.caches.clone(), seen.clone(), stop.clone(), job.id);
                tokio::spawn(async move {
                    while !stop.is_cancelled() {
                        let told = seen.load(std::sync::atomic::Ordering::SeqCst);
                        let found = caches.job(TENANT, id).await.unwrap().unwrap();
                        let name: u64 = found.spec.name.parse().unwrap();
                        assert!(name >= told, "{name} was read after {told} had been told");
                    }
                })
            })
            .collect();
        for n in 1..=60_u64 {
            let changing = writer.caches.changing(job.id).await;
            rename(&store, &job, &n.to_string()).await;
            changing.done().await;
            seen.store(n, std::sync::atomic::Ordering::SeqCst);
            if n % 5 == 0 {
                // The next edit is of what is in the cache; without this, hardly anything would ever be.
                assert_eq!(reader.cached(&job).await, n.to_string());
            }
            if n % 20 == 0 {
                // Redis loses what it knows of this job in the middle.
                ask::<i64>(&["DEL", &format!("scheduler:job_config:{}", job.id)]).await;
            }
        }
        stop.cancel();
        for reader in readers {
            reader.await.unwrap();
        }
        assert_eq!(reader.cached(&job).await, "60");
    })
    .await;
}

/// The coordinator that edits cannot reach Redis; the other one can.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_edit_that_redis_was_not_told_of_is_soon_seen() {
    crate::engines::run(crate::engines::postgres(), |store| async move {
        let job = job(&store, "a").await;
        let reader = Coordinator::new(&store).await;
        assert_eq!(reader.cached(&job).await, "a");
        let away = Redis::new("redis://127.0.0.1:1", Metrics::default()).unwrap();
        let cut_off = Caches::new(store.clone(), Some(away), Metrics::default());
        let changing = cut_off.changing(job.id).await;
        rename(&store, &job, "b").await;
        changing.done().await;
        let until = tokio::time::Instant::now() + orrery_server::cache::TRUST + Duration::from_secs(2);
        while reader.name(&job).await != "b" {
            assert!(tokio::time::Instant::now() < until, "an old value is still answered");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(reader.cached(&job).await, "b");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_totals_of_a_day_are_kept_until_something_is_written_into_it() {
    crate::engines::run(crate::engines::postgres(), |store| async move {
        // It has no fire to come, so that no day that is over is still to be planned.
        let job = job(&store, "a").await;
        let coordinator = Coordinator::new(&store).await;
        let from = (now(&store).await - TimeDelta::days(3)).date_naive().and_time(NaiveTime::MIN).and_utc();
        let to = from + TimeDelta::days(1);
        let key = format!("scheduler:stats:{TENANT}:{}", from.date_naive());
        ask::<i64>(&["DEL", &key]).await;
        let until = tokio::time::Instant::now() + Duration::from_secs(20);
        while coordinator.hits("stats") < 0.5 {
            assert_eq!(coordinator.caches.stats(TENANT, from, to).await.unwrap(), Stats::default());
            assert!(tokio::time::Instant::now() < until, "the cache does not answer");
        }
        let life: i64 = ask(&["PTTL", &key]).await;
        assert!((86_000_000..=86_400_000).contains(&life), "{life}");
        let omit = |job: &Job, _| {
            let omission = Some(omission("paused", from + TimeDelta::hours(1)));
            Ok(JobChange { job: job.clone(), unplan: false, cancel: None, omission })
        };
        store.change_job(TENANT, job.id, &omit).await.unwrap();
        coordinator.caches.forget_days(TENANT, from, to).await;
        let stats = coordinator.caches.stats(TENANT, from, to).await.unwrap();
        assert!(stats.omitted > 0, "what was written into the day is not in its totals");
        ask::<i64>(&["DEL", &key]).await;
    })
    .await;
}
