//! From files to what rustls serves with.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use sha2::{Digest, Sha256};

use super::{TlsError, TlsSettings};
use crate::ca::Authority;

/// What a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Face {
    /// HTTP/2, with the certificates of agents where they show one.
    Grpc,
    /// HTTP/1.1. It asks for no certificates, so that browsers offer their users none.
    Rest,
}

/// What the files held when they were read. Keys are among it: there is no `Debug`.
pub(super) struct Files {
    certificate: (PathBuf, Vec<u8>),
    key: (PathBuf, Vec<u8>),
    ca_certificate: Option<(PathBuf, Vec<u8>)>,
    ca_key: Option<(PathBuf, Vec<u8>)>,
}

/// What connections are served with.
pub(super) struct Material {
    pub(super) grpc: Arc<ServerConfig>,
    pub(super) rest: Arc<ServerConfig>,
    pub(super) authority: Option<Arc<Authority>>,
    /// The end of the certificate that is served.
    pub(super) expires_at: DateTime<Utc>,
}

impl Files {
    /// Reads all files of the settings; `None` where TLS is not asked for.
    pub(super) fn read(settings: &TlsSettings) -> Result<Option<Self>, TlsError> {
        let (Some(certificate), Some(key)) = (&settings.tls_cert, &settings.tls_key) else { return Ok(None) };
        Ok(Some(Self {
            certificate: read("ORRERY_TLS_CERT", certificate)?,
            key: read("ORRERY_TLS_KEY", key)?,
            ca_certificate: settings.ca_cert.as_deref().map(|path| read("ORRERY_CA_CERT", path)).transpose()?,
            ca_key: settings.ca_key.as_deref().map(|path| read("ORRERY_CA_KEY", path)).transpose()?,
        }))
    }

    /// Tells one state of the files from another.
    pub(super) fn fingerprint(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        let all = [Some(&self.certificate), Some(&self.key), self.ca_certificate.as_ref(), self.ca_key.as_ref()];
        for (_, bytes) in all.into_iter().flatten() {
            digest.update(bytes.len().to_be_bytes());
            digest.update(bytes);
        }
        digest.finalize().into()
    }

    pub(super) fn material(&self, now: DateTime<Utc>) -> Result<Material, TlsError> {
        let chain = certificates("ORRERY_TLS_CERT", &self.certificate)?;
        let expires_at = chain.first().and_then(|first| end_of(first)).unwrap_or(now);
        if expires_at <= now {
            return Err(TlsError::Expired);
        }
        let roots = self.ca_certificate.as_ref().map(|file| certificates("ORRERY_CA_CERT", file)).transpose()?;
        let authority = match (&self.ca_certificate, &self.ca_key) {
            (Some((_, certificate)), Some((_, key))) => Some(Arc::new(Authority::read(certificate, key, now)?)),
            _ => None,
        };
        Ok(Material {
            grpc: Arc::new(self.config(&chain, roots, Face::Grpc)?),
            rest: Arc::new(self.config(&chain, None, Face::Rest)?),
            authority,
            expires_at,
        })
    }

    /// A certificate of an agent is verified where one is shown, and wanted of nobody: people call by API key on the same port.
    fn config(
        &self,
        chain: &[CertificateDer<'static>],
        roots: Option<Vec<CertificateDer<'static>>>,
        face: Face,
    ) -> Result<ServerConfig, TlsError> {
        let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
        let (path, bytes) = &self.key;
        let key = PrivateKeyDer::from_pem_slice(bytes).map_err(|_| TlsError::NotPem {
            name: "ORRERY_TLS_KEY",
            path: path.clone(),
            what: "private key",
        })?;
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(TlsError::Certificate)?;
        let builder = match roots {
            None => builder.with_no_client_auth(),
            Some(certificates) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates {
                    roots.add(certificate).map_err(|error| TlsError::Verifier(error.to_string()))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .allow_unauthenticated()
                    .build()
                    .map_err(|error| TlsError::Verifier(error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_single_cert(chain.to_vec(), key).map_err(TlsError::Certificate)?;
        config.alpn_protocols = match face {
            Face::Grpc => vec![b"h2".to_vec()],
            Face::Rest => vec![b"http/1.1".to_vec()],
        };
        if face == Face::Grpc {
            // Who resumes a session shows no certificate again: one that has expired meanwhile would go on counting.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(config)
    }
}

fn read(name: &'static str, path: &Path) -> Result<(PathBuf, Vec<u8>), TlsError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok((path.to_owned(), bytes)),
        Err(source) => Err(TlsError::Unreadable { name, path: path.to_owned(), source }),
    }
}

fn certificates(
    name: &'static str,
    (path, bytes): &(PathBuf, Vec<u8>),
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let none = || TlsError::NotPem { name, path: path.clone(), what: "certificate" };
    let all: Vec<_> = CertificateDer::pem_slice_iter(bytes).collect::<Result<_, _>>().map_err(|_| none())?;
    if all.is_empty() { Err(none()) } else { Ok(all) }
}

fn end_of(certificate: &CertificateDer<'_>) -> Option<DateTime<Utc>> {
    let (_, read) = x509_parser::parse_x509_certificate(certificate).ok()?;
    DateTime::from_timestamp(read.validity().not_after.timestamp(), 0)
}
