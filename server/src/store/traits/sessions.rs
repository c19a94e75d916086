use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use crate::store::*;

/// Agents, as their sessions show them.
#[async_trait]
pub trait Sessions: Send + Sync {
    /// Opens a session that lives for `ttl` from now.
    async fn open_session(&self, session: &NewSession, ttl: Duration) -> Result<Session>;

    /// Attaches a living session to a coordinator, under the next attachment number, and renews it. `None` where it is over or belongs
    /// to another tenant, name or enrolled agent. In the same transaction the leases that the agent does not name in `held` are taken
    /// back: they were granted to a stream that was lost, or the agent has lost them. A claim for an older attachment either is seen here
    /// or finds that the attachment has changed.
    async fn resume_session(
        &self,
        id: Uuid,
        session: &NewSession,
        held: &Holding<'_>,
        ttl: Duration,
    ) -> Result<Option<Resumed>>;

    /// Renews living sessions by their current attachment. It waits for no lock, and for no other work of this store.
    async fn renew_sessions(&self, sessions: &[(Uuid, i64)], ttl: Duration) -> Result<Renewed>;

    /// Lets every session live for `grace` from now at least, unless a coordinator other than this one was seen in the last `quiet`: where
    /// nobody could reach the database, nobody could renew. Only what the store holds to be alive is changed by it: an agent
    /// trusts its session for no longer than it was told. Sessions of agents that may not connect are not spared. Answers with how many
    /// sessions live longer now.
    async fn spare_sessions(&self, coordinator: Uuid, quiet: Duration, grace: Duration) -> Result<u64>;

    /// The stream is lost; the session lives on until it expires.
    async fn detach_session(&self, id: Uuid, attachment: i64) -> Result<()>;

    /// The agent has gone in good order: the session ends, and what it still held is taken back.
    async fn close_session(&self, id: Uuid, attachment: i64) -> Result<()>;

    /// Marks a session as taking no further work. `false` where there is none (of that tenant, where one is given).
    async fn drain_session(&self, tenant: Option<Uuid>, id: Uuid) -> Result<bool>;

    /// The leases that a session holds.
    async fn held(&self, session: Uuid) -> Result<Vec<Held>>;

    /// Living sessions that may serve a tenant (its own and shared ones), with their load, by id.
    async fn sessions(&self, tenant: Uuid, page: &Page) -> Result<Vec<Session>>;
}
