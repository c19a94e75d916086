//! API keys.

use std::time::Duration;

use orrery_server::store::*;
use uuid::Uuid;

use crate::support::*;

async fn api_key(store: &DynStore, hash: u8, expires_in: Option<i64>) -> ApiKey {
    stored(store, TENANT, hash, expires_in).await
}

/// A key of a tenant that does not expire.
pub(crate) async fn key_of(store: &DynStore, tenant: Uuid, hash: u8) -> ApiKey {
    stored(store, tenant, hash, None).await
}

async fn stored(store: &DynStore, tenant: Uuid, hash: u8, expires_in: Option<i64>) -> ApiKey {
    let expires_at = match expires_in {
        Some(seconds) => Some(seconds_from_now(store, seconds).await),
        None => None,
    };
    let key = ApiKey {
        id: Uuid::new_v4(),
        tenant_id: Some(tenant),
        name: "ci".to_owned(),
        prefix: "ork_abc".to_owned(),
        hash: hashed(hash),
        permissions: vec!["jobs:read".to_owned(), "*".to_owned()],
        created_by: Some(USER),
        created_at: seconds_from_now(store, 0).await,
        expires_at,
        last_used_at: None,
        revoked_at: None,
    };
    store.insert_key(&key).await.unwrap();
    key
}

fn hashed(hash: u8) -> KeyHash {
    KeyHash { pepper: Some([9; 8]), hash: [hash; 32] }
}

async fn found(store: &DynStore, hash: u8) -> Option<ApiKey> {
    store.key_by_hash(&[hashed(hash)]).await.unwrap()
}

pub async fn a_key_is_found_by_its_hash(store: DynStore) {
    let (forever, an_hour) = (api_key(&store, 1, None).await, api_key(&store, 2, Some(3600)).await);
    assert_eq!(found(&store, 1).await, Some(forever.clone()));
    assert_eq!(store.key_by_hash(&[hashed(3), hashed(2)]).await.unwrap(), Some(an_hour));
    assert_eq!(found(&store, 3).await, None);
    // The same bytes under another pepper, or under none, are another hash.
    for pepper in [None, Some([8; 8])] {
        assert_eq!(store.key_by_hash(&[KeyHash { pepper, hash: [1; 32] }]).await.unwrap(), None);
    }
    let old = ApiKey { id: Uuid::new_v4(), hash: KeyHash { pepper: None, hash: [4; 32] }, ..forever };
    store.insert_key(&old).await.unwrap();
    assert_eq!(store.key_by_hash(&[hashed(4), old.hash.clone()]).await.unwrap(), Some(old));
}

pub async fn expired_keys_are_not_found(store: DynStore) {
    api_key(&store, 1, Some(-1)).await;
    assert_eq!(found(&store, 1).await, None);
}

pub async fn revoked_keys_are_not_found_and_stay_listed(store: DynStore) {
    let (mine, other) = (api_key(&store, 1, None).await, api_key(&store, 2, None).await);
    let theirs = KeysOf::Tenant(OTHER_TENANT);
    assert!(matches!(store.revoke_key(theirs, mine.id).await, Err(StoreError::NotFound)));
    assert!(found(&store, 1).await.is_some());
    let revoked = store.revoke_key(KeysOf::Tenant(TENANT), mine.id).await.unwrap();
    assert!(revoked.revoked_at.is_some());
    assert_eq!(found(&store, 1).await, None);
    assert_eq!(store.revoke_key(KeysOf::Everybody, mine.id).await.unwrap().revoked_at, revoked.revoked_at);
    let all = |of| {
        let store = store.clone();
        async move {
            let page = Page { after: None, limit: 10 };
            let mut ids: Vec<Uuid> = store.keys(of, &page).await.unwrap().iter().map(|key| key.id).collect();
            ids.sort_unstable();
            ids
        }
    };
    let mut expected = vec![mine.id, other.id];
    expected.sort_unstable();
    assert_eq!(all(KeysOf::Tenant(TENANT)).await, expected);
    assert_eq!(all(KeysOf::Everybody).await, expected);
    assert!(all(theirs).await.is_empty());
    let first = store.keys(KeysOf::Everybody, &Page { after: None, limit: 1 }).await.unwrap().remove(0);
    let second = store.keys(KeysOf::Everybody, &Page { after: Some(first.id), limit: 10 }).await.unwrap();
    assert_eq!(second.len(), 1);
    assert_ne!(second[0].id, first.id);
}

pub async fn the_latest_use_of_a_key_is_kept(store: DynStore) {
    let key = api_key(&store, 1, None).await;
    let used = async |ago| {
        store.keys_used(&[(key.id, Duration::from_secs(ago)), (Uuid::new_v4(), Duration::ZERO)]).await.unwrap();
        found(&store, 1).await.unwrap().last_used_at.unwrap()
    };
    let before = now(&store).await;
    let an_hour_ago = used(3600).await;
    assert!((before - an_hour_ago).num_seconds().abs_diff(3600) < 60, "{an_hour_ago}");
    let just_now = used(0).await;
    assert!(just_now >= before);
    assert_eq!(used(60).await, just_now);
}
