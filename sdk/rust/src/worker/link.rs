//! The stream to a coordinator: finding one, registering, and moving messages. No decision of the session is made here.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::FutureExt;
use orrery_proto::v1::agent_service_client::AgentServiceClient;
use orrery_proto::v1::{
    AgentMessage, Batch, CoordinatorMessage, Register, Registered, agent_message, coordinator_message,
};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};

use crate::endpoint::{Authorized, Credential};
use crate::error::{Error, describe};
use crate::tls::ClientTls;

/// How long connecting and registering may take together: an address that swallows everything must not use up the life of a session that
/// the next one could resume.
const ESTABLISH: Duration = Duration::from_secs(5);
/// The shortest life of a session that leaves anything to trust.
const SHORTEST_TTL_MS: u32 = 300;
/// Bytes of messages from which on they go in another frame. One that is larger alone goes alone.
const FRAME: usize = 256 * 1024;
/// Frames on their way to the connection; what waits behind them is joined.
const FRAMES: usize = 4;
/// The most messages that are taken at once: heartbeats are not to wait for a flood of others.
const MESSAGES: usize = 64;
/// Large batches of leases with large configs.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;

/// Where coordinators are.
#[derive(Clone, Debug)]
pub(super) enum Coordinators {
    /// Any of these; each attempt takes the next one, with the certificate that the worker has then.
    Endpoints(Vec<Endpoint>, ClientTls),
    /// Behind this channel, which connects by itself.
    Channel(Channel),
}

impl Coordinators {
    pub(super) fn count(&self) -> usize {
        match self {
            Self::Endpoints(endpoints, _) => endpoints.len().max(1),
            Self::Channel(_) => 1,
        }
    }

    /// The name of the `turn`th, for people.
    pub(super) fn name(&self, turn: usize) -> String {
        match self {
            Self::Endpoints(endpoints, _) => {
                endpoints.get(turn % self.count()).map(|e| e.uri().to_string()).unwrap_or_default()
            }
            Self::Channel(_) => "the given channel".into(),
        }
    }

    async fn channel(&self, turn: usize) -> Result<Channel, Refusal> {
        match self {
            Self::Endpoints(endpoints, tls) => match endpoints.get(turn % self.count()) {
                Some(endpoint) => {
                    let failed = |e| Refusal::from(Status::from_error(Box::new(e)));
                    let endpoint = tls.with_newest(endpoint).map_err(failed)?;
                    endpoint.connect().await.map_err(failed)
                }
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
    /// Why it has ended, where that was found behind messages.
    ended: Option<Refusal>,
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
    let (sender, receiver) = mpsc::channel(FRAMES);
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
    Ok(Established { stream: Stream { sender, incoming, ended: None }, registered, sent_at, client })
}

impl Stream {
    /// Sends what is in the outbox until messages come: answers with all that are there. Cancel safe: nothing is lost where it is dropped
    /// at a wait.
    pub(super) async fn exchange(
        &mut self,
        outbox: &mut VecDeque<AgentMessage>,
    ) -> Result<Vec<coordinator_message::Kind>, Refusal> {
        loop {
            if let Some(refusal) = self.ended.take() {
                return Err(refusal);
            }
            let Self { sender, incoming, .. } = self;
            let message = tokio::select! {
                biased;
                permit = sender.reserve(), if !outbox.is_empty() => {
                    // The request side is closed: the reason comes on the other.
                    let Ok(permit) = permit else { return Err(ending(incoming).await) };
                    if let Some(message) = frame(outbox) {
                        permit.send(message);
                    }
                    continue;
                }
                message = incoming.message() => message,
            };
            let mut kinds = Vec::new();
            self.ended = taken(message, &mut kinds).err();
            self.take_ready(&mut kinds);
            if !kinds.is_empty() {
                return Ok(kinds);
            }
        }
    }

    /// Takes what has come already, up to a turn's worth.
    fn take_ready(&mut self, kinds: &mut Vec<coordinator_message::Kind>) {
        while self.ended.is_none() && kinds.len() < MESSAGES {
            let Some(message) = self.incoming.message().now_or_never() else { return };
            self.ended = taken(message, kinds).err();
        }
    }

    /// Sends what is left, ends this side, and waits for the other to end. Whether all of it went.
    pub(super) async fn finish(mut self, mut outbox: VecDeque<AgentMessage>, patience: Duration) -> bool {
        let ending = async {
            while let Some(message) = frame(&mut outbox) {
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

/// The next frame: as much of the outbox as fits, in its order.
fn frame(outbox: &mut VecDeque<AgentMessage>) -> Option<AgentMessage> {
    let first = outbox.pop_front()?;
    if outbox.is_empty() || goes_alone(&first) {
        return Some(first);
    }
    let mut size = first.encoded_len();
    let mut fits = |message: &AgentMessage| {
        size += message.encoded_len();
        size <= FRAME && !goes_alone(message)
    };
    let more = outbox.iter().take_while(|message| fits(message)).count();
    if more == 0 {
        return Some(first);
    }
    let messages = std::iter::once(first).chain(outbox.drain(..more)).collect();
    Some(AgentMessage { kind: Some(agent_message::Kind::Batch(Batch { messages })) })
}

fn goes_alone(message: &AgentMessage) -> bool {
    use agent_message::Kind;
    matches!(message.kind, Some(Kind::Register(_) | Kind::Goodbye(_) | Kind::Batch(_)))
}

/// Adds a message, unless it is the end of the stream.
fn taken(
    message: Result<Option<CoordinatorMessage>, Status>,
    kinds: &mut Vec<coordinator_message::Kind>,
) -> Result<(), Refusal> {
    match message? {
        // No kind: one that this version does not know.
        Some(CoordinatorMessage { kind }) => {
            kinds.extend(kind);
            Ok(())
        }
        None => Err(Status::unavailable("the coordinator ended the stream").into()),
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

#[cfg(test)]
mod tests {
    use orrery_proto::Json;
    use orrery_proto::v1::agent_message::Kind;
    use orrery_proto::v1::{Credit, Finished, Goodbye, Started};

    use super::*;

    fn message(kind: Kind) -> AgentMessage {
        AgentMessage { kind: Some(kind) }
    }

    fn credit(slots: u32) -> AgentMessage {
        message(Kind::Credit(Credit { slots }))
    }

    fn result(bytes: usize) -> AgentMessage {
        let result = Some(Json::new("1".repeat(bytes)));
        message(Kind::Finished(Finished { result, ..Finished::default() }))
    }

    /// The frames of an outbox, each with its messages.
    fn frames(messages: Vec<AgentMessage>) -> Vec<Vec<AgentMessage>> {
        let mut outbox = VecDeque::from(messages);
        let one = |message: AgentMessage| match message.kind {
            Some(Kind::Batch(batch)) => batch.messages,
            _ => vec![message],
        };
        std::iter::from_fn(|| frame(&mut outbox)).map(one).collect()
    }

    #[test]
    fn what_is_there_goes_out_together_and_in_order() {
        let all = vec![credit(1), message(Kind::Started(Started::default())), credit(2)];
        assert_eq!(frames(all.clone()), [all]);
        let mut one = VecDeque::from([credit(3)]);
        assert_eq!(frame(&mut one), Some(credit(3)), "one message needs no batch");
        assert_eq!(frame(&mut one), None);
    }

    #[test]
    fn a_frame_is_bounded() {
        let all: Vec<AgentMessage> = (0..100).map(|_| result(10_000)).collect();
        let sent = frames(all.clone());
        assert!(sent.len() == 4 && sent.iter().all(|f| f.iter().map(|m| m.encoded_len()).sum::<usize>() <= FRAME));
        assert_eq!(sent.concat(), all);
        let large = vec![credit(1), result(3 << 20), credit(2), credit(3)];
        assert_eq!(frames(large.clone()), [&large[..1], &large[1..2], &large[2..]]);
    }

    #[test]
    fn the_farewell_goes_alone() {
        let all = vec![credit(1), credit(2), message(Kind::Goodbye(Goodbye {})), credit(3)];
        assert_eq!(frames(all.clone()), [&all[..2], &all[2..3], &all[3..]]);
        let all = vec![message(Kind::Register(Register::default())), credit(1), credit(2)];
        assert_eq!(frames(all.clone()), [&all[..1], &all[1..]]);
    }
}
