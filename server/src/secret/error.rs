use std::path::PathBuf;

use crate::error::{Error, Kind};
use crate::store::StoreError;

/// Why secrets cannot be encrypted or decrypted. A coordinator does not start with any of these. No text holds any part of a key.
#[derive(Debug, thiserror::Error)]
pub enum EncryptionError {
    #[error(
        "{name} is empty; give a key, such as from `openssl rand -base64 32`, or leave it out where no secrets are used"
    )]
    Empty { name: String },
    #[error("ORRERY_ENCRYPTION_KEY and ORRERY_ENCRYPTION_KEY_FILE are both given; give one of them")]
    Both,
    #[error(
        "{name}: key {number} is none; give ID:KEY, where KEY is 32 bytes in base64, such as from `openssl rand -base64 32`"
    )]
    Malformed { name: String, number: usize },
    #[error(
        "{name}: key {number} repeats the same few bytes; give a random one, such as from `openssl rand -base64 32`"
    )]
    Weak { name: String, number: usize },
    #[error("{name}: two keys are called {id}; give each an id of its own")]
    Twice { name: String, id: String },
    #[error("the key file {path} cannot be read: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error(
        "the database holds secrets, under the key {ids}, and there is no key to open them with; give ORRERY_ENCRYPTION_KEY or \
         ORRERY_ENCRYPTION_KEY_FILE"
    )]
    NoKey { ids: String },
    #[error(
        "the database holds secrets under the key {ids}, which is not among those given; add it after the first one, and run `orrery secret \
         rotate` before it is taken away"
    )]
    Missing { ids: String },
    #[error("the key {id} is not the one of that id which the secrets in the database are encrypted under")]
    Another { id: String },
    #[error("the system gives no random numbers")]
    Random,
    #[error("encryption does not work on this machine: what was encrypted does not open")]
    Broken,
    #[error("it is not known whether the database holds secrets")]
    Store(#[from] StoreError),
}

/// What does not open: it was changed, or stands in the place of something else, or the key is another one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum OpenError {
    #[error("it is encrypted under the key {0}, which is not known here")]
    UnknownKey(String),
    #[error("it does not open: it was changed, or belongs to another tenant, name or version")]
    Forged,
}

impl From<EncryptionError> for Error {
    fn from(error: EncryptionError) -> Self {
        match error {
            EncryptionError::Store(error) => error.into(),
            other => {
                tracing::error!(error = %other, "secrets cannot be encrypted");
                Self::new(Kind::Internal, "ENCRYPTION_FAILED", "the secret cannot be encrypted; see the server's log")
            }
        }
    }
}
