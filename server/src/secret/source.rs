use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use zeroize::Zeroizing;

use super::{EncryptionError, Keyring};

/// The variable that keys may stand in.
const VARIABLE: &str = "ORRERY_ENCRYPTION_KEY";

/// Where keys come from.
#[derive(Clone, Default)]
pub enum KeySource {
    /// There are none: secrets cannot be used.
    #[default]
    Nowhere,
    /// The environment.
    Text(Zeroizing<String>),
    /// A file, which is read again when it has changed and another key is needed.
    File(PathBuf),
}

impl std::fmt::Debug for KeySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Nowhere => f.write_str("Nowhere"),
            Self::Text(_) => f.write_str("Text"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

impl KeySource {
    /// By the environment and a setting. The key itself is no flag, since every user of a host sees the arguments of its programs.
    ///
    /// # Errors
    /// [`EncryptionError::Both`]; [`EncryptionError::Malformed`] where the variable is no text.
    pub fn of(file: Option<&Path>) -> Result<Self, EncryptionError> {
        let text = match std::env::var(VARIABLE) {
            Ok(text) => Some(Zeroizing::new(text)),
            Err(std::env::VarError::NotPresent) => None,
            Err(_) => return Err(EncryptionError::Malformed { name: VARIABLE.into(), number: 1 }),
        };
        match (text, file) {
            (Some(_), Some(_)) => Err(EncryptionError::Both),
            // Also where it is empty: that is a mistake, and not a way to do without.
            (Some(text), None) => Ok(Self::Text(text)),
            (None, Some(path)) => Ok(Self::File(path.to_owned())),
            (None, None) => Ok(Self::Nowhere),
        }
    }

    /// A file with a key, which is made, for its owner's eyes only, where there is none.
    ///
    /// # Errors
    /// Where it cannot be made.
    pub fn kept_in(path: &Path) -> Result<Self, EncryptionError> {
        let fail = |source| EncryptionError::Unreadable { path: path.to_owned(), source };
        // Made as a whole under another name, so that a start that dies in between leaves no half of a key.
        if !path.try_exists().map_err(fail)? {
            let fresh = path.with_extension("new");
            let mut options = std::fs::OpenOptions::new();
            let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&fresh).map_err(fail)?;
            file.write_all(Keyring::generate()?.as_bytes()).and_then(|()| file.sync_all()).map_err(fail)?;
            std::fs::rename(&fresh, path).map_err(fail)?;
        }
        Ok(Self::File(path.to_owned()))
    }

    /// Reads the keys once, so that what is wrong with them is said before anything else begins.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub fn check(&self) -> Result<(), EncryptionError> {
        self.read().map(drop)
    }

    /// The keys; `None` where there are to be none.
    ///
    /// # Errors
    /// Where they cannot be read.
    pub(super) fn read(&self) -> Result<Option<Keyring>, EncryptionError> {
        match self {
            Self::Nowhere => Ok(None),
            Self::Text(text) => Keyring::parse(VARIABLE, text).map(Some),
            Self::File(path) => {
                let read = std::fs::read_to_string(path).map(Zeroizing::new);
                let text = read.map_err(|source| EncryptionError::Unreadable { path: path.clone(), source })?;
                Keyring::parse(&path.display().to_string(), &text).map(Some)
            }
        }
    }

    /// When the file was changed, where there is one.
    pub(super) fn changed_at(&self) -> Option<SystemTime> {
        match self {
            Self::File(path) => std::fs::metadata(path).and_then(|found| found.modified()).ok(),
            Self::Nowhere | Self::Text(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_for_its_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("encryption.key");
        KeySource::kept_in(&path).unwrap();
        let first = std::fs::read_to_string(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        KeySource::kept_in(&path).unwrap().read().unwrap().unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), first);
    }

    #[test]
    fn a_file_that_holds_no_key_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("k");
        assert!(matches!(KeySource::File(path.clone()).read(), Err(EncryptionError::Unreadable { .. })));
        std::fs::write(&path, "\n").unwrap();
        assert!(matches!(KeySource::File(path).read(), Err(EncryptionError::Empty { .. })));
        assert!(KeySource::Nowhere.read().unwrap().is_none());
    }
}
