//! Agents, as their sessions show them.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::Held;
use crate::execution::Execution;

/// What an agent says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct NewSession {
    /// `None`: it serves all tenants.
    pub tenant_id: Option<Uuid>,
    /// The agent that its certificate names; `None` where it is known by an API key or a token.
    pub agent_id: Option<Uuid>,
    pub name: String,
    pub version: String,
    pub labels: BTreeMap<String, String>,
    pub queues: Vec<String>,
    pub executors: Vec<String>,
    pub slots: i32,
    pub coordinator_id: Uuid,
    pub address: String,
}

/// An agent's session.
#[derive(Clone, Debug, PartialEq)]
pub struct Session {
    pub id: Uuid,
    pub agent: NewSession,
    /// Counts the streams that carried it; only the newest speaks for it.
    pub attachment: i64,
    /// Whether a stream carries it now.
    pub attached: bool,
    pub draining: bool,
    pub opened_at: DateTime<Utc>,
    pub renewed_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    /// Live leases; filled by [`crate::store::Sessions::sessions`].
    pub running: i64,
}

/// What became of renewals. What is named in neither is over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Renewed {
    pub renewed: Vec<Uuid>,
    /// They live, and somebody else is changing them just now: to be tried again.
    pub busy: Vec<Uuid>,
}

/// A session that goes on.
#[derive(Clone, Debug, PartialEq)]
pub struct Resumed {
    pub session: Session,
    /// What it holds: the leases that both the store and the agent know.
    pub held: Vec<Held>,
    /// Executions whose leases the agent did not name, after they were taken back.
    pub taken_back: Vec<Execution>,
}
