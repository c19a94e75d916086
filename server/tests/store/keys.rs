//! API keys.

use orrery_server::store::*;
use uuid::Uuid;

use crate::support::*;

async fn api_key(store: &DynStore, hash: u8, expires_in: Option<i64>) -> ApiKey {
    let expires_at = match expires_in {
        Some(seconds) => Some(seconds_from_now(store, seconds).await),
        None => None,
    };
    let key = ApiKey {
        id: Uuid::new_v4(),
        tenant_id: Some(TENANT),
        name: "ci".to_owned(),
        prefix: "ork_abc".to_owned(),
        hash: [hash; 32],
        permissions: vec!["jobs:read".to_owned(), "*".to_owned()],
        expires_at,
        created_at: seconds_from_now(store, 0).await,
    };
    store.insert_key(&key).await.unwrap();
    key
}

pub async fn a_key_is_found_by_its_hash(store: DynStore) {
    let (forever, an_hour) = (api_key(&store, 1, None).await, api_key(&store, 2, Some(3600)).await);
    assert_eq!(store.key_by_hash(&[1; 32]).await.unwrap(), Some(forever));
    assert_eq!(store.key_by_hash(&[2; 32]).await.unwrap(), Some(an_hour));
    assert_eq!(store.key_by_hash(&[3; 32]).await.unwrap(), None);
}

pub async fn expired_keys_are_not_found(store: DynStore) {
    api_key(&store, 1, Some(-1)).await;
    assert_eq!(store.key_by_hash(&[1; 32]).await.unwrap(), None);
}
