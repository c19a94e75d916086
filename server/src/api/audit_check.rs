//! Reads a part of a chain, and has it looked at by [`crate::audit::verify`].

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use uuid::Uuid;

use crate::audit::verify::{self, Fault, Problem};
use crate::audit::{Head, Link, Place, Seal, Signer};
use crate::store::{AuditEntry, DynStore, StoreError};

/// Entries that no seal is known to hold are told one by one up to here.
const TOLD: i64 = 100;

/// What is to be looked at.
pub(super) struct Part {
    pub(super) tenant: Uuid,
    /// Seals after this one.
    pub(super) after: i64,
    pub(super) limit: i64,
    /// Where the chain has to lead to.
    pub(super) head: Option<Head>,
    /// How long entries may wait to be sealed.
    pub(super) unsealed_age: Duration,
}

/// What was found.
pub(super) struct Checked {
    pub(super) seals: i64,
    pub(super) entries: i64,
    pub(super) problems: Vec<Problem>,
    /// Where to go on; 0 at the end.
    pub(super) next: i64,
    /// On the last part.
    pub(super) head: Option<Head>,
}

/// Looks through a part.
///
/// # Errors
/// The store's.
pub(super) async fn check(store: &DynStore, signer: &Signer, part: &Part) -> Result<Checked, StoreError> {
    // First: what is sealed from now on lies beyond it, and is not missed.
    let head = store.audit_head(part.tenant, Place::Head).await?;
    let (before, mut problems) = before(store, signer, part).await?;
    let seals = store.audit_seals(part.tenant, part.after, part.limit).await?;
    let entries = entries_of(store, part.tenant, &seals).await?;
    problems.extend(verify::seals(before, &seals, &entries));
    let is_last = (seals.len() as i64) < part.limit;
    let end = seals.last().map_or(before.map_or(part.after, |link| link.sequence), |seal| seal.sequence);
    problems.extend(strangers(store, part, &seals, is_last).await?);
    let known_end = is_last.then_some(end);
    for expected in head.iter().chain(&part.head) {
        problems.extend(verify::head(signer, part.tenant, expected, &seals, known_end));
    }
    if is_last {
        if head.is_none() && end > 0 {
            problems.push(verify::no_head(end));
        }
        for (id, is_there) in store.left_unsealed(part.tenant, part.unsealed_age, TOLD).await? {
            let fault = if is_there { Fault::EntryUnsealed } else { Fault::EntryMissing };
            problems.push(Problem::of_entry(fault, 0, id));
        }
    }
    Ok(Checked {
        seals: seals.len() as i64,
        entries: entries.len() as i64,
        problems: once(problems),
        next: if is_last { 0 } else { end },
        head: head.filter(|_| is_last),
    })
}

/// What the part follows on: a seal that was looked at before, the checkpoint of retention, or nothing.
async fn before(store: &DynStore, signer: &Signer, part: &Part) -> Result<(Option<Link>, Vec<Problem>), StoreError> {
    let of_seal = |seal: &Seal| Link { sequence: seal.sequence, hash: seal.hash, entries: 0 };
    if part.after > 0 {
        let found = store.audit_seals(part.tenant, part.after - 1, 1).await?;
        if let Some(seal) = found.first().filter(|seal| seal.sequence == part.after) {
            return Ok((Some(of_seal(seal)), Vec::new()));
        }
    }
    match store.audit_head(part.tenant, Place::Checkpoint).await? {
        Some(checkpoint) => {
            let problems = verify::head(signer, part.tenant, &checkpoint, &[], None);
            let before = (checkpoint.link.sequence >= part.after).then_some(checkpoint.link);
            Ok((before, problems))
        }
        None if part.after == 0 => Ok((Some(Link::default()), Vec::new())),
        None => Ok((None, Vec::new())),
    }
}

async fn entries_of(store: &DynStore, tenant: Uuid, seals: &[Seal]) -> Result<HashMap<Uuid, AuditEntry>, StoreError> {
    let mut entries = HashMap::new();
    for seal in seals {
        let ids: Vec<Uuid> = seal.entries.iter().map(|(id, _)| *id).collect();
        let found = store.audit_entries_of(tenant, &ids).await?;
        entries.extend(found.into_iter().map(|entry| (entry.id, entry)));
    }
    Ok(entries)
}

/// Entries among those of this part that no seal holds. Entries are sealed nearly in the order of their ids: those of the part lie between its
/// ends, and the few that do not belong to it are looked for in the seals around them.
async fn strangers(store: &DynStore, part: &Part, seals: &[Seal], is_last: bool) -> Result<Vec<Problem>, StoreError> {
    let from = if part.after == 0 { Uuid::nil() } else { store.highest_sealed(part.tenant, part.after).await? };
    let through = seals.iter().map(|seal| seal.ends().1).max().unwrap_or(from);
    if !is_last && through <= from {
        return Ok(Vec::new());
    }
    let known: HashSet<Uuid> = seals.iter().flat_map(|seal| seal.entries.iter().map(|(id, _)| *id)).collect();
    let most = known.len() as i64 + 10 * TOLD;
    let there = store.audit_ids(part.tenant, from, (!is_last).then_some(through), most).await?;
    let mut problems = Vec::new();
    for id in there.into_iter().filter(|id| !known.contains(id)) {
        let around = store.audit_seals_around(part.tenant, id).await?;
        let is_held = around.iter().any(|seal| seal.entries.iter().any(|(held, _)| *held == id));
        if !is_held && (problems.len() as i64) < TOLD {
            problems.push(Problem::of_entry(Fault::EntryUnknown, 0, id));
        }
    }
    Ok(problems)
}

/// The stored head and an exported one may find the same.
fn once(problems: Vec<Problem>) -> Vec<Problem> {
    let mut kept: Vec<Problem> = Vec::with_capacity(problems.len());
    for problem in problems {
        if !kept.contains(&problem) {
            kept.push(problem);
        }
    }
    kept
}
