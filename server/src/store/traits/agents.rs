use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use crate::store::*;

/// Agents that have enrolled, and the tokens by which they may.
#[async_trait]
pub trait Agents: Send + Sync {
    /// Stores a token that may be used for `ttl` from now. Those that were over a month ago are forgotten.
    async fn insert_join_token(&self, token: &NewJoinToken, ttl: Duration) -> Result<JoinToken>;

    /// The token with this hash, unless it has been used or has expired.
    async fn join_token(&self, hash: &[u8; 32]) -> Result<Option<JoinToken>>;

    /// Uses a token up and stores the agent that came with it, in one transaction. `None` where the token is unknown, has expired, or has
    /// been used: of several that come with one token, one enrols.
    async fn enrol(&self, hash: &[u8; 32], id: Uuid, certificate: &Certified) -> Result<Option<EnrolledAgent>>;

    /// An agent, whatever its state and its tenant.
    async fn enrolled_agent(&self, id: Uuid) -> Result<Option<EnrolledAgent>>;

    /// Agents of a tenant and those that serve all tenants, newest first by id.
    async fn enrolled_agents(&self, tenant: Uuid, page: &Page) -> Result<Vec<EnrolledAgent>>;

    /// Notes an agent's new certificate. `None` where there is no such agent, or it has been revoked.
    async fn renew_agent(&self, id: Uuid, certificate: &Certified) -> Result<Option<EnrolledAgent>>;

    /// Takes an agent's identity away, and ends its sessions: from now on nothing that it says counts. One that is revoked stays as it is.
    /// `None` where there is no such agent (of that tenant, where one is given).
    async fn revoke_agent(&self, tenant: Option<Uuid>, id: Uuid, by: Uuid) -> Result<Option<EnrolledAgent>>;

    /// Those of these agents that may not be connected: they are revoked or unknown, or their newest certificate has expired. Their sessions are
    /// ended.
    async fn end_refused_agents(&self, agents: &[Uuid]) -> Result<Vec<Uuid>>;
}
