//! Lanes in memory, and their making.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgPool, Row};
use uuid::Uuid;

use super::rows;
use crate::job::JobSpec;
use crate::store::{Lane, Result, StoreError, text};

/// What identifies a lane.
type Key = [u8; 32];

/// Lanes kept in memory. They are few; the bound is against names made by machines.
const CAPACITY: usize = 100_000;

/// Lanes by key, committed ones only.
#[derive(Default)]
pub(super) struct Lanes {
    known: Mutex<HashMap<Key, i64>>,
}

/// A lane that a job's executions wait in.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    key: Key,
    tenant: Uuid,
    queue: String,
    executor: String,
    selector: String,
}

impl Wanted {
    pub(super) fn of(tenant: Uuid, spec: &JobSpec) -> Self {
        let queue = text::plain(&spec.queue).into_owned();
        let executor = text::plain(&spec.executor()).into_owned();
        // A map of strings in its own order always can be written.
        let selector = serde_json::to_string(&spec.selector).unwrap_or_default();
        let mut hash = Sha256::new();
        hash.update(tenant.as_bytes());
        for part in [&queue, &executor, &selector] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        Self { key: hash.finalize().into(), tenant, queue, executor, selector }
    }
}

impl Lanes {
    /// The ids of lanes, in order; those that do not exist are made.
    pub(super) async fn ids(&self, connection: &mut PgConnection, wanted: &[Wanted]) -> Result<Vec<i64>> {
        let mut ids = self.known_of(wanted);
        let mut missing: BTreeMap<Key, &Wanted> =
            wanted.iter().filter(|lane| !ids.contains_key(&lane.key)).map(|lane| (lane.key, lane)).collect();
        if !missing.is_empty() {
            let found = read(connection, &missing).await?;
            self.remember(&found);
            missing.retain(|key, _| !found.contains_key(key));
            ids.extend(found);
        }
        if !missing.is_empty() {
            make(connection, &missing).await?;
            // Not remembered: this transaction may yet be rolled back. The next one reads them.
            ids.extend(read(connection, &missing).await?);
        }
        let id_of = |lane: &Wanted| {
            ids.get(&lane.key).copied().ok_or_else(|| StoreError::Corrupt {
                table: "lanes",
                reason: format!("lane {} {} vanished", lane.queue, lane.executor),
            })
        };
        wanted.iter().map(id_of).collect()
    }

    fn known_of(&self, wanted: &[Wanted]) -> HashMap<Key, i64> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        wanted.iter().filter_map(|lane| known.get(&lane.key).map(|id| (lane.key, *id))).collect()
    }

    fn remember(&self, found: &HashMap<Key, i64>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= CAPACITY {
            known.clear();
        }
        known.extend(found);
    }
}

async fn read(connection: &mut PgConnection, wanted: &BTreeMap<Key, &Wanted>) -> Result<HashMap<Key, i64>> {
    let keys: Vec<Vec<u8>> = wanted.keys().map(|key| key.to_vec()).collect();
    let rows = sqlx::query("select key, id from lanes where key = any($1)").bind(keys).fetch_all(connection).await?;
    rows.into_iter().map(|row| Ok((rows::hash(&row, "key")?, row.try_get("id")?))).collect()
}

async fn make(connection: &mut PgConnection, wanted: &BTreeMap<Key, &Wanted>) -> Result<()> {
    let of = |part: fn(&Wanted) -> String| wanted.values().map(|lane| part(lane)).collect::<Vec<_>>();
    // In the order of their keys, so that two transactions that make the same lanes do not wait for each other in a ring.
    sqlx::query(
        "insert into lanes (key, tenant_id, queue, executor, selector)
         select * from unnest($1::bytea[], $2::uuid[], $3::text[], $4::text[], $5::text[]) on conflict do nothing",
    )
    .bind(wanted.keys().map(|key| key.to_vec()).collect::<Vec<_>>())
    .bind(wanted.values().map(|lane| lane.tenant).collect::<Vec<_>>())
    .bind(of(|lane| lane.queue.clone()))
    .bind(of(|lane| lane.executor.clone()))
    .bind(of(|lane| lane.selector.clone()))
    .execute(connection)
    .await?;
    Ok(())
}

/// Lanes by id: all where `ids` is empty.
pub(super) async fn after(pool: &PgPool, id: i64) -> Result<Vec<Lane>> {
    let found = sqlx::query("select id, tenant_id, queue, executor, selector from lanes where id > $1 order by id")
        .bind(id)
        .fetch_all(pool)
        .await?;
    found.iter().map(lane).collect()
}

fn lane(row: &PgRow) -> Result<Lane> {
    Ok(Lane {
        id: row.try_get("id")?,
        tenant_id: row.try_get("tenant_id")?,
        queue: row.try_get("queue")?,
        executor: row.try_get("executor")?,
        selector: rows::json("lanes", rows::text(row, "selector")?)?,
    })
}
