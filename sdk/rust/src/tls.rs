//! Whom a client trusts, and what it shows of itself.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use tonic::Code;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Error as TransportError, Identity};

use crate::error::Error;

/// How `https` coordinators are known, and how the client shows who it is. By default whom this host trusts is trusted, and nothing is shown.
#[derive(Clone, Default)]
pub struct ClientTls {
    /// PEM. Only these authorities are trusted, where there are any.
    authorities: Option<Arc<str>>,
    identity: Option<ClientIdentity>,
}

/// A certificate that can be replaced while it is in use. All clones are the same one.
#[derive(Clone, Default)]
pub struct ClientIdentity(Arc<RwLock<Option<Shown>>>);

/// A certificate with its key. The key is a secret: there is no `Debug`.
#[derive(Clone)]
struct Shown {
    identity: Identity,
    /// PEM: authorities that came with it.
    authorities: Arc<str>,
}

impl ClientIdentity {
    /// Shows this certificate from now on, on new connections. All in PEM; `authorities` are trusted beside those of
    /// [`ClientTls::authorities`], where there are such.
    pub fn replace(&self, certificate: &str, key: &str, authorities: &str) {
        let shown = Shown { identity: Identity::from_pem(certificate, key), authorities: authorities.into() };
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(shown);
    }

    fn shown(&self) -> Option<Shown> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ClientTls {
    /// Trusts the authorities of this PEM text alone.
    #[must_use]
    pub fn authorities(mut self, pem: &str) -> Self {
        self.authorities = Some(pem.into());
        self
    }

    /// Trusts the authorities of a PEM file alone.
    ///
    /// # Errors
    /// INVALID_CA where it cannot be read, or has no certificate.
    pub fn authorities_of(self, file: &Path) -> Result<Self, Error> {
        let invalid = |why: String| {
            let message = format!("the CA file {}: {why}", file.display());
            Error::local("INVALID_CA", Code::InvalidArgument, message)
        };
        let text = std::fs::read_to_string(file).map_err(|e| invalid(e.to_string()))?;
        if !text.contains("-----BEGIN CERTIFICATE-----") {
            return Err(invalid("it has no certificate in PEM form".into()));
        }
        Ok(self.authorities(&text))
    }

    /// Shows the certificate of `identity`, once it has one.
    #[must_use]
    pub fn identity(mut self, identity: ClientIdentity) -> Self {
        self.identity = Some(identity);
        self
    }

    /// An `https` endpoint.
    pub(crate) fn secured(&self, endpoint: Endpoint) -> Result<Endpoint, TransportError> {
        let shown = self.identity.as_ref().and_then(ClientIdentity::shown);
        let mut config = match &self.authorities {
            Some(pem) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem.as_bytes())),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        if let Some(shown) = shown {
            if self.authorities.is_some() {
                config = config.ca_certificate(Certificate::from_pem(shown.authorities.as_bytes()));
            }
            config = config.identity(shown.identity);
        }
        endpoint.tls_config(config)
    }

    /// The endpoint as it is to be connected to now.
    pub(crate) fn with_newest(&self, endpoint: &Endpoint) -> Result<Endpoint, TransportError> {
        let is_secured = endpoint.uri().scheme_str() == Some("https");
        if self.identity.is_some() && is_secured { self.secured(endpoint.clone()) } else { Ok(endpoint.clone()) }
    }
}

impl fmt::Debug for ClientTls {
    /// Without what is shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { authorities, identity } = self;
        f.debug_struct("ClientTls")
            .field("authorities", &authorities.is_some())
            .field("identity", &identity.is_some())
            .finish()
    }
}

impl fmt::Debug for ClientIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientIdentity(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_file_that_is_none_is_refused_by_name() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "nothing").expect("written");
        let code = |path: &Path| ClientTls::default().authorities_of(path).err().map(|e| e.to_string());
        for path in [file.path(), Path::new("/nowhere/ca.pem")] {
            let message = code(path).unwrap_or_default();
            assert!(message.contains("INVALID_CA") && message.contains(&*path.to_string_lossy()), "{message}");
        }
    }

    #[test]
    fn a_key_is_in_no_debug_output() {
        let identity = ClientIdentity::default();
        identity.replace("CERTIFICATE", "SECRET", "CA");
        let tls = ClientTls::default().identity(identity.clone());
        assert!(!format!("{tls:?}{identity:?}").contains("SECRET"));
    }
}
