//! The authority at work: from an agent's request to its certificate.

use chrono::{DateTime, Duration, Utc};
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::names::{instant, name, serial, serial_number};
use super::{AgentIdentity, CaError};

/// The largest request that is looked at, in bytes.
const LARGEST_REQUEST: usize = 8 * 1024;
/// How far a certificate's beginning lies before its issue at most, for clocks that are behind.
const SLACK_SECONDS: i64 = 300;

/// Signs the certificates of agents.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Of the issuing certificate and whatever else its file has, such as the one that is to follow.
    bundle: String,
}

/// A certificate that has been signed.
#[derive(Debug)]
pub struct Issued {
    pub pem: String,
    /// In hexadecimal.
    pub serial: String,
    pub expires_at: DateTime<Utc>,
}

impl Authority {
    /// Reads an authority. Of several certificates the first one signs.
    ///
    /// # Errors
    /// Where the files hold no authority, or not its key.
    pub fn read(certificates: &[u8], key: &[u8], now: DateTime<Utc>) -> Result<Self, CaError> {
        let bundle = String::from_utf8(certificates.to_vec()).map_err(|_| CaError::NoCertificate)?;
        let first = CertificateDer::from_pem_slice(certificates).map_err(|_| CaError::NoCertificate)?;
        let key = std::str::from_utf8(key).ok().and_then(|text| KeyPair::from_pem(text).ok()).ok_or(CaError::NoKey)?;
        let (_, read) = x509_parser::parse_x509_certificate(&first).map_err(|_| CaError::NoCertificate)?;
        let signs = read.key_usage().ok().flatten().is_none_or(|usage| usage.value.key_cert_sign());
        if !read.is_ca() || !signs {
            return Err(CaError::NoAuthority);
        }
        if read.public_key().raw != key.subject_public_key_info() {
            return Err(CaError::Mismatch);
        }
        if read.validity().not_after.timestamp() <= now.timestamp() {
            return Err(CaError::Expired);
        }
        let issuer = Issuer::from_ca_cert_der(&first, key).map_err(CaError::Failed)?;
        Ok(Self { issuer, bundle })
    }

    /// The certificates that agents may trust coordinators by, in PEM.
    pub fn bundle(&self) -> &str {
        &self.bundle
    }

    /// Certifies the key of a request for an agent. Nothing else is taken from the request: what it says of names and uses does not count.
    ///
    /// # Errors
    /// [`CaError::BadRequest`].
    pub fn certify(
        &self,
        request: &str,
        identity: AgentIdentity,
        life: Duration,
        now: DateTime<Utc>,
    ) -> Result<Issued, CaError> {
        if request.len() > LARGEST_REQUEST {
            return Err(CaError::BadRequest);
        }
        let request = CertificateSigningRequestParams::from_pem(request).map_err(|_| CaError::BadRequest)?;
        let allowed = [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519];
        if !allowed.contains(&request.public_key.algorithm()) {
            return Err(CaError::BadRequest);
        }
        let (begins_at, expires_at) = validity(life, now);
        let serial = serial();
        let mut params = CertificateParams::default();
        params.not_before = instant(begins_at);
        params.not_after = instant(expires_at);
        params.serial_number = Some(serial_number(&serial));
        params.distinguished_name = name(&identity.agent_id.to_string());
        let uri = identity.to_string().try_into().map_err(CaError::Failed)?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&request.public_key, &self.issuer).map_err(CaError::Failed)?;
        let serial = serial.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Issued { pem: certificate.pem(), serial, expires_at })
    }
}

/// From when to when a certificate is good that is issued now. It begins a little earlier, for clocks that are behind, and ends as much earlier, so
/// that it is never good for longer than `life`.
fn validity(life: Duration, now: DateTime<Utc>) -> (DateTime<Utc>, DateTime<Utc>) {
    let slack = Duration::seconds((life.num_seconds() / 10).min(SLACK_SECONDS));
    let begins_at = now - slack;
    let expires_at = begins_at + life;
    // Whole seconds, as the certificate has them.
    (begins_at, DateTime::from_timestamp(expires_at.timestamp(), 0).unwrap_or(expires_at))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::ca::{new_authority, server_certificate};

    const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

    fn authority() -> Authority {
        let now = Utc::now();
        let pair = new_authority("test", 10, now).unwrap();
        Authority::read(pair.certificate.as_bytes(), pair.key.as_bytes(), now).unwrap()
    }

    fn request(params: CertificateParams, key: &KeyPair) -> String {
        params.serialize_request(key).unwrap().pem().unwrap()
    }

    #[test]
    fn a_certificate_says_who_an_agent_is_whatever_it_asked_for() {
        let key = KeyPair::generate().unwrap();
        let mut asked = CertificateParams::new(vec!["coordinator.example".to_owned()]).unwrap();
        asked.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        asked.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let identity = AgentIdentity { tenant_id: Some(Uuid::from_u128(1)), agent_id: Uuid::from_u128(2) };
        let now = Utc::now();
        let issued = authority().certify(&request(asked, &key), identity, Duration::hours(24), now).unwrap();
        let der = CertificateDer::from_pem_slice(issued.pem.as_bytes()).unwrap();
        assert_eq!(AgentIdentity::of_certificate(&der), Some(identity));
        let (_, read) = x509_parser::parse_x509_certificate(&der).unwrap();
        let uses = read.extended_key_usage().unwrap().unwrap().value;
        assert!(!read.is_ca() && uses.client_auth && !uses.server_auth);
        assert_eq!(read.public_key().raw, key.subject_public_key_info());
        let life = read.validity().not_after.timestamp() - read.validity().not_before.timestamp();
        assert_eq!(life, 86_400);
        assert_eq!(read.validity().not_after.timestamp(), issued.expires_at.timestamp());
        assert_eq!(read.raw_serial_as_string().replace(':', ""), issued.serial);
    }

    #[test]
    fn what_is_no_request_of_its_own_key_is_refused() {
        let (authority, key) = (authority(), KeyPair::generate().unwrap());
        let identity = AgentIdentity { tenant_id: None, agent_id: Uuid::from_u128(2) };
        let good = request(CertificateParams::default(), &key);
        let certify = |text: &str| authority.certify(text, identity, Duration::hours(1), Utc::now()).map(|_| ());
        certify(&good).unwrap();
        // One bit of its signature, which ends it.
        let mut der = pem_body(&good);
        *der.last_mut().unwrap() ^= 1;
        let forged = pem_of(&der);
        for bad in ["", "x", &forged, &good.repeat(30)] {
            assert!(certify(bad).is_err(), "{bad}");
        }
    }

    fn pem_body(text: &str) -> Vec<u8> {
        use base64::Engine as _;
        let body: String = text.lines().filter(|line| !line.starts_with('-')).map(str::trim).collect();
        base64::engine::general_purpose::STANDARD.decode(body).unwrap()
    }

    fn pem_of(der: &[u8]) -> String {
        use base64::Engine as _;
        let body = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n")
    }

    #[test]
    fn only_an_authority_with_its_own_key_is_one() {
        let now = Utc::now();
        let (one, other) = (new_authority("one", 10, now).unwrap(), new_authority("other", 10, now).unwrap());
        let read = |certificate: &str, key: &str, now| {
            Authority::read(certificate.as_bytes(), key.as_bytes(), now).err().map(|error| error.to_string())
        };
        assert_eq!(read(&one.certificate, &one.key, now), None);
        assert_eq!(read(&one.certificate, &other.key, now), Some(CaError::Mismatch.to_string()));
        assert_eq!(read(&one.certificate, "", now), Some(CaError::NoKey.to_string()));
        assert_eq!(read("", &one.key, now), Some(CaError::NoCertificate.to_string()));
        let later = now + Duration::days(11);
        assert_eq!(read(&one.certificate, &one.key, later), Some(CaError::Expired.to_string()));
        let leaf = server_certificate(&one, &["a.example".into()], 5, now).unwrap();
        assert_eq!(read(&leaf.certificate, &leaf.key, now), Some(CaError::NoAuthority.to_string()));
    }

    #[test]
    fn a_certificate_is_never_good_for_longer_than_its_life() {
        for seconds in [10, 60, 3600, 86_400] {
            let (begins_at, expires_at) = validity(Duration::seconds(seconds), NOW);
            assert_eq!((expires_at - begins_at).num_seconds(), seconds);
            assert!(begins_at < NOW && expires_at > NOW);
        }
    }
}
