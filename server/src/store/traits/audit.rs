use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::audit::{Head, Link, Place, Seal};
use crate::store::*;

/// What was done, by whom. Entries are written by the calls that do something, in their own transactions, where a caller is known (see
/// [`crate::audit`]); here is what is written beside them, and what is read. The tenant nil is the deployment itself.
#[async_trait]
pub trait Audit: Send + Sync {
    /// Writes entries of what changes nothing, such as calls that were denied.
    async fn record(&self, entries: &[AuditEntry]) -> Result<()>;

    /// Entries, newest first.
    async fn audit_entries(&self, tenant: Uuid, filter: &AuditFilter, page: &Page) -> Result<Vec<AuditRow>>;

    /// One entry.
    async fn audit_entry(&self, tenant: Uuid, id: Uuid) -> Result<Option<AuditRow>>;

    /// The tenants whose entries wait to be sealed, how many do, and since when.
    async fn unsealed(&self) -> Result<Vec<Unsealed>>;

    /// Takes entries of a tenant that wait, the oldest first and [`IN_A_SEAL`](crate::audit::IN_A_SEAL) at most, and stores the seal that `seal`
    /// makes of them, with the head. Only one coordinator does it at a time: `None` where another one is at it, or nothing waits.
    async fn seal_audit(&self, tenant: Uuid, seal: &SealAudit<'_>) -> Result<Option<Sealed>>;

    /// Seals after a sequence, in order.
    async fn audit_seals(&self, tenant: Uuid, after: i64, limit: i64) -> Result<Vec<Seal>>;

    /// The seals that may hold an entry, by their ends.
    async fn audit_seals_around(&self, tenant: Uuid, entry: Uuid) -> Result<Vec<Seal>>;

    /// A signed place of the chain.
    async fn audit_head(&self, tenant: Uuid, place: Place) -> Result<Option<Head>>;

    /// Of these ids, the entries that there are.
    async fn audit_entries_of(&self, tenant: Uuid, ids: &[Uuid]) -> Result<Vec<AuditEntry>>;

    /// Ids of entries that do not wait to be sealed: after one, up to another one or to the end, in order.
    async fn audit_ids(&self, tenant: Uuid, after: Uuid, through: Option<Uuid>, limit: i64) -> Result<Vec<Uuid>>;

    /// The greatest id in seals up to a sequence; nil where there are none.
    async fn highest_sealed(&self, tenant: Uuid, sequence: i64) -> Result<Uuid>;

    /// Ids that have waited to be sealed for longer than `age`, at most so many; each with whether its entry is there.
    async fn left_unsealed(&self, tenant: Uuid, age: Duration, limit: i64) -> Result<Vec<(Uuid, bool)>>;

    /// Drops seals of a tenant, from the first on, all of whose entries are older than `age`, with these, and stores the checkpoint that
    /// `checkpoint` signs in their place. With `only_copied`, no seal that has not been copied. So many seals at most; answers with how many.
    async fn drop_audit(&self, tenant: Uuid, drop: &DropAudit, checkpoint: &SignCheckpoint<'_>) -> Result<usize>;

    /// The tenants that have seals.
    async fn audited_tenants(&self) -> Result<Vec<Uuid>>;

    /// Tenants with seals that have not been copied, up to where they have been, and since when the next one waits.
    async fn uncopied(&self) -> Result<Vec<Uncopied>>;

    /// Notes that a tenant's seals have been copied up to a sequence.
    async fn copied(&self, tenant: Uuid, sequence: i64) -> Result<()>;
}

/// Makes a seal of entries, in order, that follows on a link, and signs where the chain is then.
pub type SealAudit<'a> = dyn Fn(Link, &[AuditEntry], DateTime<Utc>) -> (Seal, Head) + Send + Sync + 'a;

/// Signs a checkpoint: up to a link, whose entries are of this instant at the latest, the chain is dropped.
pub type SignCheckpoint<'a> = dyn Fn(Link, DateTime<Utc>) -> Head + Send + Sync + 'a;
