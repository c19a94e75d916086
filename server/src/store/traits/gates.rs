use async_trait::async_trait;
use uuid::Uuid;

use crate::admission::{Gate, Room};
use crate::store::*;

/// Limits on what runs at once.
#[async_trait]
pub trait Gates: Send + Sync {
    /// The rooms behind those of these gates that have a limit. `tenant_limit` is that of tenants without one of their own; 0 is none.
    async fn rooms(&self, gates: &[Gate], tenant_limit: i64) -> Result<Vec<(Gate, Room)>>;

    /// Limits a queue of a tenant; 0 takes the limit away.
    async fn set_queue_limit(&self, tenant: Uuid, queue: &str, limit: i32, by: Uuid) -> Result<()>;
}
