//! API keys: 256 random bits that only their owner knows. The store keeps their SHA-256.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::principal::Kind;
use super::{Permissions, Principal};
use crate::store::ApiKey;

/// What every key begins with, so that people and scanners of leaked secrets know it.
pub(super) const PREFIX: &str = "ork_";
/// How many characters of a key are kept for people to tell keys apart.
const SHOWN: usize = 12;
/// How long a key that was found is good without asking the store again; a revoked key lives so much longer.
const KEPT: Duration = Duration::from_secs(10);
/// The most keys that are remembered.
const MOST: usize = 10_000;

/// Makes a key: its text, which is shown once and never again, and what is stored.
pub fn generate_key(
    tenant_id: Option<Uuid>,
    name: &str,
    permissions: Vec<String>,
    expires_at: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> (String, ApiKey) {
    let plain = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>()));
    let stored = ApiKey {
        id: Uuid::now_v7(),
        tenant_id,
        name: name.to_owned(),
        prefix: plain.chars().take(SHOWN).collect(),
        hash: hash(&plain),
        permissions,
        expires_at,
        created_at: now,
    };
    (plain, stored)
}

/// What the store knows a key by.
pub(super) fn hash(plain: &str) -> [u8; 32] {
    Sha256::digest(plain.as_bytes()).into()
}

/// Who calls with a key.
pub(super) fn principal(key: &ApiKey) -> Principal {
    let all = key.permissions.iter().any(|permission| permission == "*");
    Principal {
        kind: Kind::Key,
        tenant_id: key.tenant_id,
        subject: key.id,
        name: key.name.clone(),
        permissions: if all { Permissions::All } else { Permissions::Only(key.permissions.clone()) },
    }
}

/// Keys that were found lately. Those that were not found are asked for each time: a key may have been made just now.
#[derive(Debug, Default)]
pub(super) struct KnownKeys {
    found: Mutex<HashMap<[u8; 32], (Instant, Principal)>>,
}

impl KnownKeys {
    pub(super) fn get(&self, hash: &[u8; 32]) -> Option<Principal> {
        let found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.get(hash).filter(|(at, _)| at.elapsed() < KEPT).map(|(_, principal)| principal.clone())
    }

    pub(super) fn put(&self, hash: [u8; 32], principal: Principal) {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        if found.len() >= MOST {
            found.retain(|_, (at, _)| at.elapsed() < KEPT);
        }
        if found.len() < MOST {
            found.insert(hash, (Instant::now(), principal));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_by_its_hash_only() {
        let now = DateTime::UNIX_EPOCH;
        let (plain, key) = generate_key(None, "ci", vec!["*".into()], None, now);
        let (other, _) = generate_key(None, "ci", vec![], None, now);
        assert_ne!(plain, other);
        assert_eq!(plain.len(), PREFIX.len() + 43);
        assert_eq!(key.hash, hash(&plain));
        assert!(plain.starts_with(&key.prefix) && key.prefix.len() < plain.len());
        assert_eq!(principal(&key).permissions, Permissions::All);
    }
}
