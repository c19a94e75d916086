//! Whether a chain is as it was written. Pure: what is looked at is read by who asks.

use std::collections::HashMap;

use uuid::Uuid;

use super::chain::{Link, Seal, hash_of};
use super::head::{Head, Signer};
use crate::store::AuditEntry;

/// What is not as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    EntryChanged,
    EntryMissing,
    /// No seal holds it, and it does not wait for one.
    EntryUnknown,
    /// It has waited for too long.
    EntryUnsealed,
    SealChanged,
    SealMissing,
    /// The chain is shorter than it was.
    TailMissing,
    HeadForged,
}

impl Fault {
    /// The documented code.
    pub fn code(self) -> &'static str {
        match self {
            Self::EntryChanged => "ENTRY_CHANGED",
            Self::EntryMissing => "ENTRY_MISSING",
            Self::EntryUnknown => "ENTRY_UNKNOWN",
            Self::EntryUnsealed => "ENTRY_UNSEALED",
            Self::SealChanged => "SEAL_CHANGED",
            Self::SealMissing => "SEAL_MISSING",
            Self::TailMissing => "TAIL_MISSING",
            Self::HeadForged => "HEAD_FORGED",
        }
    }
}

/// Something that is not as it was written, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub fault: Fault,
    /// 0 where it concerns no seal.
    pub sequence: i64,
    pub entry: Option<Uuid>,
    pub message: String,
}

impl Problem {
    /// A problem of an entry.
    pub fn of_entry(fault: Fault, sequence: i64, entry: Uuid) -> Self {
        let message = match fault {
            Fault::EntryMissing => format!("entry {entry} is gone"),
            Fault::EntryUnknown => format!("entry {entry} is in no seal: it was put in, or moved here"),
            Fault::EntryUnsealed => {
                format!("entry {entry} has waited for its seal for too long: is a coordinator running?")
            }
            _ => format!("entry {entry} is not what was sealed"),
        };
        Self { fault, sequence, entry: Some(entry), message }
    }

    fn of_seal(fault: Fault, sequence: i64, message: impl Into<String>) -> Self {
        Self { fault, sequence, entry: None, message: message.into() }
    }
}

/// What is wrong with seals that follow on a link, and with their entries. `None`: what came before them is not known.
pub fn seals(after: Option<Link>, seals: &[Seal], entries: &HashMap<Uuid, AuditEntry>) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut before = after;
    for seal in seals {
        let sequence = seal.sequence;
        match before {
            Some(link) if sequence != link.sequence + 1 => {
                let (from, to) = (link.sequence + 1, sequence - 1);
                problems.push(Problem::of_seal(Fault::SealMissing, from, format!("seals {from} to {to} are gone")));
            }
            Some(link) if seal.previous != link.hash => {
                let message = format!("seal {sequence} does not follow on the one before it");
                problems.push(Problem::of_seal(Fault::SealChanged, sequence, message));
            }
            _ => {}
        }
        if seal.digest() != seal.hash {
            let message = format!("seal {sequence} is not what it was, or stands in another's place");
            problems.push(Problem::of_seal(Fault::SealChanged, sequence, message));
        }
        for (id, hash) in &seal.entries {
            match entries.get(id) {
                None => problems.push(Problem::of_entry(Fault::EntryMissing, sequence, *id)),
                Some(entry) if hash_of(entry) != *hash => {
                    problems.push(Problem::of_entry(Fault::EntryChanged, sequence, *id));
                }
                Some(_) => {}
            }
        }
        before = Some(seal.link(before.unwrap_or_default()));
    }
    problems
}

/// What is wrong with a head that a chain has to lead to: `part` are the seals just looked at, `end` is where the chain ends, where that is known.
pub fn head(signer: &Signer, tenant: Uuid, head: &Head, part: &[Seal], end: Option<i64>) -> Vec<Problem> {
    let sequence = head.link.sequence;
    if head.tenant != tenant || !signer.is_ours(head) {
        let message = "the head was not signed by this deployment, for this tenant";
        return vec![Problem::of_seal(Fault::HeadForged, sequence, message)];
    }
    if let Some(end) = end.filter(|end| *end < sequence) {
        let message = format!("the chain ends with seal {end}, and had {sequence}");
        return vec![Problem::of_seal(Fault::TailMissing, end + 1, message)];
    }
    match part.iter().find(|seal| seal.sequence == sequence) {
        Some(seal) if seal.hash != head.link.hash => {
            let message = format!("seal {sequence} is another one than when the head was signed");
            vec![Problem::of_seal(Fault::SealChanged, sequence, message)]
        }
        _ => Vec::new(),
    }
}

/// That there is no head where there is a chain.
pub fn no_head(end: i64) -> Problem {
    Problem::of_seal(Fault::HeadForged, end, "the chain has no head any more")
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::audit::head::Place;
    use crate::audit::tests::entry;

    const TENANT: Uuid = Uuid::from_u128(7);

    /// Three seals of two entries each.
    fn chain() -> (Vec<Seal>, HashMap<Uuid, AuditEntry>) {
        let entries: Vec<AuditEntry> = (1..=6).map(entry).collect();
        let mut link = Link::default();
        let mut made = Vec::new();
        for pair in entries.chunks(2) {
            let seal = Seal::of(TENANT, link, pair, DateTime::UNIX_EPOCH);
            link = seal.link(link);
            made.push(seal);
        }
        (made, entries.into_iter().map(|entry| (entry.id, entry)).collect())
    }

    fn faults(chain: &[Seal], entries: &HashMap<Uuid, AuditEntry>) -> Vec<(Fault, i64)> {
        seals(Some(Link::default()), chain, entries)
            .into_iter()
            .map(|problem| (problem.fault, problem.sequence))
            .collect()
    }

    #[test]
    fn whatever_is_done_to_a_chain_is_found_where_it_was_done() {
        let (good, entries) = chain();
        assert_eq!(faults(&good, &entries), []);

        let mut edited = entries.clone();
        edited.get_mut(&Uuid::from_u128(3)).unwrap().deed.after = None;
        assert_eq!(faults(&good, &edited), [(Fault::EntryChanged, 2)]);

        let mut removed = entries.clone();
        removed.remove(&Uuid::from_u128(6));
        assert_eq!(faults(&good, &removed), [(Fault::EntryMissing, 3)]);

        let gap = [good[0].clone(), good[2].clone()];
        assert_eq!(faults(&gap, &entries), [(Fault::SealMissing, 2)]);

        // An entry and its hash are changed together: the seal does not fit, and made to fit, the next one does not follow.
        let mut forged = good.clone();
        forged[1].entries[0].1 = hash_of(&edited[&Uuid::from_u128(3)]);
        assert_eq!(faults(&forged, &edited), [(Fault::SealChanged, 2)]);
        forged[1].hash = forged[1].digest();
        assert_eq!(faults(&forged, &edited), [(Fault::SealChanged, 3)]);

        let mut reordered = good.clone();
        reordered[1].entries.swap(0, 1);
        assert_eq!(faults(&reordered, &entries), [(Fault::SealChanged, 2)]);

        // Two seals change places.
        let mut moved = vec![good[0].clone(), good[2].clone(), good[1].clone()];
        (moved[1].sequence, moved[2].sequence) = (2, 3);
        assert!(faults(&moved, &entries).contains(&(Fault::SealChanged, 2)));
    }

    #[test]
    fn a_head_finds_a_tail_that_was_cut_or_made_anew() {
        let signer = Signer::new([&[1; 32]]);
        let (good, entries) = chain();
        let end = good[2].link(Link { entries: 4, ..Link::default() });
        let signed = signer.sign(Place::Head, TENANT, end, DateTime::UNIX_EPOCH);
        let faults = |head_of: &Head, chain: &[Seal]| -> Vec<Fault> {
            let end = chain.last().map_or(0, |seal| seal.sequence);
            head(&signer, TENANT, head_of, chain, Some(end)).into_iter().map(|problem| problem.fault).collect()
        };
        assert_eq!(faults(&signed, &good), []);
        assert_eq!(faults(&signed, &good[..2]), [Fault::TailMissing]);
        // Cut, and gone on with other entries: a good chain, and not the one that was signed.
        let other = Seal::of(TENANT, good[1].link(Link::default()), &[entry(6)], DateTime::UNIX_EPOCH);
        let anew = [good[0].clone(), good[1].clone(), other];
        assert_eq!(seals(Some(Link::default()), &anew, &entries), []);
        assert_eq!(faults(&signed, &anew), [Fault::SealChanged]);
        let forged = Head { link: Link { sequence: 2, ..end }, ..signed };
        assert_eq!(faults(&forged, &good[..2]), [Fault::HeadForged]);
    }
}
