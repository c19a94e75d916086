//! The deployment's own certificate authority: it lets agents in. Its certificate and key are files that an operator gives or
//! `orrery ca init` makes.

mod authority;
mod create;
mod identity;
mod join_token;
mod names;

pub use authority::{Authority, Issued};
pub use create::{Pair, new_authority, server_certificate};
pub use identity::AgentIdentity;
pub use join_token::{JoinSecret, PREFIX as JOIN_TOKEN_PREFIX};

/// Why an authority cannot be used, or something cannot be certified by it.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    #[error("the certificate is none in PEM form")]
    NoCertificate,
    #[error("the key is none in PKCS #8 PEM form, ECDSA, Ed25519 or RSA")]
    NoKey,
    #[error("the key does not belong to the first certificate")]
    Mismatch,
    #[error("the certificate is none of an authority (basicConstraints CA:TRUE with keyCertSign)")]
    NoAuthority,
    #[error("the certificate has expired")]
    Expired,
    #[error("{0:?} is no name of a host and no address")]
    NoHost(String),
    #[error(
        "it is no certificate request in PEM form that is signed with its own key: ECDSA on P-256 or P-384, or Ed25519"
    )]
    BadRequest,
    #[error("a certificate could not be made")]
    Failed(#[source] rcgen::Error),
}
