use std::collections::HashSet;

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use rand::TryRngCore;
use rand::rngs::OsRng;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::EncryptionError;
use crate::store::EncryptionKey;

/// Bytes of a key: AES-256.
pub(super) const KEY: usize = 32;
/// Bytes of a nonce, chosen at random for each use: at most 2^32 of them under one key (SP 800-38D, 8.3).
const NONCE: usize = 12;
/// What a key encrypts to prove that it is itself.
const KNOWN: &[u8] = b"orrery key-encryption key";
/// The most characters of a key's id.
const MAX_ID: usize = 40;

/// Base64 of keys, with or without padding.
const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);

/// Keys that data keys are encrypted under. The first one encrypts, all of them decrypt.
pub struct Keyring {
    keys: Vec<Key>,
}

struct Key {
    public: EncryptionKey,
    cipher: Aes256Gcm,
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| &key.public.id)).finish()
    }
}

impl Keyring {
    /// Reads `ID:KEY` or `KEY`, several of them apart by commas or white space; lines that begin with # are comments. A key is 32 bytes in
    /// base64 or hexadecimal. `name` stands in errors.
    ///
    /// # Errors
    /// What is wrong with them; no error shows a key.
    pub fn parse(name: &str, text: &str) -> Result<Self, EncryptionError> {
        let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        let entries = lines.flat_map(|line| line.split([',', ' ', '\t', '\r'])).filter(|entry| !entry.is_empty());
        let (mut keys, mut ids) = (Vec::new(), HashSet::new());
        for (entry, number) in entries.zip(1..) {
            let malformed = || EncryptionError::Malformed { name: name.to_owned(), number };
            let (id, key) = match entry.split_once(':') {
                Some((id, key)) => (Some(id), key),
                None => (None, entry),
            };
            let key = material(key).ok_or_else(malformed)?;
            if key.iter().collect::<HashSet<_>>().len() < 8 {
                return Err(EncryptionError::Weak { name: name.to_owned(), number });
            }
            let id = match id {
                Some(id) if is_id(id) => id.to_owned(),
                Some(_) => return Err(malformed()),
                None => fingerprint(&key),
            };
            if !ids.insert(id.clone()) {
                return Err(EncryptionError::Twice { name: name.to_owned(), id });
            }
            keys.push(Key::new(id, &key)?);
        }
        if keys.is_empty() { Err(EncryptionError::Empty { name: name.to_owned() }) } else { Ok(Self { keys }) }
    }

    /// A new key, as [`Keyring::parse`] reads it.
    ///
    /// # Errors
    /// [`EncryptionError::Random`].
    pub fn generate() -> Result<Zeroizing<String>, EncryptionError> {
        let key = random::<KEY>()?;
        let engine = base64::engine::general_purpose::STANDARD;
        Ok(Zeroizing::new(format!("{}:{}\n", fingerprint(&key), engine.encode(key.as_slice()))))
    }

    /// The key that encrypts.
    pub fn current(&self) -> &EncryptionKey {
        &self.first().public
    }

    fn first(&self) -> &Key {
        // There is one at least: `parse` makes no other.
        &self.keys[0]
    }

    /// The ids of all keys, the current one first.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|key| key.public.id.as_str())
    }

    /// Compares with the keys that a database's secrets are under.
    ///
    /// # Errors
    /// [`EncryptionError::Missing`] or [`EncryptionError::Another`].
    pub fn check(&self, used: &[EncryptionKey]) -> Result<(), EncryptionError> {
        let missing: Vec<&str> =
            used.iter().map(|key| key.id.as_str()).filter(|id| !self.ids().any(|known| known == *id)).collect();
        if !missing.is_empty() {
            return Err(EncryptionError::Missing { ids: missing.join(", ") });
        }
        for used in used {
            let proves =
                |key: &Key| key.cipher_opens(&used.proof, used.id.as_bytes()).is_some_and(|text| *text == KNOWN);
            if !self.keys.iter().any(|key| key.public.id == used.id && proves(key)) {
                return Err(EncryptionError::Another { id: used.id.clone() });
            }
        }
        Ok(())
    }

    /// Encrypts under the current key.
    pub(super) fn seal(&self, text: &[u8], bound_to: &[u8]) -> Result<Vec<u8>, EncryptionError> {
        encrypt(&self.first().cipher, text, bound_to)
    }

    /// Decrypts under the key of this id. `None` in the first place where there is none, in the second where it does not open.
    pub(super) fn open(&self, id: &str, sealed: &[u8], bound_to: &[u8]) -> Option<Option<Zeroizing<Vec<u8>>>> {
        let key = self.keys.iter().find(|key| key.public.id == id)?;
        Some(key.cipher_opens(sealed, bound_to))
    }
}

impl Key {
    fn new(id: String, key: &[u8; KEY]) -> Result<Self, EncryptionError> {
        let cipher = Aes256Gcm::new(key.into());
        let proof = encrypt(&cipher, KNOWN, id.as_bytes())?;
        let key = Self { public: EncryptionKey { id, proof }, cipher };
        // A machine on which this fails would write what nobody can read.
        let opened = key.cipher_opens(&key.public.proof, key.public.id.as_bytes());
        if opened.is_some_and(|text| *text == KNOWN) { Ok(key) } else { Err(EncryptionError::Broken) }
    }

    fn cipher_opens(&self, sealed: &[u8], bound_to: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        decrypt(&self.cipher, sealed, bound_to)
    }
}

/// Nonce, ciphertext and tag. `bound_to` is authenticated with them and not part of them.
pub(super) fn encrypt(cipher: &Aes256Gcm, text: &[u8], bound_to: &[u8]) -> Result<Vec<u8>, EncryptionError> {
    let nonce = random::<NONCE>()?;
    let payload = Payload { msg: text, aad: bound_to };
    let sealed = cipher.encrypt(&Nonce::from(*nonce), payload).map_err(|_| EncryptionError::Broken)?;
    Ok([nonce.as_slice(), &sealed].concat())
}

/// The text, if every bit of it and of what it is bound to is as it was.
pub(super) fn decrypt(cipher: &Aes256Gcm, sealed: &[u8], bound_to: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (nonce, sealed) = sealed.split_first_chunk::<NONCE>()?;
    cipher.decrypt(&Nonce::from(*nonce), Payload { msg: sealed, aad: bound_to }).ok().map(Zeroizing::new)
}

/// Random bytes from the system.
pub(super) fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, EncryptionError> {
    let mut bytes = Zeroizing::new([0; N]);
    OsRng.try_fill_bytes(bytes.as_mut_slice()).map_err(|_| EncryptionError::Random)?;
    Ok(bytes)
}

/// The 32 bytes of a key.
fn material(text: &str) -> Option<Zeroizing<[u8; KEY]>> {
    let decoded = if text.len() == 2 * KEY && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let pairs = (0..KEY).map(|at| u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok());
        Zeroizing::new(pairs.collect::<Option<Vec<u8>>>()?)
    } else {
        let standard = GeneralPurpose::new(&alphabet::STANDARD, LENIENT).decode(text);
        Zeroizing::new(standard.or_else(|_| GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT).decode(text)).ok()?)
    };
    let mut key = Zeroizing::new([0; KEY]);
    (decoded.len() == KEY).then(|| key.copy_from_slice(&decoded))?;
    Some(key)
}

fn is_id(id: &str) -> bool {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=MAX_ID).contains(&id.len()) && id.bytes().all(known)
}

/// The id of a key that has been given none: the same for the same key, and telling nothing of it.
fn fingerprint(key: &[u8; KEY]) -> String {
    let digest = Sha256::new().chain_update(b"orrery key id").chain_update(key).finalize();
    let id: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("key-{id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "MDEyMzQ1Njc4OWFiY2RlZmdoaWprbG1ub3BxcnN0dXY=";
    const TWO: &str = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY=";

    fn ids(text: &str) -> Vec<String> {
        Keyring::parse("X", text).unwrap().ids().map(str::to_owned).collect()
    }

    #[test]
    fn keys_are_read_in_every_usual_writing() {
        assert_eq!(ids(&format!("new:{ONE},old:{TWO}")), ["new", "old"]);
        assert_eq!(ids(&format!("# the key of 2026\nnew:{ONE}\n\nold:{TWO}\n")), ["new", "old"]);
        let hex: String = (b'0'..=b'9').chain(b'a'..=b'v').map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(ids(ONE), ids(&hex), "the id of a key without one is its own");
        assert_eq!(ids(ONE), ids(ONE.trim_end_matches('=')));
        assert_eq!(ids(&Keyring::generate().unwrap()).len(), 1);
    }

    #[test]
    fn what_is_no_key_is_refused_and_not_shown() {
        let short = "MDEyMzQ1Njc4OWFiY2RlZg==";
        let zeros = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        let bad_id = format!("a b:{ONE}");
        let twice = format!("a:{ONE} a:{TWO}");
        for bad in
            ["", "  \n# only words\n", "off", "none", "changeme", short, zeros, &bad_id, &twice, "new:", "new:off"]
        {
            let error = Keyring::parse("ORRERY_ENCRYPTION_KEY", bad).unwrap_err().to_string();
            assert!(error.starts_with("ORRERY_ENCRYPTION_KEY"), "{error}");
            assert!(!error.contains(ONE) && !error.contains(short) && !error.contains("changeme"), "{error}");
        }
        let shown = format!("{:?}", Keyring::parse("X", &format!("new:{ONE}")).unwrap());
        assert_eq!(shown, "[\"new\"]");
    }

    #[test]
    fn keys_are_compared_with_those_that_are_in_use() {
        let keys = |text: &str| Keyring::parse("X", text).unwrap();
        let (old, both) = (keys(&format!("old:{ONE}")), keys(&format!("new:{TWO},old:{ONE}")));
        let used = [old.current().clone()];
        both.check(&used).unwrap();
        old.check(&used).unwrap();
        old.check(&[]).unwrap();
        assert!(
            matches!(keys(&format!("new:{TWO}")).check(&used), Err(EncryptionError::Missing { ids }) if ids == "old")
        );
        assert!(
            matches!(keys(&format!("old:{TWO}")).check(&used), Err(EncryptionError::Another { id }) if id == "old")
        );
    }
}
