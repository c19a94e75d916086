use std::time::Duration;

use async_trait::async_trait;

use crate::store::*;

/// What coordinators share beside the jobs.
#[async_trait]
pub trait Sharing: Send + Sync {
    /// Takes a lock for `ttl` from now, unless another holder has it and it has not expired. `false` where it has.
    async fn lock(&self, key: &str, holder: &str, ttl: Duration) -> Result<bool>;

    /// Holds a lock for `ttl` from now. `false` where it has expired or is another's.
    async fn extend_lock(&self, key: &str, holder: &str, ttl: Duration) -> Result<bool>;

    /// Gives a lock back. `false` where it was not this holder's any more.
    async fn unlock(&self, key: &str, holder: &str) -> Result<bool>;

    /// The generation of what is cached outside of the database; what is of an older one may be wrong.
    async fn cache_generation(&self) -> Result<i64>;

    /// Begins the next generation.
    async fn next_cache_generation(&self) -> Result<i64>;
}
