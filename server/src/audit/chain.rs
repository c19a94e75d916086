//! The chain of a tenant. Pure.
//!
//! A seal takes up some entries, in the order of their ids, with the hash of each, and the hash of the seal before it. So one row seals many
//! entries, whatever of them is changed is known by its own hash, and nothing of the order can change without all that follows.

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::store::AuditEntry;

/// A SHA-256.
pub type Hash = [u8; 32];

/// The most entries of one seal. They are in memory together, with what they say of before and after.
pub const IN_A_SEAL: usize = 250;

/// Bytes of an entry in a seal: its id and its hash.
const PACKED: usize = 16 + 32;

/// Where a chain has got to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// 0 before the first seal.
    pub sequence: i64,
    pub hash: Hash,
    /// How many there are up to here.
    pub entries: i64,
}

/// A link of the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    pub tenant: Uuid,
    pub sequence: i64,
    pub sealed_at: DateTime<Utc>,
    /// In their order.
    pub entries: Vec<(Uuid, Hash)>,
    /// The newest instant among its entries.
    pub last_at: DateTime<Utc>,
    pub previous: Hash,
    pub hash: Hash,
}

impl Seal {
    /// The seal that follows on `after`.
    pub fn of(tenant: Uuid, after: Link, entries: &[AuditEntry], now: DateTime<Utc>) -> Self {
        let mut seal = Self {
            tenant,
            sequence: after.sequence + 1,
            sealed_at: now,
            entries: entries.iter().map(|entry| (entry.id, hash_of(entry))).collect(),
            last_at: entries.iter().map(|entry| entry.at).max().unwrap_or(now),
            previous: after.hash,
            hash: Hash::default(),
        };
        seal.hash = seal.digest();
        seal
    }

    /// Where the chain is with it.
    pub fn link(&self, after: Link) -> Link {
        let more = i64::try_from(self.entries.len()).unwrap_or(i64::MAX);
        Link { sequence: self.sequence, hash: self.hash, entries: after.entries.saturating_add(more) }
    }

    /// What its hash has to be.
    pub fn digest(&self) -> Hash {
        let mut digest = Sha256::new();
        digest.update(b"orrery audit seal v1");
        digest.update(self.tenant.as_bytes());
        digest.update(self.sequence.to_be_bytes());
        digest.update(self.sealed_at.timestamp_micros().to_be_bytes());
        digest.update(self.last_at.timestamp_micros().to_be_bytes());
        digest.update(self.previous);
        digest.update(self.packed());
        digest.finalize().into()
    }

    /// Its entries, as they are stored.
    pub fn packed(&self) -> Vec<u8> {
        self.entries
            .iter()
            .flat_map(|(id, hash)| id.as_bytes().iter().chain(hash).copied().collect::<Vec<u8>>())
            .collect()
    }

    /// The smallest and the greatest id among its entries.
    pub fn ends(&self) -> (Uuid, Uuid) {
        let ids = || self.entries.iter().map(|(id, _)| *id);
        (ids().min().unwrap_or_default(), ids().max().unwrap_or_default())
    }
}

/// Entries from how they are stored; what is cut is left out, and noticed by the seal's hash.
pub fn unpacked(bytes: &[u8]) -> Vec<(Uuid, Hash)> {
    let one = |bytes: &[u8]| {
        let (id, hash) = bytes.split_at(16);
        Some((Uuid::from_slice(id).ok()?, Hash::try_from(hash).ok()?))
    };
    bytes.chunks_exact(PACKED).filter_map(one).collect()
}

/// The hash of all that an entry says. Each part goes in with its length, so that nothing can move from one to the next.
pub fn hash_of(entry: &AuditEntry) -> Hash {
    let AuditEntry { id, at, author, deed, outcome } = entry;
    let mut digest = Sha256::new();
    digest.update(b"orrery audit entry v1");
    let mut part = |bytes: &[u8]| {
        digest.update((bytes.len() as u64).to_be_bytes());
        digest.update(bytes);
    };
    part(deed.tenant.as_bytes());
    part(id.as_bytes());
    part(&at.timestamp_micros().to_be_bytes());
    part(author.kind.as_bytes());
    part(author.id.as_bytes());
    for text in [&author.name, &author.address, &author.request_id, &deed.action] {
        part(text.as_bytes());
    }
    for text in [&deed.resource.kind, &deed.resource.id, &deed.resource.name] {
        part(text.as_bytes());
    }
    part(outcome.as_json_str().as_bytes());
    for json in [&deed.before, &deed.after] {
        // Nothing is not the same as an empty text.
        part(&[u8::from(json.is_some())]);
        part(json.as_deref().unwrap_or_default().as_bytes());
    }
    digest.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::tests::entry;

    #[test]
    fn every_part_of_an_entry_is_in_its_hash() {
        let known = hash_of(&entry(1));
        let changes: [fn(&mut AuditEntry); 12] = [
            |e| e.id = Uuid::from_u128(99),
            |e| e.at += chrono::TimeDelta::microseconds(1),
            |e| e.deed.tenant = Uuid::from_u128(99),
            |e| e.deed.action.push('x'),
            |e| e.deed.resource.kind.push('x'),
            |e| e.deed.resource.id.push('x'),
            |e| e.deed.resource.name.push('x'),
            |e| e.deed.before = None,
            |e| e.deed.after = Some(String::new()),
            |e| e.outcome = orrery_proto::v1::AuditOutcome::Denied,
            |e| std::sync::Arc::make_mut(&mut e.author).name.push('x'),
            |e| {
                // From one part to the next.
                let author = std::sync::Arc::make_mut(&mut e.author);
                let moved = author.name.pop().unwrap();
                author.address.insert(0, moved);
            },
        ];
        for (n, change) in changes.into_iter().enumerate() {
            let mut changed = entry(1);
            change(&mut changed);
            assert_ne!(hash_of(&changed), known, "change {n}");
        }
    }

    #[test]
    fn a_seal_comes_back_as_it_was_stored() {
        let seal = Seal::of(Uuid::from_u128(7), Link::default(), &[entry(1), entry(2)], DateTime::UNIX_EPOCH);
        assert_eq!(unpacked(&seal.packed()), seal.entries);
        assert_eq!((seal.sequence, seal.previous), (1, [0; 32]));
        let next = Seal::of(Uuid::from_u128(7), seal.link(Link::default()), &[entry(3)], DateTime::UNIX_EPOCH);
        assert_eq!((next.sequence, next.previous), (2, seal.hash));
        assert_eq!(next.link(seal.link(Link::default())).entries, 3);
    }
}
