use super::Columns;
use crate::store::{EncryptionKey, Result, SealedSecret};

/// A version with the proof of its key.
pub(in crate::store) fn sealed_secret(row: &impl Columns) -> Result<SealedSecret> {
    Ok(SealedSecret {
        tenant_id: row.id("tenant_id")?,
        name: row.text("name")?,
        version: row.number("version")?,
        key: EncryptionKey { id: row.text("key_id")?, proof: row.bytes("proof")? },
        wrapped_key: row.bytes("wrapped_key")?,
        ciphertext: row.bytes("ciphertext")?,
    })
}
