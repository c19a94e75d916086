//! From a value to what is stored of it, and back.

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::KeyInit;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::EncryptionError;
use super::error::OpenError;
use super::keyring::{KEY, Keyring, decrypt, encrypt, random};
use crate::store::SealedSecret;

/// Where a value belongs: it opens nowhere else.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) tenant: Uuid,
    pub(super) name: &'a str,
    pub(super) version: i64,
}

impl<'a> Place<'a> {
    fn of(sealed: &'a SealedSecret) -> Self {
        Self { tenant: sealed.tenant_id, name: &sealed.name, version: sealed.version }
    }

    /// The associated data of a value or of its key. What has a fixed length comes first, so that no two places read alike.
    fn data(&self, of: &[u8; 1]) -> Vec<u8> {
        let version = self.version.to_be_bytes();
        [b"orrery secret 1 ", of.as_slice(), self.tenant.as_bytes(), &version, self.name.as_bytes()].concat()
    }
}

/// Encrypts a value under a new data key, and that under the current key.
pub(super) fn seal(keys: &Keyring, place: Place<'_>, value: &[u8]) -> Result<SealedSecret, EncryptionError> {
    let data_key = random::<KEY>()?;
    let ciphertext = encrypt(&cipher(&data_key), value, &place.data(b"v"))?;
    Ok(SealedSecret {
        tenant_id: place.tenant,
        name: place.name.to_owned(),
        version: place.version,
        key: keys.current().clone(),
        wrapped_key: keys.seal(data_key.as_slice(), &place.data(b"k"))?,
        ciphertext,
    })
}

/// The value.
pub(super) fn open(keys: &Keyring, sealed: &SealedSecret) -> Result<Zeroizing<Vec<u8>>, OpenError> {
    let data_key = data_key(keys, sealed)?;
    decrypt(&cipher(&data_key), &sealed.ciphertext, &Place::of(sealed).data(b"v")).ok_or(OpenError::Forged)
}

/// The same value, its data key encrypted under the current key.
pub(super) fn rewrap(
    keys: &Keyring,
    sealed: &SealedSecret,
) -> Result<Result<SealedSecret, EncryptionError>, OpenError> {
    let data_key = data_key(keys, sealed)?;
    let wrapped = keys.seal(data_key.as_slice(), &Place::of(sealed).data(b"k"));
    Ok(wrapped.map(|wrapped_key| SealedSecret { key: keys.current().clone(), wrapped_key, ..sealed.clone() }))
}

/// The same value under a new data key.
pub(super) fn reseal(
    keys: &Keyring,
    sealed: &SealedSecret,
) -> Result<Result<SealedSecret, EncryptionError>, OpenError> {
    Ok(seal(keys, Place::of(sealed), &open(keys, sealed)?))
}

fn data_key(keys: &Keyring, sealed: &SealedSecret) -> Result<Zeroizing<[u8; KEY]>, OpenError> {
    let unknown = || OpenError::UnknownKey(sealed.key.id.clone());
    let opened = keys.open(&sealed.key.id, &sealed.wrapped_key, &Place::of(sealed).data(b"k")).ok_or_else(unknown)?;
    let bytes = opened.ok_or(OpenError::Forged)?;
    let mut key = Zeroizing::new([0; KEY]);
    if bytes.len() != KEY {
        return Err(OpenError::Forged);
    }
    key.copy_from_slice(&bytes);
    Ok(key)
}

fn cipher(key: &[u8; KEY]) -> Aes256Gcm {
    Aes256Gcm::new(key.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "one:MDEyMzQ1Njc4OWFiY2RlZmdoaWprbG1ub3BxcnN0dXY=";
    const TWO: &str = "two:QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY=";

    fn keys(text: &str) -> Keyring {
        Keyring::parse("X", text).unwrap()
    }

    fn sealed(tenant: u128, name: &str, version: i64) -> SealedSecret {
        let place = Place { tenant: Uuid::from_u128(tenant), name, version };
        seal(&keys(ONE), place, b"the value").unwrap()
    }

    #[test]
    fn what_is_sealed_opens_in_its_place_only() {
        let row = sealed(1, "db", 1);
        assert_eq!(open(&keys(ONE), &row).unwrap().as_slice(), b"the value");
        let swapped = [
            SealedSecret { tenant_id: Uuid::from_u128(2), ..row.clone() },
            SealedSecret { name: "db2".into(), ..row.clone() },
            SealedSecret { version: 2, ..row.clone() },
            SealedSecret { ciphertext: sealed(1, "db", 1).ciphertext, ..row.clone() },
            SealedSecret { wrapped_key: sealed(1, "db", 1).wrapped_key, ..row.clone() },
            SealedSecret { wrapped_key: row.ciphertext.clone(), ..row.clone() },
            SealedSecret { ciphertext: Vec::new(), ..row.clone() },
        ];
        for row in swapped {
            assert_eq!(open(&keys(ONE), &row).err(), Some(OpenError::Forged), "{row:?}");
        }
        let other = SealedSecret { tenant_id: Uuid::from_u128(9), ..sealed(1, "a", 1) };
        let moved = SealedSecret { ciphertext: other.ciphertext, wrapped_key: other.wrapped_key, ..sealed(9, "a", 1) };
        assert_eq!(open(&keys(ONE), &moved).err(), Some(OpenError::Forged));
    }

    #[test]
    fn every_changed_bit_is_noticed() {
        let row = sealed(1, "db", 1);
        for at in 0..row.ciphertext.len() {
            let mut changed = row.clone();
            changed.ciphertext[at] ^= 1;
            assert_eq!(open(&keys(ONE), &changed).err(), Some(OpenError::Forged));
        }
        for at in 0..row.wrapped_key.len() {
            let mut changed = row.clone();
            changed.wrapped_key[at] ^= 0x80;
            assert_eq!(open(&keys(ONE), &changed).err(), Some(OpenError::Forged));
        }
    }

    #[test]
    fn nothing_is_encrypted_alike_twice() {
        let (a, b) = (sealed(1, "db", 1), sealed(1, "db", 1));
        assert!(a.ciphertext != b.ciphertext && a.wrapped_key != b.wrapped_key);
        assert!(!a.ciphertext.windows(5).any(|part| part == b"value"));
    }

    #[test]
    fn keys_are_changed_without_the_value_changing() {
        let row = sealed(1, "db", 1);
        let both = keys(&format!("{TWO} {ONE}"));
        let rewrapped = rewrap(&both, &row).unwrap().unwrap();
        assert_eq!((rewrapped.key.id.as_str(), &rewrapped.ciphertext), ("two", &row.ciphertext));
        let resealed = reseal(&both, &row).unwrap().unwrap();
        assert_ne!(resealed.ciphertext, row.ciphertext);
        for row in [rewrapped, resealed] {
            assert_eq!(open(&keys(TWO), &row).unwrap().as_slice(), b"the value", "the old key is not needed");
            assert_eq!(open(&keys(ONE), &row).err(), Some(OpenError::UnknownKey("two".into())));
        }
    }
}
