use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use crate::store::*;

/// API keys.
#[async_trait]
pub trait Keys: Send + Sync {
    /// Stores a key's hash.
    async fn insert_key(&self, key: &ApiKey) -> Result<()>;

    /// The key that one of these is the hash of, unless it has expired or been revoked.
    async fn key_by_hash(&self, hashes: &[KeyHash]) -> Result<Option<ApiKey>>;

    /// Keys, newest first, those that are over included.
    async fn keys(&self, of: KeysOf, page: &Page) -> Result<Vec<ApiKey>>;

    /// Revokes a key; one that was revoked stays as it is.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    async fn revoke_key(&self, of: KeysOf, id: Uuid) -> Result<ApiKey>;

    /// Says that keys were used so long ago. What is stored is the latest use.
    async fn keys_used(&self, uses: &[(Uuid, Duration)]) -> Result<()>;
}
