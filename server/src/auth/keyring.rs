//! What this deployment hashes API keys and signs access tokens with. All of it is derived from one secret, which stands in no database.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use super::identity::{IdentityError, check_secret};
use crate::audit::Signer;
use crate::config::{Identity, ServerSecret};
use crate::store::{KeyHash, PepperId};

/// Secrets that API keys may have been hashed under. Cheap to clone.
#[derive(Clone)]
pub struct Keyring {
    /// Never empty; the first is used for what is new.
    keys: Arc<[ServerKey]>,
}

struct ServerKey {
    id: PepperId,
    pepper: [u8; 32],
    signing: [u8; 32],
    /// The seed that heads of the audit log are signed with.
    audit: [u8; 32],
}

impl std::fmt::Debug for Keyring {
    /// Without the keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ids: Vec<String> = self.keys.iter().map(|key| hex(&key.id)).collect();
        f.debug_struct("Keyring").field("ids", &ids).finish_non_exhaustive()
    }
}

impl Keyring {
    /// That of a server: of its peppers, or of its key file (made where there is none), or of ORRERY_JWT_SECRET.
    ///
    /// # Errors
    /// Where none of them is set, one of them is no secret, or the file cannot be used.
    pub fn of(identity: &Identity) -> Result<Self, IdentityError> {
        Self::from_settings(&identity.server_secret, identity.jwt_secret.as_deref())
    }

    /// The same, for commands that have these settings only.
    ///
    /// # Errors
    /// As [`Keyring::of`].
    pub fn from_settings(secret: &ServerSecret, jwt_secret: Option<&str>) -> Result<Self, IdentityError> {
        if !secret.key_pepper.is_empty() {
            for pepper in &secret.key_pepper {
                check_secret("ORRERY_KEY_PEPPER", pepper)?;
            }
            return Ok(Self::of_secrets(secret.key_pepper.iter().map(String::as_bytes)));
        }
        if let Some(path) = &secret.key_file {
            return Ok(Self::of_secrets([&kept(path)?[..]]));
        }
        match jwt_secret {
            Some(secret) => {
                check_secret("ORRERY_JWT_SECRET", secret)?;
                Ok(Self::of_secrets([secret.as_bytes()]))
            }
            None => Err(IdentityError::NoServerSecret),
        }
    }

    fn of_secrets<'a>(secrets: impl IntoIterator<Item = &'a [u8]>) -> Self {
        Self { keys: secrets.into_iter().map(ServerKey::of).collect() }
    }

    /// What a new key is stored as.
    pub(super) fn hash(&self, plain: &str) -> KeyHash {
        // Never empty, so that there is always a first.
        self.keys.first().map_or_else(|| unpeppered(plain), |key| key.hash(plain))
    }

    /// All that a key may be stored as: under each pepper, the newest first, and as keys of before were.
    pub(super) fn hashes(&self, plain: &str) -> Vec<KeyHash> {
        self.keys.iter().map(|key| key.hash(plain)).chain([unpeppered(plain)]).collect()
    }

    /// The pepper of new keys.
    pub(crate) fn current(&self) -> Option<PepperId> {
        self.keys.first().map(|key| key.id)
    }

    /// The secret that new access tokens are signed with, and the id that they name it by.
    pub(super) fn signing(&self) -> Option<(String, &[u8; 32])> {
        self.keys.first().map(|key| (key.kid(), &key.signing))
    }

    /// What heads of the audit log are signed with.
    pub fn signer(&self) -> Signer {
        Signer::new(self.keys.iter().map(|key| &key.audit))
    }

    /// The secret that access tokens of this id are signed with.
    pub(super) fn signing_of(&self, kid: &str) -> Option<&[u8; 32]> {
        self.keys.iter().find(|key| key.kid() == kid).map(|key| &key.signing)
    }
}

impl ServerKey {
    /// HKDF (RFC 5869) with one block for each use; a secret of text is no uniform key.
    fn of(secret: &[u8]) -> Self {
        let extracted = mac(b"orrery server secret v1", &[secret]);
        let derived = |label: &[u8]| mac(&extracted, &[label, &[1]]);
        let mut id = PepperId::default();
        id.copy_from_slice(&derived(b"id")[..8]);
        Self { id, pepper: derived(b"api keys"), signing: derived(b"access tokens"), audit: derived(b"audit heads") }
    }

    fn hash(&self, plain: &str) -> KeyHash {
        KeyHash { pepper: Some(self.id), hash: mac(&self.pepper, &[plain.as_bytes()]) }
    }

    fn kid(&self) -> String {
        format!("{KID}{}", hex(&self.id))
    }
}

/// What the ids of this deployment's own signing keys begin with.
pub(super) const KID: &str = "orrery-";

fn unpeppered(plain: &str) -> KeyHash {
    KeyHash { pepper: None, hash: Sha256::digest(plain.as_bytes()).into() }
}

fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    // Keys of HMAC may have any length (RFC 2104), so this cannot fail.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return [0; 32] };
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The secret in a file, which is made, for its owner only, where there is none.
fn kept(path: &Path) -> Result<Vec<u8>, IdentityError> {
    let failed = |source| IdentityError::KeyFile { path: PathBuf::from(path), source };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => made(path).map_err(failed)?,
        Err(error) => return Err(failed(error)),
    };
    let mode = std::fs::metadata(path).map_err(failed)?.permissions().mode();
    if mode & 0o007 != 0 {
        return Err(IdentityError::OpenKeyFile { path: PathBuf::from(path) });
    }
    let secret = STANDARD.decode(text.trim()).unwrap_or_default();
    if secret.len() < 32 {
        return Err(IdentityError::NoKey { path: PathBuf::from(path) });
    }
    Ok(secret)
}

/// Makes a key file whole or not at all; where another process was faster, its file counts.
fn made(path: &Path) -> std::io::Result<String> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory)?;
    // Readable by its owner only, as temporary files are.
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    writeln!(file, "{}", STANDARD.encode(rand::random::<[u8; 32]>()))?;
    file.as_file().sync_all()?;
    match file.persist_noclobber(path) {
        Ok(_) => {}
        Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error.error),
    }
    std::fs::read_to_string(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "q3v8Zk1mPw5Tn7Yc2Rb9Lx4Jd6Hf0Gs8Aa";
    const B: &str = "Zx9Lm2Qw7Er4Ty1Ui8Op5As3Df6Gh0JkBb";

    fn with(peppers: &[&str]) -> ServerSecret {
        ServerSecret { key_pepper: peppers.iter().map(ToString::to_string).collect(), key_file: None }
    }

    fn keyring(peppers: &[&str]) -> Keyring {
        Keyring::from_settings(&with(peppers), None).unwrap()
    }

    #[test]
    fn a_pepper_that_was_replaced_still_counts() {
        let (old, both, new) = (keyring(&[A]), keyring(&[B, A]), keyring(&[B]));
        assert!(both.hashes("ork_x").contains(&old.hash("ork_x")));
        assert_eq!(both.hash("ork_x"), new.hash("ork_x"));
        assert!(!new.hashes("ork_x").contains(&old.hash("ork_x")));
        let (kid, signing) = old.signing().unwrap();
        assert_eq!(both.signing_of(&kid), Some(signing));
        assert_eq!(new.signing_of(&kid), None);
    }

    #[test]
    fn each_use_has_a_secret_of_its_own_and_none_is_shown() {
        let keyring = keyring(&[A]);
        let key = &keyring.keys[0];
        assert_ne!(key.pepper, key.signing);
        assert!(key.audit != key.pepper && key.audit != key.signing);
        assert_ne!(keyring.hash("ork_x").hash, <[u8; 32]>::from(Sha256::digest(b"ork_x")));
        let shown = format!("{keyring:?} {:?}", with(&[A]));
        assert!(!shown.contains(A) && !shown.contains(&hex(&key.pepper)) && shown.contains(&hex(&key.id)), "{shown}");
    }

    #[test]
    fn a_pepper_is_checked_and_some_secret_is_needed() {
        let refused = |secret: &ServerSecret, jwt| Keyring::from_settings(secret, jwt).unwrap_err().to_string();
        assert!(refused(&with(&["changeme"]), None).contains("ORRERY_KEY_PEPPER"));
        assert!(refused(&with(&[]), None).contains("ORRERY_KEY_PEPPER"));
        assert!(Keyring::from_settings(&with(&[]), Some(A)).is_ok());
    }

    #[test]
    fn a_key_file_is_made_once_and_is_its_owners_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/server.key");
        let secret = ServerSecret { key_file: Some(path.clone()), ..ServerSecret::default() };
        let first = Keyring::from_settings(&secret, None).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Keyring::from_settings(&secret, None).unwrap().hash("x"), first.hash("x"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(Keyring::from_settings(&secret, None).unwrap_err().to_string().contains("chmod"));
        std::fs::write(&path, "c2hvcnQ=").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(Keyring::from_settings(&secret, None), Err(IdentityError::NoKey { .. })));
    }
}
