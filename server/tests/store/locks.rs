//! Locks as calls take them, wherever they stand: on Redis, in PostgreSQL, in SQLite.
//!
//! Redis is reached by `ORRERY_TEST_REDIS_URL`, such as `redis://127.0.0.1:6379`.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use orrery_server::error::Error;
use orrery_server::lock::{LockError, Locks, Side, of_job};
use orrery_server::redis::Redis;
use orrery_server::store::DynStore;
use orrery_server::telemetry::Metrics;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const LONG: Duration = Duration::from_secs(60);

/// Where locks stand in a test.
struct Place {
    store: DynStore,
    redis: Option<Redis>,
    metrics: Metrics,
    /// Ends the loop that looks after Redis.
    _keeping: tokio_util::sync::DropGuard,
}

impl Place {
    async fn new(store: DynStore, url: Option<&str>) -> Self {
        let keeping = CancellationToken::new();
        let redis = url.map(|url| Redis::with_patience(url, LONG, Metrics::default()).unwrap());
        if let Some(redis) = &redis {
            redis.look().await;
            assert!(redis.is_up(), "the Redis of ORRERY_TEST_REDIS_URL does not answer");
            tokio::spawn(redis.clone().keep(keeping.clone()));
        }
        Self { store, redis, metrics: Metrics::default(), _keeping: keeping.drop_guard() }
    }

    /// The locks of one more coordinator.
    fn coordinator(&self, ttl: Duration) -> Locks {
        Locks::new(self.store.clone(), self.redis.clone(), Uuid::new_v4(), ttl, self.metrics.clone())
    }

    /// A lock whose holder has died.
    async fn abandoned(&self, key: &str, ttl: Duration) {
        match &self.redis {
            Some(_) => {
                let mut set = redis::cmd("SET");
                set.arg(key).arg("dead").arg("PX").arg(u64::try_from(ttl.as_millis()).unwrap()).arg("NX");
                set.exec_async(&mut connection().await).await.unwrap();
            }
            None => assert!(self.store.lock(key, "dead", ttl).await.unwrap()),
        }
    }

    fn count(&self, name: &str) -> f64 {
        self.metrics.sample()[name]
    }
}

pub(crate) fn url() -> String {
    std::env::var("ORRERY_TEST_REDIS_URL").unwrap_or_else(|_| {
        panic!("ORRERY_TEST_REDIS_URL is not set: give the address of a Redis, such as redis://127.0.0.1:6379")
    })
}

pub(crate) async fn connection() -> redis::aio::MultiplexedConnection {
    redis::Client::open(url()).unwrap().get_multiplexed_async_connection().await.unwrap()
}

fn key() -> String {
    of_job(Uuid::new_v4())
}

macro_rules! everywhere {
    ($($test:ident)+) => {
        everywhere! { @on on_redis sqlite Some(&*super::url()), $($test)+ }
        everywhere! { @on on_postgres postgres None, $($test)+ }
        everywhere! { @on on_sqlite sqlite None, $($test)+ }
    };
    (@on $place:ident $engine:ident $url:expr, $($test:ident)+) => {
        mod $place {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $test() {
                crate::engines::run(crate::engines::$engine(), |store| async move {
                    super::$test(super::Place::new(store, $url).await).await;
                }).await;
            })+
        }
    };
}

everywhere! {
    one_holder_at_a_time
    waiting_has_an_end
    a_dead_holder_is_waited_for
    a_lock_is_extended_while_it_is_held
    dropping_gives_it_back
}

/// Fifty coordinators want the same lock.
async fn one_holder_at_a_time(place: Place) {
    let key = key();
    let holders: Arc<[AtomicI64; 2]> = Arc::default();
    let tasks = (0..50).map(|_| {
        let (locks, key, holders) = (place.coordinator(LONG), key.clone(), holders.clone());
        tokio::spawn(async move {
            let held = locks.acquire(&key, LONG).await.unwrap();
            let on = &holders[usize::from(held.side() == Some(Side::Redis))];
            assert_eq!(on.fetch_add(1, Ordering::SeqCst), 0, "two hold it");
            tokio::task::yield_now().await;
            on.fetch_sub(1, Ordering::SeqCst);
            held.release().await;
        })
    });
    for task in futures_util::future::join_all(tasks).await {
        task.unwrap();
    }
    assert!((place.count("scheduler_lock_acquisitions_total") - 50.0).abs() < 0.1);
}

async fn waiting_has_an_end(place: Place) {
    let key = key();
    let (first, second) = (place.coordinator(LONG), place.coordinator(LONG));
    let held = first.acquire(&key, LONG).await.unwrap();
    // Whether by the turn in the same process or by the shared lock.
    for locks in [&first, &second] {
        let asked = Instant::now();
        let refused = locks.acquire(&key, Duration::from_millis(100)).await.err().expect("it is another's");
        assert!(matches!(&refused, LockError::TimedOut(name) if *name == key), "{refused}");
        assert!(asked.elapsed() < Duration::from_secs(10));
        let error = Error::from(refused);
        assert_eq!((error.code, error.details["lock"].as_str()), ("LOCK_ACQUISITION_FAILED", key.as_str()));
    }
    assert!((place.count("scheduler_lock_timeouts_total") - 2.0).abs() < 0.1);
    held.release().await;
    second.acquire(&key, LONG).await.unwrap();
}

async fn a_dead_holder_is_waited_for(place: Place) {
    let key = key();
    let began = Instant::now();
    place.abandoned(&key, Duration::from_millis(300)).await;
    place.coordinator(LONG).acquire(&key, LONG).await.unwrap();
    assert!(began.elapsed() > Duration::from_millis(290), "the lock of another was taken");
}

async fn a_lock_is_extended_while_it_is_held(place: Place) {
    let key = key();
    let ttl = Duration::from_secs(2);
    let held = place.coordinator(ttl).acquire(&key, LONG).await.unwrap();
    let other = place.coordinator(ttl);
    assert!(other.acquire(&key, ttl * 2).await.is_err(), "it ended while it was held");
    held.release().await;
    other.acquire(&key, LONG).await.unwrap();
}

async fn dropping_gives_it_back(place: Place) {
    let key = key();
    let (first, second) = (place.coordinator(LONG), place.coordinator(LONG));
    drop(first.acquire(&key, LONG).await.unwrap());
    second.acquire(&key, Duration::from_secs(30)).await.unwrap();
}

/// What deletes without comparing frees a lock that has gone to another meanwhile.
#[tokio::test]
async fn a_late_holder_does_not_give_anothers_lock_back() {
    crate::engines::run(crate::engines::sqlite(), |store| async move {
        let place = Place::new(store, Some(&url())).await;
        let key = key();
        let late = place.coordinator(LONG).acquire(&key, LONG).await.unwrap();
        assert_eq!(late.side(), Some(Side::Redis));
        let mut connection = connection().await;
        redis::cmd("SET").arg(&key).arg("another").exec_async(&mut connection).await.unwrap();
        late.release().await;
        let holder: Option<String> = redis::cmd("GET").arg(&key).query_async(&mut connection).await.unwrap();
        assert_eq!(holder.as_deref(), Some("another"));
        redis::cmd("DEL").arg(&key).exec_async(&mut connection).await.unwrap();
    })
    .await;
}

/// Nobody listens at this address.
#[tokio::test]
async fn without_redis_the_lock_stands_in_the_database() {
    crate::engines::run(crate::engines::sqlite(), |store| async move {
        let redis = Redis::new("redis://127.0.0.1:1", Metrics::default()).unwrap();
        redis.look().await;
        assert!(!redis.is_up());
        let locks = |redis| Locks::new(store.clone(), redis, Uuid::new_v4(), LONG, Metrics::default());
        let key = key();
        let held = locks(Some(redis)).acquire(&key, LONG).await.unwrap();
        assert_eq!(held.side(), Some(Side::Database));
        assert!(locks(None).acquire(&key, Duration::from_millis(20)).await.is_err());
    })
    .await;
}
