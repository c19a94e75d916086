//! API keys: 256 random bits that only their owner knows. The store keeps their HMAC-SHA-256 under the deployment's pepper, so that who
//! reads or writes the database alone can neither use nor make one.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::keyring::Keyring;
use super::principal::Kind;
use super::recent::Recent;
use super::{Principal, grants, unauthenticated};
use crate::error::Error;
use crate::store::{ApiKey, DynStore};

/// What every key begins with, so that people and scanners of leaked secrets know it.
pub(super) const PREFIX: &str = "ork_";
/// How many characters of a key are kept for people to tell keys apart.
const SHOWN: usize = 12;
/// How long a key that was found is good without asking the store again; a key that another coordinator has revoked lives so much longer.
const KEPT: Duration = Duration::from_secs(10);
/// Keys that are asked of the store at once. Wrong ones are never remembered, so this bounds what guessing takes from the database.
const AT_ONCE: usize = 4;

/// A key to make.
#[derive(Clone, Debug)]
pub struct NewKey {
    /// `None`: of the deployment.
    pub tenant_id: Option<Uuid>,
    pub name: String,
    pub permissions: Vec<String>,
    pub expires_at: Option<DateTime<Utc>>,
    pub created_by: Option<Uuid>,
}

/// Makes a key: its text, which is shown once and never again, and what is stored.
pub fn generate_key(keyring: &Keyring, new: NewKey, now: DateTime<Utc>) -> (String, ApiKey) {
    let plain = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()));
    let stored = ApiKey {
        id: Uuid::now_v7(),
        tenant_id: new.tenant_id,
        name: new.name,
        prefix: plain.chars().take(SHOWN).collect(),
        hash: keyring.hash(&plain),
        permissions: new.permissions,
        created_by: new.created_by,
        created_at: now,
        expires_at: new.expires_at,
        last_used_at: None,
        revoked_at: None,
    };
    (plain, stored)
}

/// Who calls with a key.
fn principal(key: &ApiKey) -> Principal {
    Principal {
        kind: Kind::Key,
        tenant_id: key.tenant_id,
        subject: key.id,
        name: key.name.clone(),
        roles: Vec::new(),
        permissions: grants::permissions(Some(key.permissions.clone()), &[]),
        tagged: Vec::new(),
    }
}

/// Whether a text can be a key at all. Others are not worth a look into the database.
fn is_whole(plain: &str) -> bool {
    let random = plain.strip_prefix(PREFIX).and_then(|random| URL_SAFE_NO_PAD.decode(random).ok());
    random.is_some_and(|random| random.len() == 32)
}

/// Finds keys, and remembers which were used.
pub(super) struct Keys {
    store: DynStore,
    keyring: Keyring,
    /// Keys that were found lately, by what is stored of them. Those that were not are asked for each time: a key may have been made just now.
    found: Recent<[u8; 32], Principal>,
    asking: Semaphore,
    /// Uses that are not yet stored, by the key's id.
    used: Mutex<HashMap<Uuid, Instant>>,
}

impl Keys {
    pub(super) fn new(store: DynStore, keyring: Keyring) -> Self {
        Self { store, keyring, found: Recent::default(), asking: Semaphore::new(AT_ONCE), used: Mutex::default() }
    }

    /// Who calls with a key.
    ///
    /// # Errors
    /// UNAUTHENTICATED where there is none, or it has expired or been revoked.
    pub(super) async fn principal(&self, plain: &str) -> Result<Principal, Error> {
        let unknown = || unauthenticated("the API key is unknown, expired or revoked");
        if !is_whole(plain) {
            return Err(unknown());
        }
        let remembered = self.keyring.hash(plain).hash;
        let principal = match self.found.get(&remembered) {
            Some(known) => known,
            None => {
                let _turn = self.asking.acquire().await.map_err(|_| unknown())?;
                let key = self.store.key_by_hash(&self.keyring.hashes(plain)).await?.ok_or_else(unknown)?;
                let principal = principal(&key);
                self.found.put(remembered, principal.clone(), KEPT);
                principal
            }
        };
        self.used.lock().unwrap_or_else(PoisonError::into_inner).insert(principal.subject, Instant::now());
        Ok(principal)
    }

    /// A key was revoked here: nobody comes in by what is remembered of it.
    pub(super) fn forget(&self, id: Uuid) {
        self.found.forget(|_, principal| principal.subject == id);
    }

    /// Stores which keys were used since the last time. What cannot be stored is told, and lost: it decides nothing.
    pub(super) async fn store_uses(&self) {
        let used = std::mem::take(&mut *self.used.lock().unwrap_or_else(PoisonError::into_inner));
        if used.is_empty() {
            return;
        }
        let mut uses: Vec<(Uuid, Duration)> = used.into_iter().map(|(id, at)| (id, at.elapsed())).collect();
        // In one order, so that coordinators that store the same keys do not cross.
        uses.sort_unstable();
        if let Err(error) = self.store.keys_used(&uses).await {
            tracing::debug!(%error, keys = uses.len(), "the last uses of keys were not stored");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::auth::Permissions;
    use crate::config::ServerSecret;
    use crate::store::KeysOf;
    use crate::store::sqlite::SqliteStore;

    fn keyring() -> Keyring {
        let pepper = "q3v8Zk1mPw5Tn7Yc2Rb9Lx4Jd6Hf0Gs8Aa".to_owned();
        Keyring::from_settings(&ServerSecret { key_pepper: vec![pepper], key_file: None }, None).unwrap()
    }

    fn new(permissions: &[&str]) -> NewKey {
        let permissions = permissions.iter().map(ToString::to_string).collect();
        NewKey { tenant_id: None, name: "ci".into(), permissions, expires_at: None, created_by: None }
    }

    async fn keys() -> (tempfile::TempDir, Arc<Keys>) {
        let directory = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(directory.path().join("orrery.db")).await.unwrap();
        (directory, Arc::new(Keys::new(Arc::new(store), keyring())))
    }

    #[test]
    fn a_key_is_known_by_its_hash_only() {
        let now = DateTime::UNIX_EPOCH;
        let (plain, key) = generate_key(&keyring(), new(&["*"]), now);
        let (other, _) = generate_key(&keyring(), new(&[]), now);
        assert_ne!(plain, other);
        assert_eq!(plain.len(), PREFIX.len() + 43);
        assert!(is_whole(&plain) && !is_whole(&plain[..46]) && !is_whole(&format!("{plain}A")));
        assert!(key.hash.pepper.is_some() && keyring().hashes(&plain).contains(&key.hash));
        assert!(plain.starts_with(&key.prefix) && key.prefix.len() < plain.len());
        assert_eq!(principal(&key).permissions, Permissions::All);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn ten_thousand_wrong_keys_cost_little_and_keep_nobody_out() {
        let (_directory, keys) = keys().await;
        let (plain, key) = generate_key(&keyring(), new(&["jobs:read"]), Utc::now());
        keys.store.insert_key(&key).await.unwrap();
        let mut guesses = tokio::task::JoinSet::new();
        for _ in 0..10_000 {
            let keys = keys.clone();
            guesses.spawn(async move {
                let (guess, _) = generate_key(&keys.keyring, new(&[]), Utc::now());
                keys.principal(&guess).await.unwrap_err().code
            });
        }
        assert_eq!(keys.principal(&plain).await.unwrap().subject, key.id);
        while let Some(code) = guesses.join_next().await {
            assert_eq!(code.unwrap(), "UNAUTHENTICATED");
        }
        // Nothing of a wrong key is remembered, so that they cannot push the right ones out.
        assert_eq!(keys.found.len(), 1);
        assert_eq!(keys.used.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn guesses_wait_for_one_another_and_known_keys_for_nobody() {
        let (_directory, keys) = keys().await;
        let (plain, key) = generate_key(&keyring(), new(&[]), Utc::now());
        keys.store.insert_key(&key).await.unwrap();
        keys.principal(&plain).await.unwrap();
        let _guesses = keys.asking.acquire_many(u32::try_from(AT_ONCE).unwrap()).await.unwrap();
        let (guess, _) = generate_key(&keyring(), new(&[]), Utc::now());
        let mut waiting = Box::pin(keys.principal(&guess));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        keys.principal(&plain).await.unwrap();
    }

    #[tokio::test]
    async fn a_revoked_key_is_forgotten_and_its_last_use_is_stored() {
        let (_directory, keys) = keys().await;
        let (plain, key) = generate_key(&keyring(), new(&[]), Utc::now());
        keys.store.insert_key(&key).await.unwrap();
        keys.principal(&plain).await.unwrap();
        keys.store_uses().await;
        let stored = keys.store.revoke_key(KeysOf::Everybody, key.id).await.unwrap();
        assert!(stored.last_used_at.is_some() && stored.revoked_at.is_some());
        // Remembered here until it is said.
        keys.principal(&plain).await.unwrap();
        keys.forget(key.id);
        keys.principal(&plain).await.unwrap_err();
    }

    #[tokio::test]
    async fn a_key_of_before_is_found_by_its_sha_256() {
        let (_directory, keys) = keys().await;
        let (plain, key) = generate_key(&keyring(), new(&[]), Utc::now());
        let hash = keyring().hashes(&plain).pop().unwrap();
        assert_eq!(hash.pepper, None);
        keys.store.insert_key(&ApiKey { hash, ..key.clone() }).await.unwrap();
        assert_eq!(keys.principal(&plain).await.unwrap().subject, key.id);
    }
}
