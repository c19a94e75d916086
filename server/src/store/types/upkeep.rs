//! Hints, keys, and what keeps the store well.

use std::time::Duration;

use chrono::{DateTime, Utc};
use uuid::Uuid;

/// What may have become possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wake {
    /// Jobs were made or changed: plan.
    Plan,
    /// Executions wait: claim.
    Work,
    /// Somebody wants executions to end.
    Cancel,
}

/// A stored API key. The key itself is known to nobody but its owner.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiKey {
    pub id: Uuid,
    /// `None`: of the deployment, for agents that serve all tenants and for administrators.
    pub tenant_id: Option<Uuid>,
    pub name: String,
    /// The first characters, for people to tell keys apart.
    pub prefix: String,
    /// SHA-256 of the key (256 random bits need no slow hash).
    pub hash: [u8; 32],
    /// `*` or `resource:action`.
    pub permissions: Vec<String>,
    pub expires_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
}

/// How long to keep what is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retention {
    pub executions: Duration,
    pub logs: Duration,
    pub omissions: Duration,
    pub idempotency: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        let day = Duration::from_secs(86_400);
        Self { executions: 90 * day, logs: 30 * day, omissions: 90 * day, idempotency: day }
    }
}

/// What upkeep did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpkeepDone {
    /// `false` where another coordinator was at it.
    pub ran: bool,
    pub partitions_made: Vec<String>,
    pub partitions_dropped: Vec<String>,
    pub rows_deleted: u64,
}
