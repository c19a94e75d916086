//! All state, behind few and wide methods. Engines keep rows and transactions; what is to happen is decided by pure functions that the
//! callers hand in, or by [`crate::execution::apply`]. One conformance suite (`server/tests/store`) passes on every engine.
//!
//! Every instant that decides anything is the database's own clock, read in the statement or transaction that uses it.

mod changes;
mod error;
mod histogram;
pub mod postgres;
mod rows;
pub mod sqlite;
mod tally;
mod text;
mod traits;
mod types;

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio::sync::broadcast;
use tokio::time::Instant;
use uuid::Uuid;

pub use error::StoreError;
pub use traits::*;
pub use types::*;

/// What every engine does. A call is one transaction: all of it happened, or none.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// A store of any engine.
pub type DynStore = Arc<dyn Store>;

/// Everything that a coordinator needs of its database.
#[async_trait]
pub trait Store:
    Jobs
    + Fires
    + Leases
    + Gates
    + DeadLetters
    + Sessions
    + Agents
    + Logs
    + Reads
    + Keys
    + Tenants
    + Users
    + Roles
    + Secrets
    + Audit
    + Upkeep
    + Sharing
{
    /// `postgres` or `sqlite`.
    fn engine(&self) -> &'static str;

    /// The database's clock.
    async fn now(&self) -> Result<DateTime<Utc>>;

    /// The database's clock, and when it was asked for at the earliest, as nearly as an engine can tell.
    async fn read_clock(&self) -> Result<(Instant, DateTime<Utc>)> {
        let asked = Instant::now();
        Ok((asked, self.now().await?))
    }

    /// Tells all coordinators, this one included, that there may be work. Cheap, and may be lost: everybody looks by a timer as well.
    async fn wake(&self, hint: Wake) -> Result<()>;

    /// Tells those who watch executions, in this process, that these have changed. Costs nothing where nobody watches.
    fn changed(&self, executions: &[Uuid]);

    /// What [`Store::changed`] tells.
    fn changes(&self) -> broadcast::Receiver<Arc<[Uuid]>>;

    /// The hints of [`Store::wake`], those of other coordinators included.
    fn hints(&self) -> broadcast::Receiver<Wake>;

    /// Only those of [`Store::wake`] in this process, for passing them on by another way.
    fn told(&self) -> broadcast::Receiver<Wake>;
}
