//! The stream to a coordinator: finding one, registering, and moving messages. No decision of the session is made here.

use std::collections::VecDeque;
use std::time::Duration;

use orrery_proto::v1::agent_service_client::AgentServiceClient;
use orrery_proto::v1::{AgentMessage, CoordinatorMessage, Register, Registered, agent_message, coordinator_message};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

use crate::endpoint::{Authorized, Credential};
use crate::error::{Error, describe};

/// How long connecting and registering may take together: an address that swallows everything must not use up the life of a session that
/// the next one could resume.
const ESTABLISH: Duration = Duration::from_secs(5);
/// The shortest life of a session that leaves anything to trust.
const SHORTEST_TTL_MS: u32 = 300;
/// Large batches of leases with large configs.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;

/// Where coordinators are.
#[derive(Clone, Debug)]
pub(super) enum Coordinators {
    /// Any of these; each attempt takes the next one.
    Endpoints(Vec<Endpoint>),
    /// Behind this channel, which connects by itself.
    Channel(Channel),
}

impl Coordinators {
    pub(super) fn count(&self) -> usize {
        match self {
            Self::Endpoints(endpoints) => endpoints.len().max(1),
            Self::Channel(_) => 1,
        }
    }

    /// The name of the `turn`th, for people.
    pub(super) fn name(&self, turn: usize) -> String {
        match self {
            Self::Endpoints(endpoints) => {
                endpoints.get(turn % self.count()).map(|e| e.uri().to_string()).unwrap_or_default()
            }
            Self::Channel(_) => "the given channel".into(),
        }
    }

    async fn channel(&self, turn: usize) -> Result<Channel, Refusal> {
        match self {
            Self::Endpoints(endpoints) => match endpoints.get(turn % self.count()) {
                Some(endpoint) => endpoint.connect().await.map_err(|e| Refusal::from(Status::from_error(Box::new(e)))),
                None => Err(Refusal { code: "NO_ENDPOINT".into(), message: "no endpoint".into(), lasting: true }),
            },
            Self::Channel(channel) => Ok(channel.clone()),
        }
    }
}

/// Why a stream did not come about, or ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: String,
    pub(super) message: String,
    /// Whether it will stay so until a person changes something.
    pub(super) lasting: bool,
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        let message = describe(&status);
        let refused = matches!(status.code(), Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented);
        let error = Error::from(status);
        let lasting = refused || error.code() == "UNSUPPORTED_PROTOCOL_VERSION";
        Self { code: error.code().to_owned(), message, lasting }
    }
}

/// A stream on which a coordinator has answered the registration.
pub(super) struct Established {
    pub(super) stream: Stream,
    pub(super) registered: Registered,
    /// When the registration was sent; the session's life began no earlier.
    pub(super) sent_at: Instant,
    pub(super) client: AgentServiceClient<Authorized>,
}

/// Both directions of a session's stream.
pub(super) struct Stream {
    sender: mpsc::Sender<AgentMessage>,
    incoming: Streaming<CoordinatorMessage>,
}

/// Connects to the `turn`th coordinator and registers.
pub(super) async fn establish(
    coordinators: Coordinators,
    turn: usize,
    credential: Credential,
    register: Register,
) -> Result<Established, Refusal> {
    let attempt = connect(&coordinators, turn, credential, register);
    match tokio::time::timeout(ESTABLISH, attempt).await {
        Ok(result) => result,
        Err(_) => Err(Status::deadline_exceeded("no answer to the registration in time").into()),
    }
}

async fn connect(
    coordinators: &Coordinators,
    turn: usize,
    credential: Credential,
    register: Register,
) -> Result<Established, Refusal> {
    let channel = coordinators.channel(turn).await?;
    let mut client = AgentServiceClient::new(Authorized::new(channel, credential))
        .max_decoding_message_size(MAX_MESSAGE)
        .max_encoding_message_size(MAX_MESSAGE);
    let (sender, receiver) = mpsc::channel(64);
    let sent_at = Instant::now();
    let first = AgentMessage { kind: Some(agent_message::Kind::Register(register)) };
    sender.send(first).await.map_err(|_| Status::unavailable("the stream ended at once"))?;
    let mut incoming = client.session(ReceiverStream::new(receiver)).await?.into_inner();
    let answer = incoming.message().await?.ok_or_else(|| Status::unavailable("the stream ended unanswered"))?;
    let Some(coordinator_message::Kind::Registered(registered)) = answer.kind else {
        return Err(Status::internal("the coordinator's first message is no answer to the registration").into());
    };
    if registered.session_id.is_empty() || registered.ttl_ms < SHORTEST_TTL_MS {
        let message = format!("the coordinator offers a session that cannot be used (ttl {} ms)", registered.ttl_ms);
        return Err(Status::internal(message).into());
    }
    Ok(Established { stream: Stream { sender, incoming }, registered, sent_at, client })
}

impl Stream {
    /// Sends what is in the outbox until a message comes. Cancel safe: nothing is lost where it is dropped at a wait.
    pub(super) async fn exchange(
        &mut self,
        outbox: &mut VecDeque<AgentMessage>,
    ) -> Result<coordinator_message::Kind, Refusal> {
        let Self { sender, incoming } = self;
        loop {
            tokio::select! {
                biased;
                permit = sender.reserve(), if !outbox.is_empty() => match permit {
                    Ok(permit) => if let Some(message) = outbox.pop_front() {
                        permit.send(message);
                    },
                    // The request side is closed: the reason comes on the other.
                    Err(_) => return Err(ending(incoming).await),
                },
                message = incoming.message() => match message? {
                    Some(CoordinatorMessage { kind: Some(kind) }) => return Ok(kind),
                    // A kind that this version does not know.
                    Some(CoordinatorMessage { kind: None }) => {}
                    None => return Err(Status::unavailable("the coordinator ended the stream").into()),
                },
            }
        }
    }

    /// Sends what is left, ends this side, and waits for the other to end. Whether all of it went.
    pub(super) async fn finish(mut self, mut outbox: VecDeque<AgentMessage>, patience: Duration) -> bool {
        let ending = async {
            while let Some(message) = outbox.pop_front() {
                if self.sender.send(message).await.is_err() {
                    return false;
                }
            }
            drop(self.sender);
            while let Ok(Some(_)) = self.incoming.message().await {}
            true
        };
        tokio::time::timeout(patience, ending).await.unwrap_or(false)
    }
}

/// Why the stream ended, once that is told.
async fn ending(incoming: &mut Streaming<CoordinatorMessage>) -> Refusal {
    loop {
        match incoming.message().await {
            Ok(Some(_)) => {}
            Ok(None) => return Status::unavailable("the stream ended").into(),
            Err(status) => return status.into(),
        }
    }
}
