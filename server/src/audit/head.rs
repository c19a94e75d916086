//! Signed places of a chain: where it ends, and up to where retention has dropped it.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use uuid::Uuid;

use super::chain::Link;

/// What a place is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The end of the chain.
    Head,
    /// The last seal that retention has dropped.
    Checkpoint,
}

impl Place {
    /// As it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Head => "head",
            Self::Checkpoint => "checkpoint",
        }
    }
}

/// A place of a chain, signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub tenant: Uuid,
    pub place: Place,
    pub link: Link,
    /// When it was signed; of a checkpoint: up to when entries were dropped.
    pub at: DateTime<Utc>,
    /// Ed25519.
    pub public_key: Vec<u8>,
    pub signature: Vec<u8>,
}

impl Head {
    /// What is signed.
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("orrery audit {} v1", self.place.as_str()).into_bytes();
        bytes.extend_from_slice(self.tenant.as_bytes());
        bytes.extend_from_slice(&self.link.sequence.to_be_bytes());
        bytes.extend_from_slice(&self.link.entries.to_be_bytes());
        bytes.extend_from_slice(&self.link.hash);
        bytes.extend_from_slice(&self.at.timestamp_micros().to_be_bytes());
        bytes
    }
}

/// The keys that heads are signed with, which are derived from the deployment's secrets. Cheap to clone.
#[derive(Clone)]
pub struct Signer {
    /// The first signs; all of them are believed.
    keys: Arc<[Ed25519KeyPair]>,
}

impl std::fmt::Debug for Signer {
    /// Without the keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Signer").field("keys", &self.keys.len()).finish()
    }
}

impl Signer {
    /// One of seeds, the newest first.
    pub fn new<'a>(seeds: impl IntoIterator<Item = &'a [u8; 32]>) -> Self {
        // 32 bytes are a seed always.
        Self { keys: seeds.into_iter().filter_map(|seed| Ed25519KeyPair::from_seed_unchecked(seed).ok()).collect() }
    }

    /// Signs a place.
    pub fn sign(&self, place: Place, tenant: Uuid, link: Link, at: DateTime<Utc>) -> Head {
        let mut head = Head { tenant, place, link, at, public_key: Vec::new(), signature: Vec::new() };
        if let Some(key) = self.keys.first() {
            head.public_key = key.public_key().as_ref().to_vec();
            head.signature = key.sign(&head.bytes()).as_ref().to_vec();
        }
        head
    }

    /// Whether one of our keys has signed it.
    pub fn is_ours(&self, head: &Head) -> bool {
        let known = self.keys.iter().any(|key| key.public_key().as_ref() == head.public_key);
        known && UnparsedPublicKey::new(&ED25519, &head.public_key).verify(&head.bytes(), &head.signature).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_signed_is_believed() {
        let (old, new) = (Signer::new([&[1; 32]]), Signer::new([&[2; 32], &[1; 32]]));
        let link = Link { sequence: 3, hash: [9; 32], entries: 5 };
        let head = old.sign(Place::Head, Uuid::from_u128(1), link, DateTime::UNIX_EPOCH);
        // A secret that was replaced still counts while it is named.
        assert!(old.is_ours(&head) && new.is_ours(&head));
        assert!(!Signer::new([&[3; 32]]).is_ours(&head));
        for forged in [
            Head { tenant: Uuid::from_u128(2), ..head.clone() },
            Head { place: Place::Checkpoint, ..head.clone() },
            Head { link: Link { sequence: 2, ..link }, ..head.clone() },
            Head { link: Link { hash: [8; 32], ..link }, ..head.clone() },
            Head { link: Link { entries: 4, ..link }, ..head.clone() },
            Head { at: DateTime::UNIX_EPOCH + chrono::TimeDelta::microseconds(1), ..head.clone() },
        ] {
            assert!(!old.is_ours(&forged), "{forged:?}");
        }
        assert!(!format!("{old:?}").contains("1, 1"));
    }
}
