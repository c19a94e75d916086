//! The identity as it is kept, in one file, so that certificate and key are never of two kinds.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use orrery_sdk::ClientIdentity;
use rcgen::{CertificateParams, KeyPair};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::IdentityError;

/// A certificate with its key, in PEM. The key is a secret: there is no `Debug`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Stored {
    pub(super) agent_id: String,
    pub(super) certificate: String,
    pub(super) key: String,
    pub(super) authorities: String,
    /// What the join token it came by is known by, so that the same one in the settings is not tried again at the next start.
    pub(super) join_token_hash: String,
}

/// From when to when a certificate is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    pub(super) begins_at: DateTime<Utc>,
    pub(super) expires_at: DateTime<Utc>,
}

/// A key of this host's own, and the request for its certificate.
pub(super) struct Request {
    pub(super) key: String,
    pub(super) pem: String,
}

impl Request {
    /// # Errors
    /// Where the system has no randomness.
    pub(super) fn new() -> Result<Self, IdentityError> {
        let key = KeyPair::generate()?;
        let pem = CertificateParams::new(Vec::new())?.serialize_request(&key)?.pem()?;
        Ok(Self { key: key.serialize_pem(), pem })
    }
}

impl Stored {
    /// `None` where there is no file.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, IdentityError> {
        let fail = |source| IdentityError::File { path: path.to_owned(), source };
        match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| fail(io::Error::other(e))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(fail(error)),
        }
    }

    /// Replaces the file at once, readable by this user alone from its first byte on.
    pub(super) fn write(&self, path: &Path) -> Result<(), IdentityError> {
        let write = || {
            let directory = path.parent().unwrap_or(Path::new("."));
            // Mode 0600.
            let mut file = tempfile::NamedTempFile::new_in(directory)?;
            file.write_all(&serde_json::to_vec(self).map_err(io::Error::other)?)?;
            file.as_file().sync_all()?;
            file.persist(path).map_err(|e| e.error)?;
            fs::File::open(directory)?.sync_all()
        };
        write().map_err(|source| IdentityError::File { path: path.to_owned(), source })
    }

    /// Whether it was this join token that it came by.
    pub(super) fn came_by(&self, token: &str) -> bool {
        self.join_token_hash == hash(token)
    }

    pub(super) fn show(&self, shown: &ClientIdentity) {
        shown.replace(&self.certificate, &self.key, &self.authorities);
    }

    pub(super) fn times(&self) -> Result<Times, IdentityError> {
        let (_, pem) =
            x509_parser::pem::parse_x509_pem(self.certificate.as_bytes()).map_err(|_| IdentityError::Unreadable)?;
        let certificate = pem.parse_x509().map_err(|_| IdentityError::Unreadable)?;
        let validity = certificate.validity();
        let instant = |at: i64| DateTime::from_timestamp(at, 0).ok_or(IdentityError::Unreadable);
        Ok(Times {
            begins_at: instant(validity.not_before.timestamp())?,
            expires_at: instant(validity.not_after.timestamp())?,
        })
    }
}

/// What a token is known by here.
pub(super) fn hash(token: &str) -> String {
    STANDARD.encode(Sha256::digest(token.trim().as_bytes()))
}

impl Times {
    pub(super) fn is_over(&self) -> bool {
        self.expires_at <= Utc::now()
    }

    /// How long it is good in all.
    pub(super) fn life(&self) -> Duration {
        (self.expires_at - self.begins_at).to_std().unwrap_or_default()
    }

    /// Until two thirds of its life are over.
    pub(super) fn until_renewal(&self) -> Duration {
        let renewed_at = self.begins_at + (self.expires_at - self.begins_at) * 2 / 3;
        (renewed_at - Utc::now()).to_std().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use rcgen::PublicKeyData as _;

    use super::*;

    fn stored() -> Stored {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 1, 4);
        Stored {
            agent_id: "a".into(),
            certificate: params.self_signed(&key).expect("a certificate").pem(),
            key: key.serialize_pem(),
            authorities: String::new(),
            join_token_hash: hash("orj_x"),
        }
    }

    #[test]
    fn it_is_kept_for_this_user_alone() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("identity.json");
        assert!(Stored::read(&path).is_ok_and(|read| read.is_none()));
        stored().write(&path).expect("written");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        let read = Stored::read(&path).ok().flatten().expect("there");
        assert!(read.came_by("orj_x\n") && !read.came_by("orj_y") && !read.came_by(""));
        fs::write(&path, "{").expect("written");
        let message = Stored::read(&path).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(message.contains("identity.json"), "{message}");
    }

    #[test]
    fn its_times_are_those_of_the_certificate() {
        let times = stored().times().expect("times");
        assert_eq!(times.life(), Duration::from_secs(3 * 86_400));
        assert!(times.is_over());
        assert_eq!(times.until_renewal(), Duration::ZERO);
        let now = Utc::now();
        let half = chrono::Duration::hours(12);
        let until = Times { begins_at: now - half, expires_at: now + half }.until_renewal();
        assert!(until > Duration::from_secs(4 * 3600 - 60) && until <= Duration::from_secs(4 * 3600), "{until:?}");
    }

    #[test]
    fn a_request_is_signed_with_its_own_key_which_is_not_in_it() {
        let request = Request::new().expect("a request");
        let read = rcgen::CertificateSigningRequestParams::from_pem(&request.pem).expect("a request");
        let key = KeyPair::from_pem(&request.key).expect("a key");
        assert_eq!(read.public_key.der_bytes(), key.der_bytes());
        assert!(!request.pem.contains("PRIVATE"));
    }
}
