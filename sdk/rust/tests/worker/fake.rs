//! A coordinator that does what the test says, over a real socket.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use orrery_sdk::v1::agent_service_server::{AgentService, AgentServiceServer};
use orrery_sdk::v1::coordinator_message::Kind as Out;
use orrery_sdk::v1::{
    AgentCertificate, AgentMessage, CoordinatorMessage, Finished, HeartbeatAck, HeldLease, Lease, LeaseBatch, LogAck,
    LogBatch, Register, Registered, RenewRequest, ResultAck, agent_message::Kind as In,
};
use orrery_sdk::{Json, worker::Worker, worker::WorkerBuilder};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status, Streaming};

/// Nothing in these tests takes this long unless it is broken.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited in vain for {what}"),
    }
}

type Answers<T> = Pin<Box<dyn futures_util::Stream<Item = Result<T, Status>> + Send>>;

#[derive(Clone)]
struct Service {
    sessions: mpsc::Sender<Session>,
    logs: mpsc::Sender<Logs>,
    refusal: Option<Status>,
}

/// One stream of an agent.
pub(crate) struct Session {
    pub(crate) authorization: Option<String>,
    incoming: Streaming<AgentMessage>,
    /// What has come in the same frame.
    unread: VecDeque<In>,
    outgoing: mpsc::Sender<Result<CoordinatorMessage, Status>>,
    /// Whether heartbeats are acknowledged as they come.
    pub(crate) acknowledges: bool,
    /// What the latest heartbeat held.
    pub(crate) held: Vec<HeldLease>,
    pub(crate) heartbeats: usize,
    /// How many frames have come.
    pub(crate) frames: usize,
}

/// One stream of output.
pub(crate) struct Logs {
    incoming: Streaming<LogBatch>,
    outgoing: mpsc::Sender<Result<LogAck, Status>>,
}

#[tonic::async_trait]
impl AgentService for Service {
    type SessionStream = Answers<CoordinatorMessage>;
    type LogsStream = Answers<LogAck>;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        if let Some(status) = &self.refusal {
            let _ = self.sessions.send(opened(request).0).await;
            return Err(status.clone());
        }
        let (session, answers) = opened(request);
        self.sessions.send(session).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn renew(&self, _: Request<RenewRequest>) -> Result<Response<AgentCertificate>, Status> {
        Err(Status::unimplemented("nobody here has a certificate"))
    }

    async fn logs(&self, request: Request<Streaming<LogBatch>>) -> Result<Response<Self::LogsStream>, Status> {
        let (outgoing, answers) = mpsc::channel(16);
        let logs = Logs { incoming: request.into_inner(), outgoing };
        self.logs.send(logs).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }
}

fn opened(request: Request<Streaming<AgentMessage>>) -> (Session, mpsc::Receiver<Result<CoordinatorMessage, Status>>) {
    let authorization = request.metadata().get("authorization").and_then(|v| v.to_str().ok()).map(str::to_owned);
    let (outgoing, answers) = mpsc::channel(256);
    let incoming = request.into_inner();
    let (held, unread) = (Vec::new(), VecDeque::new());
    (Session { authorization, incoming, unread, outgoing, acknowledges: true, held, heartbeats: 0, frames: 0 }, answers)
}

/// A coordinator under a script.
pub(crate) struct Coordinator {
    pub(crate) address: SocketAddr,
    sessions: mpsc::Receiver<Session>,
    logs: mpsc::Receiver<Logs>,
    _server: AbortOnDropHandle<()>,
}

impl Coordinator {
    pub(crate) async fn start() -> Self {
        Self::refusing(None).await
    }

    pub(crate) async fn refusing(refusal: Option<Status>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (sessions, opened) = mpsc::channel(16);
        let (logs, flows) = mpsc::channel(16);
        let service = AgentServiceServer::new(Service { sessions, logs, refusal });
        let server = tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            let _ = tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await;
        });
        Self { address, sessions: opened, logs: flows, _server: AbortOnDropHandle::new(server) }
    }

    pub(crate) fn uri(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The next stream that an agent opens.
    pub(crate) async fn session(&mut self) -> Session {
        soon("a session", self.sessions.recv()).await.expect("a server")
    }

    /// The next stream of output.
    pub(crate) async fn logs(&mut self) -> Logs {
        soon("a stream of logs", self.logs.recv()).await.expect("a server")
    }

    /// The next session, registered as a new one with its first credits.
    pub(crate) async fn welcome(&mut self, id: &str, ttl_ms: u32) -> (Session, Register) {
        let mut session = self.session().await;
        let register = session.register().await;
        session.registered(id, ttl_ms, false).await;
        (session, register)
    }
}

impl Session {
    pub(crate) async fn register(&mut self) -> Register {
        match self.next().await {
            In::Register(register) => register,
            other => panic!("expected a registration, got {other:?}"),
        }
    }

    pub(crate) async fn registered(&self, id: &str, ttl_ms: u32, resumed: bool) {
        self.send(Out::Registered(Registered {
            session_id: id.into(),
            ttl_ms,
            heartbeat_ms: ttl_ms / 3,
            resumed,
            coordinator_id: "c".into(),
            revoked: Vec::new(),
        }))
        .await;
    }

    pub(crate) async fn send(&self, kind: Out) {
        let _ = self.outgoing.send(Ok(CoordinatorMessage { kind: Some(kind) })).await;
    }

    /// The next message, heartbeats included.
    async fn raw(&mut self) -> Option<In> {
        loop {
            if let Some(kind) = self.unread.pop_front() {
                return Some(kind);
            }
            self.frames += 1;
            match self.incoming.message().await {
                Ok(Some(AgentMessage { kind: Some(In::Batch(batch)) })) => {
                    assert!(batch.messages.len() > 1, "one message needs no batch");
                    self.unread.extend(batch.messages.into_iter().filter_map(|message| message.kind));
                }
                Ok(Some(AgentMessage { kind: Some(kind) })) => return Some(kind),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return None,
            }
        }
    }

    /// The next message that is no heartbeat; `None` at the end of the stream.
    pub(crate) async fn maybe(&mut self) -> Option<In> {
        let next = async {
            loop {
                match self.raw().await {
                    Some(In::Heartbeat(heartbeat)) => self.beat(heartbeat.sequence, heartbeat.held).await,
                    other => return other,
                }
            }
        };
        soon("a message of the agent", next).await
    }

    async fn beat(&mut self, sequence: u64, held: Vec<HeldLease>) {
        self.held = held;
        self.heartbeats += 1;
        if self.acknowledges {
            self.send(Out::HeartbeatAck(HeartbeatAck { sequence, revoked: Vec::new() })).await;
        }
    }

    /// Waits for the next heartbeat, which must come before any other message.
    pub(crate) async fn heartbeat(&mut self) {
        match soon("a heartbeat", self.raw()).await {
            Some(In::Heartbeat(heartbeat)) => self.beat(heartbeat.sequence, heartbeat.held).await,
            other => panic!("expected a heartbeat, got {other:?}"),
        }
    }

    pub(crate) async fn next(&mut self) -> In {
        self.maybe().await.expect("the stream goes on")
    }

    pub(crate) async fn credit(&mut self) -> u32 {
        match self.next().await {
            In::Credit(credit) => credit.slots,
            other => panic!("expected a credit, got {other:?}"),
        }
    }

    /// The next beginning, be it told with the end.
    pub(crate) async fn started(&mut self) -> String {
        match self.next().await {
            In::Started(started) => started.execution_id,
            In::Finished(finished) if finished.started => {
                let id = finished.execution_id.clone();
                self.unread.push_front(In::Finished(finished));
                id
            }
            other => panic!("expected a start, got {other:?}"),
        }
    }

    /// The next result, past credits and progress, without a word of its beginning.
    pub(crate) async fn finished(&mut self) -> Finished {
        loop {
            match self.next().await {
                In::Finished(finished) => return Finished { started: false, ..finished },
                In::Credit(_) | In::Progress(_) => {}
                other => panic!("expected a result, got {other:?}"),
            }
        }
    }

    pub(crate) async fn lease(&self, lease: Lease) {
        self.send(Out::Leases(LeaseBatch { leases: vec![lease], works: vec![] })).await;
    }

    pub(crate) async fn acknowledge(&self, finished: &Finished) {
        self.acknowledge_as(finished, true, "").await;
    }

    pub(crate) async fn acknowledge_as(&self, finished: &Finished, accepted: bool, reason: &str) {
        let execution_id = finished.execution_id.clone();
        let reason = reason.into();
        self.send(Out::ResultAck(ResultAck { execution_id, epoch: finished.epoch, accepted, reason })).await;
    }

    /// Breaks the stream, as a coordinator does that dies.
    pub(crate) async fn cut(self) {
        let _ = self.outgoing.send(Err(Status::unavailable("cut"))).await;
    }
}

impl Logs {
    pub(crate) async fn batch(&mut self) -> LogBatch {
        soon("output", self.incoming.message()).await.expect("a stream").expect("a batch")
    }

    pub(crate) async fn acknowledge(&self, sequence: u64) {
        let _ = self.outgoing.send(Ok(LogAck { sequence })).await;
    }

    /// Ends the stream with a refusal.
    pub(crate) async fn refuse(self, status: Status) {
        let _ = self.outgoing.send(Err(status)).await;
    }
}

pub(crate) fn lease(execution_id: &str, epoch: i64, executor: &str) -> Lease {
    Lease {
        execution_id: execution_id.into(),
        epoch,
        job_id: "job".into(),
        job_name: "nightly".into(),
        tenant_id: "tenant".into(),
        executor: executor.into(),
        config: Some(Json::new("{}")),
        attempt: 1,
        timeout_ms: 60_000,
        idempotency_key: "key".into(),
        ..Lease::default()
    }
}

/// A worker that runs beside the test.
pub(crate) struct Running {
    pub(crate) shutdown: CancellationToken,
    handle: AbortOnDropHandle<()>,
}

impl Running {
    pub(crate) fn start(builder: WorkerBuilder) -> Self {
        let worker: Worker = builder.build().expect("a worker");
        let shutdown = CancellationToken::new();
        let token = shutdown.clone();
        let handle = tokio::spawn(async move { worker.run(token).await.expect("it ran") });
        Self { shutdown, handle: AbortOnDropHandle::new(handle) }
    }

    pub(crate) async fn ended(self) {
        soon("the worker's end", self.handle).await.expect("no panic");
    }
}

impl Session {
    /// The next message of any kind; a heartbeat is acknowledged and noted.
    pub(crate) async fn next_or_heartbeat(&mut self) -> In {
        let kind = soon("a message", self.raw()).await.expect("the stream goes on");
        if let In::Heartbeat(heartbeat) = &kind {
            self.beat(heartbeat.sequence, heartbeat.held.clone()).await;
        }
        kind
    }

    /// What comes after credits; `None` at the end of the stream.
    pub(crate) async fn maybe_through_credits(&mut self) -> Option<In> {
        loop {
            match self.maybe().await {
                Some(In::Credit(_)) => {}
                other => return other,
            }
        }
    }
}
