//! Keys by which callers say the same thing twice.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::rows;
use crate::store::{Idempotency, Result, StoreError, text};

/// Which of several items with idempotency keys are new, and what the others made before.
pub(super) struct Keyed {
    /// By item: the id of what it made or is to make.
    pub ids: Vec<Uuid>,
    /// By item: whether it is the first with its key.
    pub fresh: Vec<bool>,
    /// Items whose key came with another request before.
    pub reused: BTreeSet<usize>,
}

impl Keyed {
    /// Items none of which has a key.
    pub(super) fn without_keys(proposed: Vec<Uuid>) -> Self {
        Self { fresh: vec![true; proposed.len()], ids: proposed, reused: BTreeSet::new() }
    }

    /// # Errors
    /// [`StoreError::IdempotencyKeyReused`] for the first of the items with such a key.
    pub(super) fn check(&self) -> Result<()> {
        self.reused.first().map_or(Ok(()), |index| Err(StoreError::IdempotencyKeyReused { index: *index }))
    }

    /// These are there already: the try that made them had no answer.
    pub(super) fn are_made(&mut self, made: &HashSet<Uuid>) {
        for (fresh, id) in self.fresh.iter_mut().zip(&self.ids) {
            *fresh = *fresh && !made.contains(id);
        }
    }
}

/// What the keys of a call have made, with the request it was made for.
type Taken = HashMap<(Uuid, String), (Idempotency, Uuid)>;

/// Takes the idempotency keys of items, in one order whatever theirs. Who comes second with a key waits here for the first. What to make
/// of [`Keyed::reused`] is for the caller to say.
pub(super) async fn reserve(
    tx: &mut PgConnection,
    kind: &'static str,
    items: &[(Uuid, Option<&Idempotency>)],
    proposed: Vec<Uuid>,
    now: DateTime<Utc>,
) -> Result<Keyed> {
    let stored = |i: &Idempotency| Idempotency { key: text::plain(&i.key).into_owned(), ..i.clone() };
    let items: Vec<(Uuid, Option<Idempotency>)> = items.iter().map(|(t, i)| (*t, i.map(stored))).collect();
    let mut keyed = Keyed::without_keys(proposed);
    let mut firsts: BTreeMap<(Uuid, &str), usize> = BTreeMap::new();
    for (index, (tenant, idempotency)) in items.iter().enumerate() {
        let Some(idempotency) = idempotency else { continue };
        let first = *firsts.entry((*tenant, idempotency.key.as_str())).or_insert(index);
        if first != index {
            if items[first].1.as_ref().map(|i| i.request_hash) != Some(idempotency.request_hash) {
                keyed.reused.insert(index);
            }
            keyed.ids[index] = keyed.ids[first];
            keyed.fresh[index] = false;
        }
    }
    if firsts.is_empty() {
        return Ok(keyed);
    }
    let taken = take(tx, kind, &items, &firsts, &keyed.ids, now).await?;
    for (index, (tenant, idempotency)) in items.iter().enumerate() {
        let Some(idempotency) = idempotency else { continue };
        let Some((earlier, target)) = taken.get(&(*tenant, idempotency.key.clone())) else { continue };
        // What is stored says it, and not the item before with this key.
        match earlier.request_hash == idempotency.request_hash {
            true => keyed.reused.remove(&index),
            false => keyed.reused.insert(index),
        };
        keyed.fresh[index] = keyed.fresh[index] && *target == keyed.ids[index];
        keyed.ids[index] = *target;
    }
    Ok(keyed)
}

/// Inserts keys that are new, and reads all of them.
async fn take(
    tx: &mut PgConnection,
    kind: &'static str,
    items: &[(Uuid, Option<Idempotency>)],
    firsts: &BTreeMap<(Uuid, &str), usize>,
    ids: &[Uuid],
    now: DateTime<Utc>,
) -> Result<Taken> {
    let tenants: Vec<Uuid> = firsts.keys().map(|(tenant, _)| *tenant).collect();
    let keys: Vec<String> = firsts.keys().map(|(_, key)| (*key).to_owned()).collect();
    let hash = |index: &usize| items[*index].1.as_ref().map(|i| i.request_hash.to_vec()).unwrap_or_default();
    let proposed: Vec<Uuid> = firsts.values().map(|index| ids[*index]).collect();
    sqlx::query(
        "insert into idempotency_keys (tenant_id, kind, key, request_hash, target_id, created_at)
         select u.tenant_id, $5, u.key, u.request_hash, u.target_id, $6
         from unnest($1::uuid[], $2::text[], $3::bytea[], $4::uuid[]) as u(tenant_id, key, request_hash, target_id)
         on conflict do nothing",
    )
    .bind(&tenants)
    .bind(&keys)
    .bind(firsts.values().map(hash).collect::<Vec<_>>())
    .bind(&proposed)
    .bind(kind)
    .bind(now)
    .execute(&mut *tx)
    .await?;
    let taken = read(tx, kind, &tenants, &keys).await?;
    let earlier: Vec<Uuid> = taken.values().map(|(_, target)| *target).filter(|id| !proposed.contains(id)).collect();
    let gone = gone(tx, kind, &earlier).await?;
    if gone.is_empty() {
        return Ok(taken);
    }
    take_over(tx, kind, (&tenants, &keys, &proposed), &gone, now).await?;
    read(tx, kind, &tenants, &keys).await
}

async fn read(tx: &mut PgConnection, kind: &'static str, tenants: &[Uuid], keys: &[String]) -> Result<Taken> {
    let read = sqlx::query(
        "select k.tenant_id, k.key, k.request_hash, k.target_id
         from unnest($1::uuid[], $2::text[]) as u(tenant_id, key)
         join idempotency_keys k on k.tenant_id = u.tenant_id and k.kind = $3 and k.key = u.key",
    )
    .bind(tenants)
    .bind(keys)
    .bind(kind)
    .fetch_all(tx)
    .await?;
    let entry = |row: &PgRow| {
        let (of, target) = rows::idempotency(row)?;
        let tenant: Uuid = row.try_get("tenant_id")?;
        Ok(((tenant, of.key.clone()), (of, target)))
    };
    read.iter().map(entry).collect()
}

/// What keys have made and retention has deleted since.
async fn gone(tx: &mut PgConnection, kind: &'static str, targets: &[Uuid]) -> Result<Vec<Uuid>> {
    if targets.is_empty() {
        return Ok(Vec::new());
    }
    let missing = match kind {
        "job" => {
            "select u.id from unnest($1::uuid[]) as u(id) where not exists (select 1 from scheduled_jobs where id = u.id)"
        }
        _ => {
            "select u.id from unnest($1::uuid[]) as u(id)
             where not exists (select 1 from live_executions where id = u.id)
               and not exists (select 1 from job_executions where id = u.id)"
        }
    };
    Ok(sqlx::query_scalar(missing).bind(targets).fetch_all(tx).await?)
}

/// Gives keys back with which nothing was made after all.
pub(super) async fn give_back(
    tx: &mut PgConnection,
    kind: &'static str,
    items: &[(Uuid, &Idempotency)],
    proposed: &[Uuid],
) -> Result<()> {
    if items.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "delete from idempotency_keys k using unnest($1::uuid[], $2::text[], $3::uuid[]) as u(tenant_id, key, target_id)
         where k.tenant_id = u.tenant_id and k.kind = $4 and k.key = u.key and k.target_id = u.target_id",
    )
    .bind(items.iter().map(|(tenant, _)| *tenant).collect::<Vec<_>>())
    .bind(items.iter().map(|(_, i)| text::plain(&i.key).into_owned()).collect::<Vec<_>>())
    .bind(proposed)
    .bind(kind)
    .execute(tx)
    .await?;
    Ok(())
}

/// Gives keys whose targets are gone to those that come with them now. Of two that come together the second finds that the target is
/// another one already.
async fn take_over(
    tx: &mut PgConnection,
    kind: &'static str,
    (tenants, keys, proposed): (&[Uuid], &[String], &[Uuid]),
    gone: &[Uuid],
    now: DateTime<Utc>,
) -> Result<()> {
    sqlx::query(
        "update idempotency_keys k set target_id = u.target_id, created_at = $6
         from unnest($1::uuid[], $2::text[], $3::uuid[]) as u(tenant_id, key, target_id)
         where k.tenant_id = u.tenant_id and k.kind = $4 and k.key = u.key and k.target_id = any($5)",
    )
    .bind(tenants)
    .bind(keys)
    .bind(proposed)
    .bind(kind)
    .bind(gone)
    .bind(now)
    .execute(tx)
    .await?;
    Ok(())
}
