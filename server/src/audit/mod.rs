//! What was done, by whom: entries that are written in the transaction of what they tell of, and sealed into a chain for each tenant.
//!
//! Whoever writes an entry waits for nobody: it only joins those that wait. A loop takes them up in order and seals them, so that the end of a
//! chain is no lock that all changes of a tenant would queue for. The engine's own work is not written here: history tells it.

mod author;
pub mod chain;
mod copier;
mod deed;
mod denials;
mod head;
mod throttle;
pub mod verify;

pub use author::Author;
pub use chain::{IN_A_SEAL, Link, Seal};
pub use copier::Copier;
pub use deed::{Deed, Resource};
pub use denials::{Claimed, Denial, DenialLoop, Denials};
pub use head::{Head, Place, Signer};

use uuid::Uuid;

/// The tenant of what concerns the deployment itself.
pub const DEPLOYMENT: Uuid = Uuid::nil();

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use chrono::DateTime;
    use orrery_proto::v1::AuditOutcome;

    use super::*;
    use crate::store::AuditEntry;

    /// An entry of tenant 7.
    pub(crate) fn entry(n: u128) -> AuditEntry {
        AuditEntry {
            id: Uuid::from_u128(n),
            at: DateTime::UNIX_EPOCH,
            author: Arc::new(Author {
                kind: "user".to_owned(),
                id: Uuid::from_u128(5),
                name: "anna".to_owned(),
                address: "127.0.0.1".to_owned(),
                request_id: "r".to_owned(),
            }),
            deed: Deed {
                tenant: Uuid::from_u128(7),
                action: "jobs:update".to_owned(),
                resource: Resource::new("job", n, "a"),
                before: Some("{}".to_owned()),
                after: Some(r#"{"a":1}"#.to_owned()),
            },
            outcome: AuditOutcome::Changed,
        }
    }

    /// A denial of the key `n`.
    pub(crate) fn denial(n: u64) -> Denial {
        let author = Author { kind: "key".to_owned(), id: Uuid::from_u64_pair(0, n), ..Author::default() };
        Denial {
            tenant: Uuid::nil(),
            author,
            action: "jobs:create",
            call: "JobService/CreateJob",
            code: "PERMISSION_DENIED",
            claimed: None,
        }
    }
}
