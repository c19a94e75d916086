//! Limits on what runs at once, counted from live leases. There is one writer, so that nobody else counts at the same time.

use async_trait::async_trait;
use sqlx::{Sqlite, Transaction};
use uuid::Uuid;

use super::audit::note;
use super::rows::micros;
use super::{SqliteStore, Work};
use crate::admission::{Admission, Gate, Room};
use crate::audit::Deed;
use crate::store::text::plain;
use crate::store::{Gates, Result};

#[async_trait]
impl Gates for SqliteStore {
    async fn rooms(&self, gates: &[Gate], tenant_limit: i64) -> Result<Vec<(Gate, Room)>> {
        let mut work = self.read().await?;
        let mut rooms = Vec::new();
        for gate in gates {
            if let Some(room) = room(&mut work.tx, gate, tenant_limit).await? {
                rooms.push((gate.clone(), room));
            }
        }
        Ok(rooms)
    }

    async fn set_queue_limit(&self, tenant: Uuid, queue: &str, limit: i32, by: Uuid) -> Result<()> {
        let notes = self.notes();
        let mut work = self.write().await?;
        let was: Option<i32> =
            sqlx::query_scalar("select max_concurrent from queue_limits where tenant_id = ? and name = ?")
                .bind(tenant)
                .bind(plain(queue))
                .fetch_optional(&mut *work.tx)
                .await?;
        sqlx::query("delete from queue_limits where tenant_id = ? and name = ?")
            .bind(tenant)
            .bind(plain(queue))
            .execute(&mut *work.tx)
            .await?;
        if limit > 0 {
            sqlx::query(
                "insert into queue_limits (tenant_id, name, max_concurrent, updated_at, updated_by) values (?, ?, ?, ?, ?)",
            )
            .bind(tenant)
            .bind(plain(queue))
            .bind(limit)
            .bind(micros(work.now))
            .bind(by)
            .execute(&mut *work.tx)
            .await?;
        }
        let deed = || Deed::queue_limited(tenant, queue, was.unwrap_or(0), limit);
        note(&mut work, &notes.changed(0, deed)).await?;
        work.commit().await
    }
}

/// The rooms that a transaction has counted so far.
#[derive(Default)]
pub(super) struct Rooms {
    admission: Admission,
    counted: Vec<Gate>,
}

impl Rooms {
    /// Takes a place at each of these gates, or at none: `false` where one is full.
    pub(super) async fn admit(&mut self, work: &mut Work, gates: &[Gate], tenant_limit: i64) -> Result<bool> {
        self.count(work, gates, tenant_limit).await?;
        Ok(self.admission.admit(gates))
    }

    /// Free places for what passes all of these gates, up to `most`.
    pub(super) async fn places(
        &mut self,
        work: &mut Work,
        gates: &[Gate],
        tenant_limit: i64,
        most: usize,
    ) -> Result<usize> {
        self.count(work, gates, tenant_limit).await?;
        let free = self.admission.places(gates).map_or(most, |free| usize::try_from(free).unwrap_or(0));
        Ok(free.min(most))
    }

    /// Counts what runs under a key, for a limit that nothing of it which is due has named; the smallest holds.
    pub(super) async fn lower(&mut self, work: &mut Work, key: &Gate, limit: i64) -> Result<()> {
        self.count(work, std::slice::from_ref(key), 0).await?;
        if self.admission.limit(key).is_none() {
            let running = running(&mut work.tx, key).await?;
            self.admission.learn([(key.clone(), Room { limit, running })]);
        }
        self.admission.lower(key, limit);
        Ok(())
    }

    async fn count(&mut self, work: &mut Work, gates: &[Gate], tenant_limit: i64) -> Result<()> {
        for gate in gates {
            if let Err(place) = self.counted.binary_search(gate) {
                self.counted.insert(place, gate.clone());
                let room = room(&mut work.tx, gate, tenant_limit).await?;
                self.admission.learn(room.map(|room| (gate.clone(), room)));
            }
        }
        Ok(())
    }
}

/// The room behind a gate, if it has a limit.
async fn room(tx: &mut Transaction<'static, Sqlite>, gate: &Gate, tenant_limit: i64) -> Result<Option<Room>> {
    let Some(limit) = limit(tx, gate, tenant_limit).await? else { return Ok(None) };
    Ok(Some(Room { limit, running: running(tx, gate).await? }))
}

/// The leases behind a gate that live.
async fn running(tx: &mut Transaction<'static, Sqlite>, gate: &Gate) -> Result<i64> {
    Ok(match gate {
        Gate::Tenant(tenant) => {
            let count = "select count(*) from live_executions where tenant_id = ? and session_id is not null";
            sqlx::query_scalar(count).bind(tenant).fetch_one(&mut **tx).await?
        }
        Gate::Queue(tenant, queue) => {
            let count =
                "select count(*) from live_executions where tenant_id = ? and queue = ? and session_id is not null";
            sqlx::query_scalar(count).bind(tenant).bind(queue).fetch_one(&mut **tx).await?
        }
        Gate::Key(tenant, key) => {
            let count = "select count(*) from live_executions where tenant_id = ? and concurrency_key = ? \
                         and concurrency_key <> '' and session_id is not null";
            sqlx::query_scalar(count).bind(tenant).bind(key).fetch_one(&mut **tx).await?
        }
        Gate::Job(tenant, job) => {
            let count =
                "select count(*) from live_executions where tenant_id = ? and job_id = ? and session_id is not null";
            sqlx::query_scalar(count).bind(tenant).bind(job).fetch_one(&mut **tx).await?
        }
    })
}

async fn limit(tx: &mut Transaction<'static, Sqlite>, gate: &Gate, tenant_limit: i64) -> Result<Option<i64>> {
    let limit: Option<i64> = match gate {
        Gate::Tenant(tenant) => {
            let own = "select max_concurrent from tenants where id = ?";
            let own: Option<Option<i64>> = sqlx::query_scalar(own).bind(tenant).fetch_optional(&mut **tx).await?;
            Some(own.flatten().unwrap_or(tenant_limit))
        }
        Gate::Queue(tenant, queue) => {
            let own = "select max_concurrent from queue_limits where tenant_id = ? and name = ?";
            sqlx::query_scalar(own).bind(tenant).bind(queue).fetch_optional(&mut **tx).await?
        }
        // The smallest of what waits and runs.
        Gate::Key(tenant, key) => {
            let own = "select min(key_limit) from live_executions where tenant_id = ? and concurrency_key = ? \
                       and concurrency_key <> '' and state <> 'scheduled'";
            sqlx::query_scalar(own).bind(tenant).bind(key).fetch_one(&mut **tx).await?
        }
        Gate::Job(tenant, job) => {
            let own = "select max_concurrent from scheduled_jobs where tenant_id = ? and id = ?";
            sqlx::query_scalar(own).bind(tenant).bind(job).fetch_optional(&mut **tx).await?
        }
    };
    Ok(limit.filter(|limit| *limit > 0))
}
