//! What coordinators share beside the jobs.

use std::time::Duration;

use orrery_server::store::*;

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(30);

pub async fn a_lock_has_one_holder(store: DynStore) {
    assert!(store.lock("k", "a", LONG).await.unwrap());
    assert!(!store.lock("k", "b", LONG).await.unwrap());
    assert!(store.lock("other", "b", LONG).await.unwrap());
    assert!(store.unlock("k", "a").await.unwrap());
    assert!(store.lock("k", "b", LONG).await.unwrap());
    // Fifty at once: one has it.
    let tries = (0..50).map(|n| {
        let store = store.clone();
        tokio::spawn(async move { store.lock("race", &n.to_string(), LONG).await.unwrap() })
    });
    let taken = futures_util::future::join_all(tries).await.into_iter().filter(|taken| *taken.as_ref().unwrap());
    assert_eq!(taken.count(), 1);
}

pub async fn a_lock_ends_by_itself(store: DynStore) {
    assert!(store.lock("k", "a", SHORT).await.unwrap());
    taken(&store, "k", "b").await;
    assert!(!store.extend_lock("k", "a", LONG).await.unwrap(), "it is another's");
    assert!(store.extend_lock("k", "b", SHORT).await.unwrap());
    taken(&store, "k", "c").await;
    assert!(!store.extend_lock("none", "c", LONG).await.unwrap());
}

pub async fn only_its_holder_gives_a_lock_back(store: DynStore) {
    assert!(store.lock("k", "a", SHORT).await.unwrap());
    taken(&store, "k", "b").await;
    assert!(!store.unlock("k", "a").await.unwrap());
    assert!(!store.lock("k", "c", LONG).await.unwrap(), "a has given b's lock back");
    assert!(store.unlock("k", "b").await.unwrap());
    assert!(!store.unlock("k", "b").await.unwrap());
}

pub async fn generations_follow_one_another(store: DynStore) {
    let first = store.cache_generation().await.unwrap();
    let next = futures_util::future::join_all((0..10).map(|_| store.next_cache_generation())).await;
    let mut next: Vec<i64> = next.into_iter().map(Result::unwrap).collect();
    next.sort_unstable();
    assert_eq!(next, (first + 1..=first + 10).collect::<Vec<_>>());
    assert_eq!(store.cache_generation().await.unwrap(), first + 10);
}

/// Tries until the lock is free.
async fn taken(store: &DynStore, key: &str, holder: &str) {
    let until = tokio::time::Instant::now() + Duration::from_secs(20);
    while !store.lock(key, holder, LONG).await.unwrap() {
        assert!(tokio::time::Instant::now() < until, "the lock {key} did not end");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
