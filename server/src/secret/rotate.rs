//! New keys for what is encrypted, while everything runs on.

use uuid::Uuid;

use super::Vault;
use super::envelope::{reseal, rewrap};
use super::keyring::Keyring;
use crate::error::{Error, Kind};
use crate::store::{SealedSecret, StaleSecrets};

/// Versions in one transaction.
const A_BATCH: i64 = 200;

/// What a rotation did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rotated {
    /// The key that everything of it is under now.
    pub key_id: String,
    /// Versions that were encrypted anew.
    pub changed: u64,
    /// Versions that did not open, and stay as they are.
    pub unreadable: u64,
    /// Keys that nothing in the database is under any more: they can be taken away.
    pub retired: Vec<String>,
    /// Other keys that are still in use, by other tenants' secrets or by what did not open.
    pub in_use: Vec<String>,
}

impl Vault {
    /// Brings a tenant's secrets under the current key, of all tenants where none is given. With `data_keys` each of them gets a new data key
    /// as well. A file of keys that has changed is read first.
    ///
    /// What is put, read and run meanwhile is not disturbed: a version is replaced only while it is what was read, and keeps its value.
    ///
    /// # Errors
    /// ENCRYPTION_NOT_CONFIGURED; the store's.
    pub async fn rotate(&self, tenant: Option<Uuid>, data_keys: bool) -> Result<Rotated, Error> {
        self.look_again().await;
        let keys = self.sealing_keys().await?;
        let mut rotated = Rotated { key_id: keys.current().id.clone(), ..Rotated::default() };
        let tenants = match tenant {
            Some(tenant) => vec![tenant],
            None => self.inner.store.tenants_with_secrets().await?,
        };
        for tenant in tenants {
            self.rotate_tenant(&keys, tenant, data_keys, &mut rotated).await?;
        }
        rotated.retired = self.inner.store.retire_keys(&rotated.key_id).await?;
        let used = self.inner.store.encryption_keys().await?;
        rotated.in_use = used.into_iter().map(|key| key.id).filter(|id| *id != rotated.key_id).collect();
        Ok(rotated)
    }

    async fn rotate_tenant(
        &self,
        keys: &Keyring,
        tenant: Uuid,
        data_keys: bool,
        rotated: &mut Rotated,
    ) -> Result<(), Error> {
        let current = keys.current().id.as_str();
        let other_than = (!data_keys).then_some(current);
        let mut after = None;
        loop {
            let stale = StaleSecrets { tenant, other_than, after, limit: A_BATCH };
            let found = self.inner.store.stale_secrets(&stale).await?;
            let Some(last) = found.last() else { return Ok(()) };
            after = Some((last.name.clone(), last.version));
            let mut pairs: Vec<(SealedSecret, SealedSecret)> = Vec::with_capacity(found.len());
            for old in found {
                let new = if data_keys { reseal(keys, &old) } else { rewrap(keys, &old) };
                match new {
                    Ok(new) => pairs.push((old, new?)),
                    Err(error) => {
                        tracing::error!(secret = ?old, %error, "a secret cannot be encrypted anew");
                        rotated.unreadable += 1;
                    }
                }
            }
            rotated.changed += self.inner.store.replace_sealed(&pairs).await?;
        }
    }
}

impl Rotated {
    /// What is to be told where something did not open.
    ///
    /// # Errors
    /// SECRETS_UNREADABLE.
    pub fn complete(self) -> Result<Self, Error> {
        if self.unreadable == 0 {
            return Ok(self);
        }
        let message = format!(
            "{} versions of secrets could not be decrypted and stay under the keys {}; the server's log names them",
            self.unreadable,
            self.in_use.join(", ")
        );
        Err(Error::new(Kind::Internal, "SECRETS_UNREADABLE", message).with("rotated", self.changed))
    }
}
