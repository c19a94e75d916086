//! TLS 1.3 for what a coordinator serves, by rustls. Certificates are files, and are taken up while it runs when they change.

mod connection;
mod incoming;
mod material;
mod reload;
mod settings;

use std::path::PathBuf;

pub use connection::{Connection, Peer};
pub use incoming::Incoming;
pub use material::Face;
pub use reload::Tls;
pub use settings::{AgentAuth, TlsSettings};

use crate::ca::CaError;

/// Why TLS cannot be served with these settings.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{given} is set and {missing} is not; {fix}")]
    Half { given: &'static str, missing: &'static str, fix: &'static str },
    #[error("{name}: {path} cannot be read: {source}")]
    Unreadable { name: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{name}: {path} holds no {what} in PEM form")]
    NotPem { name: &'static str, path: PathBuf, what: &'static str },
    #[error("ORRERY_TLS_CERT and ORRERY_TLS_KEY: {0}")]
    Certificate(#[source] rustls::Error),
    #[error("ORRERY_TLS_CERT: the certificate has expired; give one that is valid")]
    Expired,
    #[error("ORRERY_CA_CERT and ORRERY_CA_KEY: {0}")]
    Authority(#[from] CaError),
    #[error("ORRERY_CA_CERT: {0}")]
    Verifier(String),
}
