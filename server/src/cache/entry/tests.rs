//! On a real Redis, found in `ORRERY_TEST_REDIS_URL`.

use super::*;
use crate::telemetry::Metrics;

const LIFE: Duration = Duration::from_secs(60);

async fn entries() -> (Entries, String) {
    let url = std::env::var("ORRERY_TEST_REDIS_URL")
        .unwrap_or_else(|_| panic!("ORRERY_TEST_REDIS_URL is not set: give the address of a Redis"));
    let redis = Redis::new(&url, Metrics::default()).unwrap();
    redis.look().await;
    (Entries::new(redis), format!("test:{}", Uuid::new_v4()))
}

async fn lease(entries: &Entries, key: &str, generation: i64) -> String {
    match entries.get(key, generation).await.unwrap() {
        Found::Lease(lease) => lease,
        Found::Value(value) => panic!("there is a value: {value}"),
        Found::Busy => panic!("it is busy"),
    }
}

async fn value(entries: &Entries, key: &str, generation: i64) -> Option<String> {
    match entries.get(key, generation).await.unwrap() {
        Found::Value(value) => Some(value),
        _ => None,
    }
}

#[tokio::test]
async fn one_fills_in_and_others_read() {
    let (entries, key) = entries().await;
    let first = lease(&entries, &key, 1).await;
    assert!(matches!(entries.get(&key, 1).await.unwrap(), Found::Busy), "two leases at once");
    assert!(entries.fill(&key, &first, 1, "a", LIFE).await.unwrap());
    assert_eq!(value(&entries, &key, 1).await.as_deref(), Some("a"));
    // What is of no use to one reader is filled in anew.
    let second = entries.renew(&key).await.unwrap().unwrap();
    assert!(!entries.fill(&key, &first, 1, "a", LIFE).await.unwrap());
    assert!(entries.fill(&key, &second, 1, "b", LIFE).await.unwrap());
    assert_eq!(value(&entries, &key, 1).await.as_deref(), Some("b"));
}

#[tokio::test]
async fn what_was_read_before_a_change_is_not_filled_in_after_it() {
    let (entries, key) = entries().await;
    let keys = [key.clone()];
    let early = lease(&entries, &key, 1).await;
    let fence = entries.put_up(&keys).await.unwrap();
    assert!(!entries.fill(&key, &early, 1, "old", LIFE).await.unwrap());
    assert!(matches!(entries.get(&key, 1).await.unwrap(), Found::Busy), "a lease before the change is done");
    assert!(entries.renew(&key).await.unwrap().is_none());
    entries.clear(&keys, &fence).await.unwrap();
    assert!(!entries.fill(&key, &early, 1, "old", LIFE).await.unwrap(), "the old value has come back");
    let late = lease(&entries, &key, 1).await;
    assert!(!entries.fill(&key, &early, 1, "old", LIFE).await.unwrap());
    assert!(entries.fill(&key, &late, 1, "new", LIFE).await.unwrap());
}

#[tokio::test]
async fn a_fence_of_another_stays() {
    let (entries, key) = entries().await;
    let keys = [key.clone()];
    let first = entries.put_up(&keys).await.unwrap();
    let second = entries.put_up(&keys).await.unwrap();
    entries.clear(&keys, &first).await.unwrap();
    assert!(matches!(entries.get(&key, 1).await.unwrap(), Found::Busy), "the second change is not done");
    entries.clear(&keys, &second).await.unwrap();
    lease(&entries, &key, 1).await;
}

#[tokio::test]
async fn what_redis_has_lost_is_not_filled_in() {
    let (entries, key) = entries().await;
    let keys = [key.clone()];
    let early = lease(&entries, &key, 1).await;
    entries.clear(&keys, "none").await.unwrap();
    assert!(!entries.fill(&key, &early, 1, "old", LIFE).await.unwrap());
    // A fence is lost in the middle of a change; what was filled in meanwhile goes at its end.
    let fence = entries.put_up(&keys).await.unwrap();
    entries.clear(&keys, &fence).await.unwrap();
    let meanwhile = lease(&entries, &key, 1).await;
    assert!(entries.fill(&key, &meanwhile, 1, "old", LIFE).await.unwrap());
    entries.clear(&keys, &fence).await.unwrap();
    assert_eq!(value(&entries, &key, 1).await, None);
}

#[tokio::test]
async fn an_older_generation_counts_for_nothing() {
    let (entries, key) = entries().await;
    let first = lease(&entries, &key, 1).await;
    entries.fill(&key, &first, 1, "a", LIFE).await.unwrap();
    let second = lease(&entries, &key, 2).await;
    entries.fill(&key, &second, 2, "b", LIFE).await.unwrap();
    // Who is behind may read what is newer.
    assert_eq!(value(&entries, &key, 1).await.as_deref(), Some("b"));
}
