//! Secrets of tenants. Only here are they in the clear, and only for moments: [`Vault`] encrypts what callers put, and decrypts what a lease that
//! is about to be sent refers to. Everything else, the database first of all, sees them encrypted.
//!
//! A value is encrypted (AES-256-GCM, NIST SP 800-38D) under a data key of its own, and that under a key-encryption key from the environment or a
//! file ([`Keyring`]). Tenant, name and version are associated data of both, so that a row that is put in the place of another one does not
//! open.

mod envelope;
mod error;
mod keyring;
mod resolve;
mod rotate;
pub mod sensitive;
mod source;
mod values;
mod vault;

pub use self::error::EncryptionError;
pub use self::keyring::Keyring;
pub use self::resolve::{Resolved, Unresolved};
pub use self::rotate::Rotated;
pub use self::source::KeySource;
pub use self::values::Value;
pub use self::vault::Vault;

/// The longest value, in bytes.
pub const MAX_VALUE: usize = 32 * 1024;
