//! From references to values, for leases that are about to be sent.

use std::collections::{BTreeSet, HashMap};

use orrery_sdk::secret::Reference;
use tokio::time::Instant;
use uuid::Uuid;

use super::envelope::open;
use super::error::OpenError;
use super::{Value, Vault};
use crate::store::{SealedSecret, StoreError, WantedSecret};

/// Why a reference has no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unresolved {
    /// There is no such secret, or no such version of it.
    Missing,
    /// It does not open here.
    Closed,
}

/// References with their values.
pub type Resolved = HashMap<Reference, Result<Value, Unresolved>>;

impl Vault {
    /// The values of a tenant's secrets: one statement for all that is not in memory, and none where all of it is.
    ///
    /// # Errors
    /// The store's.
    pub async fn resolve(&self, tenant: Uuid, references: BTreeSet<Reference>) -> Result<Resolved, StoreError> {
        let mut resolved = Resolved::with_capacity(references.len());
        let mut wanted: Vec<WantedSecret> = Vec::new();
        for reference in references {
            match self.inner.values.get(tenant, &reference) {
                Some(value) => drop(resolved.insert(reference, Ok(value))),
                None => wanted.push((reference.name, reference.version)),
            }
        }
        if wanted.is_empty() {
            return Ok(resolved);
        }
        let asked = Instant::now();
        for ((name, version), sealed) in self.inner.store.sealed_secrets(tenant, &wanted).await? {
            let reference = Reference { name, version };
            let value = self.opened(&sealed).await;
            if let Ok(value) = &value {
                self.inner.values.put(tenant, reference.clone(), value.clone(), asked);
            }
            resolved.insert(reference, value);
        }
        for (name, version) in wanted {
            resolved.entry(Reference { name, version }).or_insert(Err(Unresolved::Missing));
        }
        Ok(resolved)
    }

    async fn opened(&self, sealed: &SealedSecret) -> Result<Value, Unresolved> {
        let open_here = || match self.keys() {
            Some(keys) => open(&keys, sealed),
            None => Err(OpenError::UnknownKey(sealed.key.id.clone())),
        };
        let opened = match open_here() {
            // Another coordinator may have read a newer file of keys already.
            Err(OpenError::UnknownKey(_)) if self.look_again().await => open_here(),
            opened => opened,
        };
        let text = opened.map_err(|error| {
            tracing::error!(secret = ?sealed, %error, "a secret cannot be decrypted");
            Unresolved::Closed
        })?;
        // Only texts are ever encrypted.
        String::from_utf8(text.to_vec()).map(Value::new).map_err(|_| Unresolved::Closed)
    }
}
