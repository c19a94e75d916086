//! Makes an authority, and certificates for coordinators by it: what `orrery ca` writes.

use chrono::{DateTime, Duration, Utc};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use super::CaError;
use super::names::{instant, name, serial, serial_number};

/// A certificate and its key, both in PEM. The key is a secret: there is no `Debug`.
pub struct Pair {
    pub certificate: String,
    /// PKCS #8.
    pub key: String,
}

/// A new authority for `days`, with a key on P-256.
///
/// # Errors
/// Where the system has no randomness.
pub fn new_authority(called: &str, days: u32, now: DateTime<Utc>) -> Result<Pair, CaError> {
    let key = KeyPair::generate().map_err(CaError::Failed)?;
    let mut params = between(now, days);
    params.distinguished_name = name(called);
    // It signs certificates of agents and coordinators, and no further authorities.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key).map_err(CaError::Failed)?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

/// A certificate for a coordinator that is reached under these names and addresses.
///
/// # Errors
/// Where the authority cannot be read, or a name is none.
pub fn server_certificate(authority: &Pair, hosts: &[String], days: u32, now: DateTime<Utc>) -> Result<Pair, CaError> {
    let issuer = KeyPair::from_pem(&authority.key).map_err(|_| CaError::NoKey)?;
    let issuer = Issuer::from_ca_cert_pem(&authority.certificate, issuer).map_err(|_| CaError::NoCertificate)?;
    let key = KeyPair::generate().map_err(CaError::Failed)?;
    let mut params = between(now, days);
    for host in hosts {
        let named = CertificateParams::new(vec![host.clone()]).map_err(|_| CaError::NoHost(host.clone()))?;
        params.subject_alt_names.extend(named.subject_alt_names);
    }
    params.distinguished_name = name(hosts.first().map_or("coordinator", String::as_str));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, &issuer).map_err(CaError::Failed)?;
    Ok(Pair { certificate: certificate.pem(), key: key.serialize_pem() })
}

fn between(now: DateTime<Utc>, days: u32) -> CertificateParams {
    let mut params = CertificateParams::default();
    // For clocks that are behind.
    params.not_before = instant(now - Duration::minutes(5));
    params.not_after = instant(now + Duration::days(i64::from(days)));
    params.serial_number = Some(serial_number(&serial()));
    params
}
