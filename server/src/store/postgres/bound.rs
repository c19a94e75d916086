//! Transactions of callers: bound to a tenant, outside of which they neither see nor change a row.
//!
//! What binds one travels with its BEGIN and ends with it (`set local`), so that a connection carries nothing of one tenant to the next
//! however the call ends. One that comes back with anything all the same is closed ([`is_clean`]).

use std::time::Duration;

use sqlx::{AssertSqlSafe, PgConnection, PgPool, Postgres, Transaction};
use uuid::Uuid;

use super::PgStore;
use super::commit::is_answer;
use super::isolation::API;
use crate::store::Result;

/// A transaction on a connection of its own. Dropped, it is rolled back by the message that looks whether the connection is well, on
/// its way back to the pool: one that only reads need not be ended otherwise.
pub(super) type Tx = Transaction<'static, Postgres>;

/// How long a BEGIN may take, with the wait for a connection.
const A_BEGIN: Duration = Duration::from_secs(5);

/// How a transaction reads.
#[derive(Clone, Copy, Debug)]
pub(super) enum Mode {
    Write,
    Read,
    /// All statements see the same.
    Snapshot,
}

impl PgStore {
    /// Begins a transaction of one tenant's. It costs as many round trips as one of coordinators: one.
    pub(super) async fn begin_for(&self, tenant: Uuid) -> Result<Tx> {
        begin(&self.inner.callers, Mode::Write, tenant).await
    }

    /// Begins a transaction for items that are each a tenant's: bound to it where it is one and the same, as it is where a caller asks.
    pub(super) async fn begin_all(&self, tenants: impl IntoIterator<Item = Uuid>) -> Result<Tx> {
        match one(tenants) {
            Some(tenant) => self.begin_for(tenant).await,
            None => self.begin().await,
        }
    }

    /// Begins a transaction that reads what is one tenant's.
    pub(super) async fn read_for(&self, tenant: Uuid) -> Result<Tx> {
        begin(&self.inner.callers, Mode::Read, tenant).await
    }

    /// Begins a transaction all of whose statements read what was one tenant's when the first of them began.
    pub(super) async fn snapshot_for(&self, tenant: Uuid) -> Result<Tx> {
        begin(&self.inner.callers, Mode::Snapshot, tenant).await
    }
}

/// Begins a transaction on a pool whose connections have taken [`API`]. On a task of its own; see [`PgStore::begin`].
pub(super) async fn begin(pool: &PgPool, mode: Mode, tenant: Uuid) -> Result<Tx> {
    let begin = match mode {
        Mode::Write => "begin",
        Mode::Read => "begin read only",
        Mode::Snapshot => "begin isolation level repeatable read, read only",
    };
    // A UUID is written in nothing but digits and hyphens.
    let statement = format!("{begin}; set local orrery.tenant = '{tenant}'");
    let pool = pool.clone();
    let begun = tokio::spawn(async move {
        // As many as there are may have lost their server since they were used last: nothing has been asked of it yet.
        let mut most = pool.options().get_max_connections();
        loop {
            let begun = tokio::time::timeout(A_BEGIN, pool.begin_with(AssertSqlSafe(statement.clone()))).await;
            match begun.unwrap_or(Err(sqlx::Error::PoolTimedOut)) {
                Err(error) if is_lost(&error) && most > 0 => most -= 1,
                done => return done,
            }
        }
    });
    Ok(begun.await.unwrap_or(Err(sqlx::Error::PoolClosed))?)
}

/// The tenant of all of them.
fn one(tenants: impl IntoIterator<Item = Uuid>) -> Option<Uuid> {
    let mut tenants = tenants.into_iter();
    let first = tenants.next()?;
    tenants.all(|tenant| tenant == first).then_some(first)
}

/// Whether a connection was lost, rather than not to be had.
fn is_lost(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) => true,
        // Its server was shut down, or died.
        sqlx::Error::Database(db) => !is_answer(error) && db.code().is_some_and(|code| code.starts_with("57P")),
        _ => false,
    }
}

/// Whether a connection that comes back is nobody's.
pub(super) async fn is_clean(connection: &mut PgConnection) -> sqlx::Result<bool> {
    let clean = "select current_setting('role') = $1 and coalesce(current_setting('orrery.tenant', true), '') = ''";
    let is_clean: bool = sqlx::query_scalar(clean).bind(API).fetch_one(connection).await?;
    if !is_clean {
        tracing::error!("a connection came back bound to a tenant; it is closed");
    }
    Ok(is_clean)
}
