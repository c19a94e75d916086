//! A deployment with TLS and an authority of its own.

use std::path::PathBuf;
use std::sync::Arc;

use orrery_sdk::v1::{
    AgentCertificate, CreateJoinTokenRequest, EnrollRequest, ListAgentsRequest, ListWorkersRequest, Worker,
};
use orrery_sdk::{Client, ClientIdentity, ClientOptions, ClientTls};
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::process::Process;
use crate::token::token;
use crate::wait::{SOON, until};
use crate::world::{Server, World};

/// Files of an authority, and of a coordinator's certificate by it.
pub(crate) struct Authority {
    pub(crate) directory: PathBuf,
}

/// An agent's certificate that a test has got, with its key.
pub(crate) struct Enrolled {
    pub(crate) answer: AgentCertificate,
    pub(crate) key: String,
}

impl Authority {
    /// `orrery ca init` and `orrery ca issue`.
    pub(crate) async fn new(world: &World, name: &str) -> Self {
        let directory = world.path(name);
        std::fs::create_dir(&directory).unwrap();
        let authority = Self { directory };
        authority.orrery(world, &["ca", "init"]).await;
        authority.issue(world).await;
        authority
    }

    /// A new certificate for coordinators, in place of the one before.
    pub(crate) async fn issue(&self, world: &World) {
        self.orrery(world, &["ca", "issue", "--host", "127.0.0.1", "--host", "localhost"]).await;
    }

    async fn orrery(&self, world: &World, args: &[&str]) {
        let directory = self.directory.to_str().unwrap();
        let mut process = world.orrery("ca", &[args, &["--dir", directory]].concat(), &[]);
        let status = process.ended(SOON).await;
        assert!(status.success(), "{}", process.stderr());
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.directory.join(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn certificates(&self) -> String {
        std::fs::read_to_string(self.directory.join("ca.pem")).unwrap()
    }

    /// A coordinator with TLS by this authority, which lets agents in.
    pub(crate) async fn server(&self, world: &World, environment: &[(&str, &str)]) -> Server {
        let files = ["coordinator.pem", "coordinator.key", "ca.pem", "ca.key"].map(|name| self.path(name));
        let names = ["ORRERY_TLS_CERT", "ORRERY_TLS_KEY", "ORRERY_CA_CERT", "ORRERY_CA_KEY"];
        let own: Vec<(&str, &str)> = names.into_iter().zip(files.iter().map(String::as_str)).collect();
        let process = world.start_server(&[&own[..], environment].concat());
        let mut server = Server::ready(process, Some(token())).await;
        server.grpc = server.grpc.replace("http://", "https://");
        server.http = server.http.replace("http://", "https://");
        server
    }

    /// Whom this authority's callers trust.
    pub(crate) fn tls(&self) -> ClientTls {
        ClientTls::default().authorities(&self.certificates())
    }

    /// A caller of REST that trusts this authority alone, as curl --cacert does.
    pub(crate) fn http(&self) -> reqwest::Client {
        // Refused where it is done already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let root = reqwest::Certificate::from_pem(self.certificates().as_bytes()).unwrap();
        reqwest::Client::builder().no_proxy().tls_certs_only([root]).build().unwrap()
    }

    pub(crate) fn client(&self, server: &Server) -> Client {
        self.client_with(server, self.tls(), Some(token()))
    }

    pub(crate) fn client_with(&self, server: &Server, tls: ClientTls, api_key: Option<String>) -> Client {
        let options = ClientOptions { endpoint: server.grpc.clone(), api_key, tls, ..ClientOptions::default() };
        Client::connect(&options).unwrap()
    }

    /// `orrery` with these arguments, calling this server as its administrator.
    pub(crate) async fn call(&self, world: &World, server: &Server, args: &[&str]) -> String {
        let (key, ca) = (token(), self.path("ca.pem"));
        let environment = [("ORRERY_SERVER", server.grpc.as_str()), ("ORRERY_API_KEY", &key), ("ORRERY_CA", &ca)];
        let mut process = world.orrery("call", args, &environment);
        let status = process.ended(SOON).await;
        assert!(status.success(), "{args:?}: {}", process.stderr());
        process.stdout().trim().to_owned()
    }

    /// `orrery agent` with these further variables, not yet connected.
    pub(crate) fn start_agent(&self, world: &World, name: &str, server: &Server, more: &[(&str, &str)]) -> Process {
        let (data, ca) = (world.path(&format!("agent-{name}")).display().to_string(), self.path("ca.pem"));
        let own = [
            ("ORRERY_COORDINATOR", server.grpc.as_str()),
            ("ORRERY_CA", &ca),
            ("ORRERY_AGENT_NAME", name),
            ("ORRERY_AGENT_DATA_DIR", &data),
        ];
        world.orrery(&format!("agent-{name}"), &["agent"], &[&own[..], more].concat())
    }

    /// Enrols without an agent, as one would.
    pub(crate) async fn enrol(&self, server: &Server) -> Enrolled {
        let client = self.client(server);
        let token = client.create_join_token(CreateJoinTokenRequest::default()).await.unwrap().token;
        let stranger = self.client_with(server, self.tls(), None);
        let (key, certificate_request) = request();
        let answer = stranger.enroll(EnrollRequest { join_token: token, certificate_request }).await.unwrap();
        Enrolled { answer, key }
    }
}

impl Enrolled {
    /// How to show this certificate.
    pub(crate) fn tls(&self, authority: &Authority) -> ClientTls {
        let identity = ClientIdentity::default();
        identity.replace(&self.answer.certificate, &self.key, "");
        authority.tls().identity(identity)
    }
}

/// A key and the request for its certificate.
pub(crate) fn request() -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::new(Vec::new()).unwrap().serialize_request(&key).unwrap();
    (key.serialize_pem(), request.pem().unwrap())
}

/// The connected worker of this name, once there is one.
pub(crate) async fn worker(client: &Client, name: &str) -> Worker {
    until(&format!("agent {name} is connected"), SOON, async || {
        let workers = client.list_workers(ListWorkersRequest::default()).await.unwrap().workers;
        workers.into_iter().find(|worker| worker.name == name && worker.state().as_json_str() == "connected")
    })
    .await
}

/// All that have enrolled.
pub(crate) async fn enrolled(client: &Client) -> Vec<orrery_sdk::v1::Agent> {
    client.list_agents(ListAgentsRequest::default()).await.unwrap().agents
}

/// A TLS connection to a listener, by these versions of the protocol alone.
pub(crate) async fn handshake(
    authority: &Authority,
    url: &str,
    versions: &[&'static SupportedProtocolVersion],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority.certificates().as_bytes()) {
        roots.add(certificate.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    let config = config.with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(url.trim_start_matches("https://")).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}
