//! What a store does, by noun. Beside each trait stand the decisions that its callers hand in.

mod agents;
mod audit;
mod dead_letters;
mod fires;
mod gates;
mod jobs;
mod keys;
mod leases;
mod logs;
mod reads;
mod roles;
mod secrets;
mod sessions;
mod sharing;
mod tenants;
mod upkeep;
mod users;

pub use agents::Agents;
pub use audit::{Audit, SealAudit, SignCheckpoint};
pub use dead_letters::DeadLetters;
pub use fires::{DecideArm, DecideDue, DecidePlan, DecideTrigger, Fires};
pub use gates::Gates;
pub use jobs::{ChangeJob, Jobs};
pub use keys::Keys;
pub use leases::{Assign, Leases};
pub use logs::Logs;
pub use reads::Reads;
pub use roles::Roles;
pub(in crate::store) use roles::{absent, role_in_use};
pub(in crate::store) use secrets::refuse_newest;
pub use secrets::{KEPT_VERSIONS, SealSecret, Secrets};
pub use sessions::Sessions;
pub use sharing::Sharing;
pub use tenants::{ChangeTenant, Tenants};
pub use upkeep::Upkeep;
pub use users::Users;
