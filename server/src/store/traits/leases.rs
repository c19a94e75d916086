use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use crate::execution::{Execution, Rejected};
use crate::store::*;

/// From executions to their end.
#[async_trait]
pub trait Leases: Send + Sync {
    /// Takes up to `limit` pending executions of `lanes`, the highest priority first and in turns between lanes; lets `assign` give them
    /// to sessions; and grants a lease to each that it gave. What has a limit, by job, key, queue or tenant, is only offered while fewer
    /// leases live than that (see [`crate::admission`]); they are counted in the same transaction, under locks that keep other claims
    /// from counting at the same time. However much waits of what is at its limit, a claim passes over it as a whole.
    async fn claim(&self, claim: &Claim<'_>, assign: &Assign<'_>) -> Result<Claimed>;

    /// Applies events, in order, each with its answer. What agents say counts only while their session lives, which is checked in the
    /// same transaction. One that fails does not hinder the others. The end of an attempt that was written before is answered by
    /// [`Rejected::Repeated`].
    async fn apply(&self, changes: Vec<Change>) -> Result<Vec<std::result::Result<Execution, Rejected>>>;

    /// Ends sessions whose expiry has passed, and takes their leases back (event LeaseExpired); ends attempts whose deadline passed more
    /// than `slack` ago (event TimedOut).
    async fn reap(&self, slack: Duration, limit: usize) -> Result<Reaped>;

    /// Of these sessions, the leases whose executions somebody wants to end, and those that were granted ahead of their instant by a
    /// definition that is not their job's any more.
    async fn cancels(&self, sessions: &[Uuid]) -> Result<Vec<Wanted>>;
}

/// Gives candidates to sessions; as many answers as candidates, `None` for those that nobody can take.
pub type Assign<'a> = dyn Fn(&[Candidate<'_>]) -> Vec<Option<Assignment>> + Send + Sync + 'a;
