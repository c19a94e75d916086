//! A typed client for every call that people and services make.

mod calls;
mod wait;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{Stream, StreamExt};
use orrery_proto::v1::agent_service_client::AgentServiceClient;
use orrery_proto::v1::audit_service_client::AuditServiceClient;
use orrery_proto::v1::auth_service_client::AuthServiceClient;
use orrery_proto::v1::dead_letter_service_client::DeadLetterServiceClient;
use orrery_proto::v1::enrolment_service_client::EnrolmentServiceClient;
use orrery_proto::v1::execution_service_client::ExecutionServiceClient;
use orrery_proto::v1::job_service_client::JobServiceClient;
use orrery_proto::v1::key_service_client::KeyServiceClient;
use orrery_proto::v1::role_service_client::RoleServiceClient;
use orrery_proto::v1::scheduler_service_client::SchedulerServiceClient;
use orrery_proto::v1::secret_service_client::SecretServiceClient;
use orrery_proto::v1::tenant_service_client::TenantServiceClient;
use orrery_proto::v1::user_service_client::UserServiceClient;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};

use crate::endpoint::{Authorized, Credential, endpoint};
use crate::error::Error;
use crate::tls::ClientTls;

pub use wait::is_finished;

/// How to reach a coordinator.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Such as `http://127.0.0.1:50051`, or `https://`.
    pub endpoint: String,
    /// Sent with every call as `authorization: Bearer KEY`.
    pub api_key: Option<String>,
    /// How long a call may take, connecting included. Streams may last longer; it bounds their beginning.
    pub timeout: Duration,
    /// Whom to trust where the endpoint is `https`; by default whom this host trusts.
    pub tls: ClientTls,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            endpoint: "http://127.0.0.1:50051".into(),
            api_key: None,
            timeout: Duration::from_secs(30),
            tls: ClientTls::default(),
        }
    }
}

/// A client. Cheap to clone; all clones share one connection, which is made at the first call and made again when it is lost.
#[derive(Clone, Debug)]
pub struct Client {
    /// Behind a pointer, so that a client, and every future that holds one, stays small however many services there are.
    services: Arc<Services>,
    timeout: Duration,
}

/// A generated client of each service.
#[derive(Debug)]
struct Services {
    jobs: JobServiceClient<Authorized>,
    executions: ExecutionServiceClient<Authorized>,
    dead_letters: DeadLetterServiceClient<Authorized>,
    enrolments: EnrolmentServiceClient<Authorized>,
    agents: AgentServiceClient<Authorized>,
    scheduler: SchedulerServiceClient<Authorized>,
    auth: AuthServiceClient<Authorized>,
    keys: KeyServiceClient<Authorized>,
    users: UserServiceClient<Authorized>,
    tenants: TenantServiceClient<Authorized>,
    roles: RoleServiceClient<Authorized>,
    secrets: SecretServiceClient<Authorized>,
    audit: AuditServiceClient<Authorized>,
}

/// The messages of a streaming call.
#[derive(Debug)]
pub struct Messages<T>(Streaming<T>);

impl<T> Messages<T> {
    /// The next message; `None` once the stream has ended.
    ///
    /// # Errors
    /// What the stream ended with, if it did not end well. UNAVAILABLE means that the connection was lost.
    pub async fn message(&mut self) -> Result<Option<T>, Error> {
        Ok(self.0.message().await?)
    }

    /// The same as a [`Stream`].
    pub fn into_stream(self) -> impl Stream<Item = Result<T, Error>> + Send
    where
        T: Send + 'static,
    {
        self.0.map(|message| message.map_err(Error::from))
    }
}

impl Client {
    /// A client for one coordinator. It connects at the first call. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// INVALID_ENDPOINT or INVALID_CREDENTIAL where the options cannot be used.
    pub fn connect(options: &ClientOptions) -> Result<Self, Error> {
        let connect_timeout = options.timeout.min(Duration::from_secs(10));
        let channel = endpoint(&options.endpoint, connect_timeout, &options.tls)?.connect_lazy();
        Self::over(channel, options.api_key.as_deref(), options.timeout)
    }

    /// A client over a channel of the caller's own.
    ///
    /// # Errors
    /// INVALID_CREDENTIAL where the key cannot be sent.
    pub fn over(channel: Channel, api_key: Option<&str>, timeout: Duration) -> Result<Self, Error> {
        let credential = Credential::new(api_key)?;
        let authorized = Authorized::new(channel, credential);
        let services = Services {
            jobs: JobServiceClient::new(authorized.clone()).max_decoding_message_size(MAX_ANSWER),
            executions: ExecutionServiceClient::new(authorized.clone()).max_decoding_message_size(MAX_ANSWER),
            dead_letters: DeadLetterServiceClient::new(authorized.clone()).max_decoding_message_size(MAX_ANSWER),
            secrets: SecretServiceClient::new(authorized.clone()).max_decoding_message_size(MAX_ANSWER),
            scheduler: SchedulerServiceClient::new(authorized.clone()).max_decoding_message_size(MAX_ANSWER),
            enrolments: EnrolmentServiceClient::new(authorized.clone()).max_decoding_message_size(MAX_ANSWER),
            agents: AgentServiceClient::new(authorized.clone()).max_decoding_message_size(MAX_ANSWER),
            audit: AuditServiceClient::new(authorized.clone()).max_decoding_message_size(MAX_ANSWER),
            auth: AuthServiceClient::new(authorized.clone()),
            keys: KeyServiceClient::new(authorized.clone()),
            users: UserServiceClient::new(authorized.clone()),
            tenants: TenantServiceClient::new(authorized.clone()).max_decoding_message_size(MAX_ANSWER),
            roles: RoleServiceClient::new(authorized),
        };
        Ok(Self { services: Arc::new(services), timeout })
    }

    /// The generated client of jobs, for what this one does not offer.
    pub fn raw_jobs(&self) -> JobServiceClient<Authorized> {
        self.services.jobs.clone()
    }

    /// The generated client of executions.
    pub fn raw_executions(&self) -> ExecutionServiceClient<Authorized> {
        self.services.executions.clone()
    }

    /// The generated client of dead letters.
    pub fn raw_dead_letters(&self) -> DeadLetterServiceClient<Authorized> {
        self.services.dead_letters.clone()
    }

    /// The generated client of the scheduler's state.
    pub fn raw_scheduler(&self) -> SchedulerServiceClient<Authorized> {
        self.services.scheduler.clone()
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        request
    }

    /// Bounds a call here too: the deadline in its header is the server's, and a server that hangs does not keep it.
    async fn bounded<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Error> {
        let began = Instant::now();
        match tokio::time::timeout(self.timeout, call).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            // tonic holds the deadline of the header too, and says CANCELLED where it is the first to notice.
            Ok(Err(status)) if status.code() == Code::Cancelled && began.elapsed() >= self.timeout => {
                Err(self.too_late())
            }
            Ok(Err(status)) => Err(status.into()),
            Err(_) => Err(self.too_late()),
        }
    }

    fn too_late(&self) -> Error {
        let message = format!("no answer within {} ms", self.timeout.as_millis());
        Error::local("DEADLINE_EXCEEDED", Code::DeadlineExceeded, message)
    }
}

/// A page of 1000 executions with their results may well pass tonic's 4 MiB.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
