use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use orrery_proto::v1::agent_message::Kind as Said;
use orrery_proto::v1::agent_service_server::AgentService;
use orrery_proto::v1::coordinator_message::Kind;
use orrery_proto::v1::{
    AgentCertificate, AgentMessage, CoordinatorMessage, LogAck, LogBatch, Register, Registered, RenewRequest,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

use super::enrolled::{Admitted, Stream as Tracked, Streams, certificate_needed, revoked, within};
use super::renewals::Heart;
use super::session::FRAMES;
use super::words::heard;
use super::{Attached, Dispatch, Intake, Leases, knows, leases, message};
use crate::api::agents;
use crate::auth::{self, PrincipalKind};
use crate::ca::AgentIdentity;
use crate::config::Limits;
use crate::error::{Error, Kind as ErrorKind};
use crate::execution::Execution;
use crate::reconcile::Signals;
use crate::store::{Certified, DynStore, Holding, NewSession, Session, Wake};
use crate::tls::{Peer, Tls};

/// The protocol that this version speaks.
const PROTOCOL: u32 = 1;

/// How long an agent may take to introduce itself.
const INTRODUCTION: Duration = Duration::from_secs(10);

/// The service that agents connect to.
#[derive(Clone)]
pub struct AgentApi {
    pub(crate) store: DynStore,
    pub(crate) dispatch: Arc<Dispatch>,
    pub(crate) intake: Intake,
    pub(crate) heart: Heart,
    pub(crate) signals: Arc<Signals>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) coordinator_id: Uuid,
    pub(crate) tls: Tls,
    /// Those of agents with certificates.
    pub(crate) streams: Arc<Streams>,
    /// Ends all streams.
    pub(crate) shutdown: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

/// A session for a new stream.
struct Opened {
    session: Session,
    resumed: bool,
    held: Leases,
}

type Frames<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AgentService for AgentApi {
    type SessionStream = Frames<CoordinatorMessage>;
    type LogsStream = Frames<LogAck>;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let admitted = self.agent().await?;
        let address = request.extensions().get::<Peer>().map(|peer| peer.address);
        let address = address.or_else(|| request.remote_addr()).map(|address| address.to_string()).unwrap_or_default();
        let mut words = request.into_inner();
        let mut register = introduction(&mut words).await?;
        if let Some(enrolled) = &admitted.enrolled {
            register = within(&enrolled.scope, register)?;
        }
        let agent = described(&register, &admitted, self.coordinator_id, address)?;
        let tracked = admitted.enrolled.as_ref().map(|enrolled| self.streams.begin(enrolled.id));
        let Opened { session, resumed, held } = {
            // Never closed. An agent that gives up waiting takes its place in the queue along.
            let _turn = self.dispatch.admission.acquire().await;
            self.open(&register, &agent).await?
        };
        let revoked = register.held.iter().filter(|lease| !knows(&held, lease)).cloned().collect();

        let (frames, outgoing) = mpsc::channel(FRAMES);
        let cut = self.shutdown.child_token();
        let ttl = self.limits.session_ttl();
        let registered = Registered {
            session_id: session.id.to_string(),
            ttl_ms: u32::try_from(ttl.as_millis()).unwrap_or(u32::MAX),
            heartbeat_ms: u32::try_from((ttl / 3).as_millis()).unwrap_or(u32::MAX),
            resumed,
            coordinator_id: self.coordinator_id.to_string(),
            revoked,
        };
        // First in the queue, before the dispatcher can know of the session.
        let _ = frames.try_send(message(Kind::Registered(registered)));
        self.dispatch.attach(Attached::new(&session, Arc::new(agent), held, frames, cut.clone()));
        // It may serve lanes that nobody has looked for yet.
        self.signals.work.notify_one();
        tracing::info!(session = %session.id, agent = %register.name, resumed, slots = register.slots, "an agent has connected");
        let reader = self.clone();
        let (id, attachment) = (session.id, session.attachment);
        self.tasks.spawn(async move { reader.listen(id, attachment, words, cut, tracked).await });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing).map(Ok))))
    }

    async fn logs(&self, request: Request<Streaming<LogBatch>>) -> Result<Response<Self::LogsStream>, Status> {
        let Admitted { principal, enrolled } = self.agent().await?;
        let tracked = enrolled.as_ref().map(|enrolled| self.streams.begin(enrolled.id));
        Ok(Response::new(self.take_logs(request.into_inner(), principal.tenant_id, tracked)))
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<AgentCertificate>, Status> {
        let principal = auth::caller()?;
        if principal.kind != PrincipalKind::Agent {
            return Err(certificate_needed().into());
        }
        let enrolled = self.enrolled(&principal).await?;
        let authority = agents::authority(self.tls.authority())?;
        let now = self.store.now().await.map_err(Error::from)?;
        let identity = AgentIdentity { tenant_id: enrolled.scope.tenant_id, agent_id: enrolled.id };
        let request = request.into_inner().certificate_request;
        let issued = agents::certified(&authority, &request, identity, self.tls.agent_life(), now)?;
        let certificate = Certified { serial: issued.serial.clone(), expires_at: issued.expires_at };
        // It may have been revoked meanwhile: then nothing is handed out.
        self.store.renew_agent(enrolled.id, &certificate).await.map_err(Error::from)?.ok_or_else(revoked)?;
        tracing::info!(agent = %enrolled.id, expires_at = %issued.expires_at, "an agent has renewed its certificate");
        Ok(Response::new(agents::answer(enrolled.id, issued, &authority, now)))
    }
}

impl AgentApi {
    /// Resumes the session that the agent names, or opens one. Leases that a resumed agent does not name go back.
    async fn open(&self, register: &Register, agent: &NewSession) -> Result<Opened, Error> {
        let ttl = self.limits.session_ttl();
        let named: Vec<(Uuid, i64)> = leases(&register.held).into_iter().collect();
        if let Ok(id) = register.session_id.parse::<Uuid>()
            && let Some(resumed) = self
                .store
                .resume_session(id, agent, &Holding { leases: &named, continued: register.continued }, ttl)
                .await?
        {
            self.announce(&resumed.taken_back).await;
            let held = resumed.held.iter().map(|lease| (lease.execution_id, lease.epoch)).collect();
            return Ok(Opened { session: resumed.session, resumed: true, held });
        }
        let session = self.store.open_session(agent, ttl).await?;
        Ok(Opened { session, resumed: false, held: Leases::new() })
    }

    /// Tells those concerned of executions that have changed.
    async fn announce(&self, changed: &[Execution]) {
        for execution in changed {
            self.dispatch.observe(execution);
        }
        self.store.changed(&changed.iter().map(|execution| execution.id).collect::<Vec<_>>());
        if !changed.is_empty() {
            let _ = self.store.wake(Wake::Work).await;
        }
    }

    /// Reads what an agent says until its stream ends or is cut.
    async fn listen(
        self,
        id: Uuid,
        attachment: i64,
        mut words: Streaming<AgentMessage>,
        cut: CancellationToken,
        tracked: Option<Tracked>,
    ) {
        // That of an agent without a certificate is never cancelled.
        let refused = tracked.as_ref().map(|stream| stream.refused.clone()).unwrap_or_default();
        // Half of a broken connection may stay silent for ever: heartbeats must come.
        let silence = self.limits.session_ttl();
        loop {
            let word = tokio::select! {
                () = cut.cancelled() => break,
                () = refused.cancelled() => break,
                word = tokio::time::timeout(silence, words.message()) => word,
            };
            let kind = match word {
                Ok(Ok(Some(AgentMessage { kind: Some(kind) }))) => kind,
                Ok(Ok(Some(_))) => continue,
                Ok(Ok(None)) => break,
                Ok(Err(status)) => {
                    tracing::info!(session = %id, code = ?status.code(), "an agent's stream broke");
                    break;
                }
                Err(_) => {
                    tracing::warn!(session = %id, "an agent has been silent for its session's life; its stream is cut");
                    break;
                }
            };
            if !self.take_all(id, attachment, kind).await {
                break;
            }
        }
        self.dispatch.detach(id, attachment);
        cut.cancel();
        if let Err(error) = self.store.detach_session(id, attachment).await {
            tracing::debug!(session = %id, %error, "a session could not be marked as detached; it will expire");
        }
        tracing::info!(session = %id, "an agent's stream has ended");
    }

    /// A message, or those of a batch in their order. `false` ends the stream.
    async fn take_all(&self, id: Uuid, attachment: i64, said: Said) -> bool {
        let messages = match said {
            Said::Batch(batch) => batch.messages.into_iter().filter_map(|message| message.kind).collect(),
            one => vec![one],
        };
        // Words go on together. Anything else is taken once what was said before it has gone on.
        let mut words = Vec::with_capacity(messages.len());
        for said in messages {
            let Some(other) = heard(id, said, &mut words) else { continue };
            self.intake.say_all(std::mem::take(&mut words)).await;
            if !self.take(id, attachment, other).await {
                return false;
            }
        }
        self.intake.say_all(words).await;
        true
    }

    /// One message that is not about an execution. `false` ends the stream.
    async fn take(&self, id: Uuid, attachment: i64, said: Said) -> bool {
        match said {
            Said::Register(_) => {
                tracing::warn!(session = %id, "an agent introduced itself twice; the second time is ignored")
            }
            Said::Heartbeat(beat) => self.hear(id, attachment, beat).await,
            Said::Credit(credit) => {
                self.dispatch.on(id, attachment, |attached| attached.credit(credit.slots as usize));
                self.signals.room.notify_one();
            }
            Said::Drain(_) => {
                self.dispatch.on(id, attachment, |attached| attached.draining = true);
                if let Err(error) = self.store.drain_session(None, id).await {
                    tracing::warn!(session = %id, %error, "a session could not be marked as draining");
                }
            }
            Said::Started(_) | Said::Progress(_) | Said::Finished(_) | Said::Release(_) | Said::Batch(_) => {
                tracing::warn!(session = %id, "a batch within a batch is ignored");
            }
            Said::Goodbye(_) => {
                self.dispatch.detach(id, attachment);
                // What it said before must be written before its session ends, or it would be refused.
                self.intake.written().await;
                if let Err(error) = self.store.close_session(id, attachment).await {
                    tracing::warn!(session = %id, %error, "a session could not be closed; it will expire");
                }
                self.signals.work.notify_one();
                return false;
            }
        }
        true
    }
}

async fn introduction(words: &mut Streaming<AgentMessage>) -> Result<Register, Status> {
    let first = tokio::time::timeout(INTRODUCTION, words.message())
        .await
        .map_err(|_| Status::deadline_exceeded("the agent did not introduce itself within 10 s"))??;
    match first {
        Some(AgentMessage { kind: Some(Said::Register(register)) }) => Ok(register),
        _ => {
            Err(Error::new(ErrorKind::Invalid, "REGISTER_EXPECTED", "the first message of a session must be register")
                .into())
        }
    }
}

/// Checks what an agent says of itself.
fn described(
    register: &Register,
    admitted: &Admitted,
    coordinator_id: Uuid,
    address: String,
) -> Result<NewSession, Error> {
    if register.protocol_version != PROTOCOL {
        let message = format!(
            "protocolVersion: {} is not spoken here, {PROTOCOL} is; use an agent of a version that fits the coordinator's",
            register.protocol_version
        );
        return Err(Error::new(ErrorKind::Invalid, "UNSUPPORTED_PROTOCOL_VERSION", message));
    }
    if register.name.is_empty() || register.name.chars().count() > 200 {
        return Err(Error::field("INVALID_NAME", "name", "an agent needs a name of 1 to 200 characters"));
    }
    if register.slots == 0 || register.slots > 100_000 {
        return Err(Error::field("INVALID_SLOTS", "slots", "must be 1 to 100000"));
    }
    if register.executors.is_empty() {
        return Err(Error::field("INVALID_EXECUTORS", "executors", "an agent must offer at least one executor"));
    }
    let queues = if register.queues.is_empty() { vec!["default".to_owned()] } else { register.queues.clone() };
    Ok(NewSession {
        tenant_id: admitted.principal.tenant_id,
        agent_id: admitted.enrolled.as_ref().map(|enrolled| enrolled.id),
        name: register.name.clone(),
        version: register.version.clone(),
        labels: register.labels.clone().into_iter().collect(),
        queues,
        executors: register.executors.clone(),
        slots: i32::try_from(register.slots).unwrap_or(i32::MAX),
        coordinator_id,
        address,
    })
}
