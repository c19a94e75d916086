use std::fs;
use std::path::PathBuf;

use chrono::Utc;
use orrery_sdk::client::{Client, ClientOptions};
use orrery_sdk::v1::{CreateJoinTokenRequest, EnrollRequest};
use orrery_sdk::{ClientIdentity, ClientTls};
use rcgen::{CertificateParams, KeyPair};

use super::bed::Bed;
use super::error::{Result, Tried, failed, path};
use crate::ca::{CaError, new_authority, server_certificate};

/// How long its certificates are good: longer than anything that is measured.
const DAYS: u32 = 2;

/// An authority of a deployment that is measured with TLS, and its files.
pub(super) struct Authority {
    directory: PathBuf,
    pub(super) tls: ClientTls,
}

impl Authority {
    /// Makes it, with a certificate for coordinators on this host.
    ///
    /// # Errors
    /// Where that cannot be done.
    pub(super) fn new(bed: &Bed) -> Result<Self> {
        let directory = bed.fresh_path("authority");
        fs::create_dir(&directory).tried(path("making", &directory))?;
        let now = Utc::now();
        let authority = new_authority("Orrery bench", DAYS, now).map_err(of_ca)?;
        let coordinator = server_certificate(&authority, &["127.0.0.1".to_owned()], DAYS, now).map_err(of_ca)?;
        let tls = ClientTls::default().authorities(&authority.certificate);
        let made = Self { directory, tls };
        for (name, pair) in [("ca", authority), ("coordinator", coordinator)] {
            made.write(&format!("{name}.pem"), &pair.certificate)?;
            made.write(&format!("{name}.key"), &pair.key)?;
        }
        Ok(made)
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let file = self.directory.join(name);
        fs::write(&file, text).tried(path("writing", &file))?;
        Ok(file)
    }

    /// What a coordinator is told of it: agents have certificates, or are refused.
    pub(super) fn settings(&self) -> Vec<(&'static str, PathBuf)> {
        let names = [
            ("ORRERY_TLS_CERT", "coordinator.pem"),
            ("ORRERY_TLS_KEY", "coordinator.key"),
            ("ORRERY_CA_CERT", "ca.pem"),
            ("ORRERY_CA_KEY", "ca.key"),
        ];
        let mut settings: Vec<_> = names.into_iter().map(|(name, file)| (name, self.directory.join(file))).collect();
        settings.push(("ORRERY_AGENT_AUTH", "mtls".into()));
        settings
    }

    /// Enrols an agent that serves all tenants, as a host does; answers with what a worker is told of it.
    ///
    /// # Errors
    /// Where it is refused.
    pub(super) async fn enrol(&self, grpc: &str, agents_key: &str, name: &str) -> Result<Vec<(&'static str, PathBuf)>> {
        let with_key = self.client(grpc, Some(agents_key))?;
        let asked = CreateJoinTokenRequest { shared: true, ..CreateJoinTokenRequest::default() };
        let join_token = with_key.create_join_token(asked).await?.token;
        let key = KeyPair::generate().map_err(|error| failed(format!("no key: {error}")))?;
        let request = CertificateParams::new(Vec::new()).and_then(|params| params.serialize_request(&key)?.pem());
        let certificate_request = request.map_err(|error| failed(format!("no request: {error}")))?;
        let asked = EnrollRequest { join_token, certificate_request };
        let answer = self.client(grpc, None)?.enroll(asked).await?;
        Ok(vec![
            ("--ca", self.directory.join("ca.pem")),
            ("--certificate", self.write(&format!("{name}.pem"), &answer.certificate)?),
            ("--key", self.write(&format!("{name}.key"), &key.serialize_pem())?),
        ])
    }

    fn client(&self, grpc: &str, key: Option<&str>) -> Result<Client> {
        let options = ClientOptions {
            endpoint: grpc.to_owned(),
            api_key: key.map(ToOwned::to_owned),
            tls: self.tls.clone(),
            ..ClientOptions::default()
        };
        Ok(Client::connect(&options)?)
    }
}

/// The certificate that a worker shows, from files.
///
/// # Errors
/// Where one cannot be read.
pub(super) fn shown(authority: &PathBuf, certificate: &PathBuf, key: &PathBuf) -> Result<ClientTls> {
    let read = |file: &PathBuf| fs::read_to_string(file).tried(path("reading", file));
    let identity = ClientIdentity::default();
    identity.replace(&read(certificate)?, &read(key)?, "");
    Ok(ClientTls::default().authorities(&read(authority)?).identity(identity))
}

fn of_ca(error: CaError) -> super::error::BenchError {
    failed(format!("no certificate can be made: {error}"))
}
