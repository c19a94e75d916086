//! Agents that have enrolled, and the tokens by which they may.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use uuid::Uuid;

/// What an agent may be, whatever it says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentScope {
    /// `None`: it serves all tenants.
    pub tenant_id: Option<Uuid>,
    /// For people.
    pub name: String,
    /// The only queues that it may serve; any where empty.
    pub queues: Vec<String>,
    /// Labels that it has.
    pub labels: BTreeMap<String, String>,
    /// Who let it in.
    pub created_by: Uuid,
}

/// A token to store.
#[derive(Clone, Debug, PartialEq)]
pub struct NewJoinToken {
    pub id: Uuid,
    /// SHA-256 of the token (256 random bits need no slow hash).
    pub hash: [u8; 32],
    pub scope: AgentScope,
}

/// A token that waits to be used.
#[derive(Clone, Debug, PartialEq)]
pub struct JoinToken {
    pub id: Uuid,
    pub scope: AgentScope,
    pub expires_at: DateTime<Utc>,
}

/// An agent's newest certificate, as far as it is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Certified {
    /// In hexadecimal.
    pub serial: String,
    pub expires_at: DateTime<Utc>,
}

/// An agent that has enrolled.
#[derive(Clone, Debug, PartialEq)]
pub struct EnrolledAgent {
    pub id: Uuid,
    pub scope: AgentScope,
    pub certificate: Certified,
    pub enrolled_at: DateTime<Utc>,
    pub renewed_at: DateTime<Utc>,
    pub revoked_at: Option<DateTime<Utc>>,
    pub revoked_by: Option<Uuid>,
}
