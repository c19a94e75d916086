use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use uuid::Uuid;

use super::envelope::{Place, seal};
use super::values::Values;
use super::{EncryptionError, KeySource, Keyring};
use crate::error::{Error, Kind};
use crate::store::{DynStore, SealedSecret, SecretRow};
use orrery_sdk::secret::Reference;

/// What encrypts and decrypts the secrets of a deployment. Cheap to clone.
#[derive(Clone)]
pub struct Vault {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) store: DynStore,
    pub(super) values: Values,
    source: KeySource,
    keys: Mutex<Keys>,
}

#[derive(Default)]
struct Keys {
    ring: Option<Arc<Keyring>>,
    /// When their file was changed.
    changed_at: Option<SystemTime>,
    /// They have been compared with those in use.
    compared: bool,
}

impl Vault {
    /// Reads the keys, and compares them with what the database's secrets are encrypted under.
    ///
    /// # Errors
    /// Where they are of no use, or secrets are there that they do not open. A coordinator must not start then: it would refuse what it is
    /// asked to run, or worse, encrypt what nobody else can read.
    pub async fn open(store: DynStore, source: KeySource) -> Result<Self, EncryptionError> {
        let (changed_at, ring) = (source.changed_at(), source.read()?.map(Arc::new));
        let used = store.encryption_keys().await?;
        match &ring {
            Some(ring) => ring.check(&used)?,
            None if used.is_empty() => {}
            None => {
                let ids: Vec<String> = used.into_iter().map(|key| key.id).collect();
                return Err(EncryptionError::NoKey { ids: ids.join(", ") });
            }
        }
        let keys = Mutex::new(Keys { ring, changed_at, compared: false });
        Ok(Self { inner: Arc::new(Inner { store, values: Values::default(), source, keys }) })
    }

    /// The keys, as they were read last.
    pub(super) fn keys(&self) -> Option<Arc<Keyring>> {
        self.inner.keys.lock().unwrap_or_else(PoisonError::into_inner).ring.clone()
    }

    /// The keys for encrypting. They have been compared with those that other coordinators have used since the start.
    pub(super) async fn sealing_keys(&self) -> Result<Arc<Keyring>, Error> {
        let ring = self.keys().ok_or_else(not_configured)?;
        let is_compared = self.inner.keys.lock().unwrap_or_else(PoisonError::into_inner).compared;
        if !is_compared {
            // Where others encrypt under keys that are not known here, theirs are not opened; but under one id there must be one key.
            let used = self.inner.store.encryption_keys().await?;
            let known: Vec<_> = used.into_iter().filter(|used| ring.ids().any(|id| id == used.id)).collect();
            ring.check(&known)?;
            // Not before any of them is in use can it be told for good.
            let is_used = known.iter().any(|key| key.id == ring.current().id);
            self.inner.keys.lock().unwrap_or_else(PoisonError::into_inner).compared = is_used;
        }
        Ok(ring)
    }

    /// Reads the file of keys again where it has changed since. Whether there are other keys now.
    pub(super) async fn look_again(&self) -> bool {
        let changed_at = self.inner.source.changed_at();
        let known = self.inner.keys.lock().unwrap_or_else(PoisonError::into_inner).changed_at;
        if changed_at.is_none() || changed_at == known {
            return false;
        }
        let source = self.inner.source.clone();
        let read = tokio::task::spawn_blocking(move || source.read()).await;
        let used = self.inner.store.encryption_keys().await;
        let checked = match (read, used) {
            (Ok(Ok(Some(ring))), Ok(used)) => ring.check(&used).map(|()| ring),
            (Ok(Err(error)), _) => Err(error),
            (_, Err(error)) => Err(error.into()),
            _ => return false,
        };
        let mut keys = self.inner.keys.lock().unwrap_or_else(PoisonError::into_inner);
        match checked {
            Ok(ring) => {
                tracing::info!(keys = ?ring, "the file of encryption keys was read again");
                *keys = Keys { ring: Some(Arc::new(ring)), changed_at, compared: false };
                true
            }
            Err(error) => {
                keys.changed_at = changed_at;
                tracing::error!(%error, "the file of encryption keys has changed and cannot be used; the keys before are used on");
                false
            }
        }
    }

    /// Stores another version of a secret, or its first one.
    ///
    /// # Errors
    /// ENCRYPTION_NOT_CONFIGURED; the store's.
    pub async fn put(&self, tenant: Uuid, name: &str, value: &str, by: Uuid) -> Result<SecretRow, Error> {
        let keys = self.sealing_keys().await?;
        let sealed = |version| seal(&keys, Place { tenant, name, version }, value.as_bytes()).map_err(Error::from);
        let row = self.inner.store.put_secret(tenant, name, by, &sealed).await?;
        self.inner.values.forget(tenant, name);
        Ok(row)
    }

    /// Deletes a secret, or one version of it.
    ///
    /// # Errors
    /// The store's.
    pub async fn delete(&self, tenant: Uuid, name: &str, version: Option<i64>, by: Uuid) -> Result<(), Error> {
        let deleted = self.inner.store.delete_secret(tenant, name, version, by).await;
        self.inner.values.forget(tenant, name);
        Ok(deleted?)
    }

    /// Encrypts a value that a job is to bring along, under a name that nobody can guess or give.
    ///
    /// # Errors
    /// ENCRYPTION_NOT_CONFIGURED.
    pub(crate) async fn seal_apart(&self, tenant: Uuid, value: &str) -> Result<(Reference, SealedSecret), Error> {
        let keys = self.sealing_keys().await?;
        let name = Reference::sealed_name(&Uuid::new_v4().simple().to_string());
        let sealed = seal(&keys, Place { tenant, name: &name, version: 1 }, value.as_bytes())?;
        Ok((Reference { name, version: None }, sealed))
    }
}

fn not_configured() -> Error {
    let message = "this server has no encryption key, so secrets cannot be used; set ORRERY_ENCRYPTION_KEY or ORRERY_ENCRYPTION_KEY_FILE, \
                   such as from `openssl rand -base64 32`, and start it anew";
    Error::new(Kind::Conflict, "ENCRYPTION_NOT_CONFIGURED", message)
}
