//! What goes in and out of a store, beside jobs and executions; by the nouns of its traits.

mod agents;
mod audit;
mod dead_letters;
mod fires;
mod identity;
mod jobs;
mod leases;
mod reads;
mod refused;
mod roles;
mod secrets;
mod sessions;
mod upkeep;

pub use agents::*;
pub use audit::{AuditEntry, AuditFilter, AuditRow, DropAudit, Sealed, Uncopied, Unsealed};
pub(in crate::store) use audit::{AuditedSession, Notes, SessionDeed};
pub use dead_letters::*;
pub use fires::*;
pub use identity::*;
pub use jobs::*;
pub use leases::*;
pub use reads::*;
pub use refused::*;
pub use roles::*;
pub use secrets::*;
pub use sessions::*;
pub use upkeep::*;
