//! Secrets, as databases keep them: never in the clear.

use std::fmt;

use chrono::{DateTime, Utc};
use uuid::Uuid;

/// A version of a secret, encrypted.
#[derive(Clone, PartialEq, Eq)]
pub struct SealedSecret {
    pub tenant_id: Uuid,
    pub name: String,
    pub version: i64,
    /// The key that the data key is encrypted under.
    pub key: EncryptionKey,
    /// The data key, encrypted.
    pub wrapped_key: Vec<u8>,
    /// The value, encrypted under the data key.
    pub ciphertext: Vec<u8>,
}

impl fmt::Debug for SealedSecret {
    /// Without what is encrypted: nobody reads it, and it is long.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tenant_id, name, version, key, .. } = self;
        write!(f, "SealedSecret({tenant_id}/{name}@{version} under {})", key.id)
    }
}

/// A key that secrets are encrypted under, without the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncryptionKey {
    pub id: String,
    /// What it makes of a known text.
    pub proof: Vec<u8>,
}

/// A secret without its values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretRow {
    pub name: String,
    /// The newest.
    pub version: i64,
    /// Those that are kept, rising.
    pub versions: Vec<i64>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub updated_by: Uuid,
}

/// A version that somebody asks for; the newest where none is named.
pub type WantedSecret = (String, Option<i64>);

/// Which versions are to be encrypted anew.
#[derive(Clone, Debug)]
pub struct StaleSecrets<'a> {
    pub tenant: Uuid,
    /// Those that are not under this key; all where absent.
    pub other_than: Option<&'a str>,
    /// Those beyond this name and version.
    pub after: Option<(String, i64)>,
    pub limit: i64,
}
