use async_trait::async_trait;
use uuid::Uuid;

use crate::error::{Error, Kind};
use crate::store::*;

/// Secrets of tenants. A store only ever sees them encrypted. Values of sensitive fields, which jobs bring along ([`crate::job::JobSpec::sealed`]),
/// stand among them, and are neither listed nor deleted here.
#[async_trait]
pub trait Secrets: Send + Sync {
    /// The keys that secrets of any tenant are encrypted under.
    async fn encryption_keys(&self) -> Result<Vec<EncryptionKey>>;

    /// Forgets the keys, other than the current one, that nothing is encrypted under any more. Answers with them.
    async fn retire_keys(&self, current: &str) -> Result<Vec<String>>;

    /// Stores another version of a secret, or its first one, encrypted by `seal`. Only the newest [`KEPT_VERSIONS`] are kept.
    ///
    /// # Errors
    /// [`StoreError::Refused`] with what `seal` refused.
    async fn put_secret(&self, tenant: Uuid, name: &str, by: Uuid, seal: &SealSecret<'_>) -> Result<SecretRow>;

    /// Secrets by name, those after a name.
    async fn list_secrets(&self, tenant: Uuid, after: Option<&str>, limit: i64) -> Result<Vec<SecretRow>>;

    /// Of these names, the secrets that there are.
    async fn secrets_named(&self, tenant: Uuid, names: &[String]) -> Result<Vec<SecretRow>>;

    /// Deletes a secret with all its versions, or one version that is not the newest.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Refused`] (SECRET_VERSION_IN_USE) for the newest version.
    async fn delete_secret(&self, tenant: Uuid, name: &str, version: Option<i64>, by: Uuid) -> Result<()>;

    /// Encrypted versions, each with what it was asked by; those that are not there are left out.
    async fn sealed_secrets(&self, tenant: Uuid, wanted: &[WantedSecret]) -> Result<Vec<(WantedSecret, SealedSecret)>>;

    /// Versions that are to be encrypted anew, by name and version.
    async fn stale_secrets(&self, stale: &StaleSecrets<'_>) -> Result<Vec<SealedSecret>>;

    /// Replaces what is encrypted, where it still is what was read; values stay what they are. Answers with how many were replaced.
    async fn replace_sealed(&self, pairs: &[(SealedSecret, SealedSecret)]) -> Result<u64>;

    /// The tenants that have any.
    async fn tenants_with_secrets(&self) -> Result<Vec<Uuid>>;
}

/// How many versions of a secret are kept; older ones go when another is put.
pub const KEPT_VERSIONS: i64 = 10;

/// Encrypts a value as the version that it will be.
pub type SealSecret<'a> = dyn Fn(i64) -> std::result::Result<SealedSecret, Error> + Send + Sync + 'a;

/// The newest version goes only with its secret.
pub(in crate::store) fn refuse_newest(name: &str, version: Option<i64>, newest: i64) -> Result<()> {
    if version != Some(newest) {
        return Ok(());
    }
    let message =
        format!("version: {newest} is the newest of {name}; put another one first, or delete the secret as a whole");
    let error = Error::new(Kind::Conflict, "SECRET_VERSION_IN_USE", message);
    Err(StoreError::Refused(Box::new(error)))
}
