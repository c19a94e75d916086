//! A coordinator, whole: every loop and every service over one store. Tests start it in their own process.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use orrery_proto::v1::agent_service_server::AgentServiceServer;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::api::{self, Api, CoordinatorInfo, TriggerQueue};
use crate::audit::{Copier, Denials};
use crate::auth::{AuthLayer, Authenticator};
use crate::cache::Caches;
use crate::clock::DatabaseClock;
use crate::config::{Limits, Sharing};
use crate::dispatch::{AgentApi, Armer, Cancels, Dispatch, Dispatcher, Egress, HandOver, Intake, Renewals, Streams};
use crate::edge::{Edge, EdgeArgs};
use crate::gateway::{self, Face};
use crate::limiter::{Guard, Limiter};
use crate::lock::Locks;
use crate::reconcile::{self, Planner, Reaper, Releaser, Sealer, Signals, Totals, Upkeep};
use crate::redis::{Redis, share_hints};
use crate::secret::Vault;
use crate::sibling::{AddressError, Sibling};
use crate::store::{DropAudit, DynStore, Retention};
use crate::telemetry::{self, Metrics, OperationsLayer};
use crate::tenant::{Allowance, Directory};
use crate::tls::{self, Incoming, Tls};

/// How long calls under way are waited for at the end.
const FAREWELL: Duration = Duration::from_secs(10);

/// Where a coordinator listens. Bound by the caller, so that a busy port is the caller's error.
pub struct Listeners {
    pub http: TcpListener,
    pub grpc: TcpListener,
    /// None: no metrics are served.
    pub metrics: Option<TcpListener>,
}

/// One coordinator.
pub struct Coordinator {
    pub store: DynStore,
    pub limits: Limits,
    pub sharing: Sharing,
    pub edge: EdgeArgs,
    /// Where there is one. What it carries is never the truth.
    pub redis: Option<Redis>,
    pub authenticator: Authenticator,
    pub vault: Vault,
    pub metrics: Metrics,
    /// How REST and gRPC are secured.
    pub tls: Tls,
}

/// The parts that loops and services share.
struct Parts {
    store: DynStore,
    limits: Arc<Limits>,
    metrics: Metrics,
    info: Arc<CoordinatorInfo>,
    clock: Arc<DatabaseClock>,
    signals: Arc<Signals>,
    dispatch: Arc<Dispatch>,
    redis: Option<Redis>,
    locks: Locks,
    caches: Caches,
    limiter: Option<Limiter>,
    tls: Tls,
    vault: Vault,
    guard: Guard,
    edge: EdgeArgs,
    tenants: Directory,
    egress: Egress,
    /// Ends the loops, after the services.
    loops: CancellationToken,
    tasks: TaskTracker,
}

/// Why a coordinator ended early.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("the listener is of no use")]
    Listener(#[from] std::io::Error),
    #[error("gRPC could not be served")]
    Grpc(#[from] tonic::transport::Error),
    #[error(transparent)]
    AuditService(#[from] AddressError),
    #[error("the contract's descriptors cannot be read")]
    Contract(#[from] tonic_reflection::server::Error),
}

impl Coordinator {
    /// Serves until `shutdown`, then drains: agents are sent elsewhere, calls under way end, what agents said is written.
    ///
    /// # Errors
    /// Where a listener cannot be served.
    pub async fn serve(self, listeners: Listeners, shutdown: CancellationToken) -> Result<(), ServeError> {
        let (http, grpc) = (listeners.http.local_addr()?, listeners.grpc.local_addr()?);
        let parts = Parts::new(&self, http);
        let audit_service = self.sharing.audit_service()?;
        let streams = CancellationToken::new();
        let (intake, intake_loop) =
            Intake::new(parts.store.clone(), parts.dispatch.clone(), parts.metrics.clone(), parts.tenants.clone());
        let (heart, renewals) = Renewals::new(parts.store.clone(), parts.dispatch.clone(), parts.limits.session_ttl());
        let agents = AgentApi {
            store: parts.store.clone(),
            dispatch: parts.dispatch.clone(),
            intake: intake.clone(),
            heart,
            signals: parts.signals.clone(),
            limits: parts.limits.clone(),
            coordinator_id: parts.info.id,
            tls: parts.tls.clone(),
            streams: Arc::new(Streams::default()),
            shutdown: streams.clone(),
            tasks: parts.tasks.clone(),
        };
        parts.spawn_audit(&self.authenticator, audit_service);
        parts.spawn_loops(intake, renewals, grpc, shutdown.clone());
        // What agents say is written to the very end, after everybody who says something has gone.
        let writing = CancellationToken::new();
        let writer = tokio::spawn(intake_loop.run(writing.clone()));

        let served = parts.serve(self.authenticator, agents, listeners, &shutdown, &streams).await;
        parts.loops.cancel();
        parts.tasks.close();
        if tokio::time::timeout(FAREWELL, parts.tasks.wait()).await.is_err() {
            tracing::warn!("some tasks did not end in time");
        }
        writing.cancel();
        if tokio::time::timeout(FAREWELL, writer).await.is_err() {
            tracing::warn!("not all that agents said was written; they will repeat it");
        }
        served
    }
}

impl Parts {
    fn new(coordinator: &Coordinator, http: SocketAddr) -> Self {
        let signals = Arc::new(Signals::default());
        let (store, redis, metrics) = (&coordinator.store, &coordinator.redis, &coordinator.metrics);
        let id = Uuid::now_v7();
        let ttl = coordinator.sharing.lock_ttl();
        Self {
            redis: redis.clone(),
            locks: Locks::new(store.clone(), redis.clone(), id, ttl, metrics.clone()),
            caches: Caches::new(store.clone(), redis.clone(), metrics.clone()),
            limiter: Limiter::new(coordinator.sharing.rates(), redis.clone(), metrics.clone()),
            guard: Guard::new(coordinator.edge.free_attempts, redis.clone(), metrics.clone()),
            edge: coordinator.edge.clone(),
            tenants: Directory::new(store.clone(), &coordinator.limits),
            egress: Egress::new(&coordinator.edge.egress_allow),
            tls: coordinator.tls.clone(),
            vault: coordinator.vault.clone(),
            store: coordinator.store.clone(),
            limits: Arc::new(coordinator.limits.clone()),
            metrics: coordinator.metrics.clone(),
            info: Arc::new(CoordinatorInfo {
                id,
                version: env!("CARGO_PKG_VERSION").to_owned(),
                build: option_env!("ORRERY_BUILD").unwrap_or_default().to_owned(),
                started_at: Instant::now(),
                http_port: http.port(),
                draining: AtomicBool::new(false),
            }),
            clock: Arc::default(),
            dispatch: Arc::new(Dispatch::new(coordinator.metrics.clone(), &coordinator.limits)),
            signals,
            loops: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }
    }

    fn spawn_loops(&self, intake: Intake, renewals: Renewals, grpc: SocketAddr, leaving: CancellationToken) {
        let Self { store, limits, metrics, info, clock, signals, dispatch, loops, tasks, .. } = self;
        let planner = Planner {
            store: store.clone(),
            clock: clock.clone(),
            signals: signals.clone(),
            metrics: metrics.clone(),
            ahead: reconcile::plan_ahead(limits.arm_ahead()),
        };
        let releaser = Releaser {
            store: store.clone(),
            clock: clock.clone(),
            signals: signals.clone(),
            metrics: metrics.clone(),
            hourly: limits.hourly(),
        };
        let reaper = Reaper {
            store: store.clone(),
            clock: clock.clone(),
            signals: signals.clone(),
            dispatch: dispatch.clone(),
            coordinator: info.id,
            ttl: limits.session_ttl(),
        };
        let hand_over = HandOver {
            store: store.clone(),
            dispatch: dispatch.clone(),
            intake,
            clock: clock.clone(),
            vault: self.vault.clone(),
            egress: self.egress.clone(),
            tenants: self.tenants.clone(),
        };
        let armer = Armer {
            store: store.clone(),
            dispatch: dispatch.clone(),
            hand_over: hand_over.clone(),
            clock: clock.clone(),
            signals: signals.clone(),
            limits: limits.clone(),
        };
        let dispatcher = Dispatcher {
            store: store.clone(),
            dispatch: dispatch.clone(),
            hand_over,
            signals: signals.clone(),
            limits: limits.clone(),
        };
        let cancels = Cancels { store: store.clone(), dispatch: dispatch.clone(), signals: signals.clone() };
        let day = Duration::from_secs(86_400);
        let retention = Retention {
            executions: day * limits.retention_days,
            omissions: day * limits.retention_days,
            logs: day * limits.log_retention_days,
            ..Retention::default()
        };
        let upkeep = Upkeep {
            store: store.clone(),
            clock: clock.clone(),
            dispatch: dispatch.clone(),
            info: info.clone(),
            address: grpc.to_string(),
            retention,
            metrics: metrics.clone(),
            leaving,
            locks: self.locks.clone(),
        };
        tasks.spawn(reconcile::forward_hints(store.clone(), signals.clone(), loops.clone()));
        tasks.spawn(planner.run(loops.clone()));
        tasks.spawn(releaser.run(loops.clone()));
        tasks.spawn(reaper.run(loops.clone()));
        tasks.spawn(dispatcher.run(loops.clone()));
        tasks.spawn(armer.run(loops.clone()));
        tasks.spawn(cancels.run(loops.clone()));
        tasks.spawn(renewals.run(loops.clone()));
        tasks.spawn(upkeep.run(loops.clone()));
        tasks.spawn(Totals { store: store.clone() }.run(loops.clone()));
        if let Some(redis) = &self.redis {
            tasks.spawn(redis.clone().keep(loops.clone()));
            tasks.spawn(self.caches.clone().keep(loops.clone()));
            tasks.spawn(share_hints(redis.clone(), store.told(), signals.clone(), loops.clone()));
        }
    }

    /// Starts what the audit log needs: who seals it, who drops what is old, and who copies it.
    fn spawn_audit(&self, authenticator: &Authenticator, service: Option<Sibling>) {
        let signer = authenticator.keyring().signer();
        let sealer = Sealer { store: self.store.clone(), signer, metrics: self.metrics.clone() };
        let is_copied = service.is_some();
        if self.limits.audit_retention_days > 0 {
            let age = Duration::from_secs(86_400) * self.limits.audit_retention_days;
            self.tasks
                .spawn(sealer.clone().keep(DropAudit { age, only_copied: is_copied, limit: 100 }, self.loops.clone()));
        }
        self.tasks.spawn(sealer.run(self.loops.clone()));
        if let Some(service) = service {
            let (store, locks, metrics) = (self.store.clone(), self.locks.clone(), self.metrics.clone());
            let copier = Copier::new(store, locks, service, authenticator.shared_token(), metrics);
            self.tasks.spawn(copier.run(self.loops.clone()));
        }
    }

    /// Serves gRPC, REST and metrics. At the end agents are asked to go, and their streams are cut once they have, or soon after.
    async fn serve(
        &self,
        authenticator: Authenticator,
        agents: AgentApi,
        listeners: Listeners,
        shutdown: &CancellationToken,
        streams: &CancellationToken,
    ) -> Result<(), ServeError> {
        let hand_over = HandOver {
            store: self.store.clone(),
            dispatch: self.dispatch.clone(),
            intake: agents.intake.clone(),
            clock: self.clock.clone(),
            vault: self.vault.clone(),
            egress: self.egress.clone(),
            tenants: self.tenants.clone(),
        };
        let (triggers, making) = TriggerQueue::new(self.store.clone(), self.limits.clone(), Some(hand_over));
        self.tasks.spawn(making.run(self.loops.clone()));
        let api = Api {
            triggers,
            store: self.store.clone(),
            limits: self.limits.clone(),
            info: self.info.clone(),
            locks: self.locks.clone(),
            caches: self.caches.clone(),
            authenticator: authenticator.clone(),
            tls: self.tls.clone(),
            vault: self.vault.clone(),
            tenants: self.tenants.clone(),
            allowance: Allowance::new(self.store.clone(), self.tenants.clone(), self.limits.hourly()),
        };
        self.tasks.spawn(authenticator.clone().keep(self.loops.clone()));
        self.tasks.spawn(agents.streams.clone().watch(self.store.clone(), self.loops.clone()));
        self.tasks.spawn(self.tls.clone().keep(self.loops.clone()));
        let (denials, telling) = Denials::new(self.store.clone(), self.metrics.clone());
        self.tasks.spawn(telling.run(self.loops.clone()));
        let authenticate = AuthLayer::new(authenticator)
            .telling(denials)
            .limited_by(self.limiter.clone())
            .guarded_by(self.guard.clone())
            .behind(Edge::new(&self.edge))
            .of_tenants(self.tenants.clone())
            .counting(self.metrics.clone());
        let face = Face { origins: self.edge.cors_origins.clone(), hsts_seconds: self.edge.hsts(self.tls.is_on()) };
        let operations = OperationsLayer::new(self.metrics.clone());
        let routes = api::grpc_routes(api.clone())?
            .add_service(AgentServiceServer::new(agents).max_decoding_message_size(16 << 20));
        let incoming = Incoming::new(listeners.grpc, &self.tls, tls::Face::Grpc).into_stream();
        let closing = CancellationToken::new();
        let grpc = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(5)))
            .http2_keepalive_timeout(Some(Duration::from_secs(5)))
            .layer(operations.clone())
            .layer(authenticate.clone())
            .add_routes(routes)
            .serve_with_incoming_shutdown(incoming, closing.clone().cancelled_owned());
        let router = gateway::router(api, authenticate, &face).layer(operations);
        let incoming = Incoming::new(listeners.http, &self.tls, tls::Face::Rest);
        let http = gateway::connections::serve(incoming, router, closing.clone());
        if let Some(listener) = listeners.metrics {
            self.tasks.spawn(telemetry::serve_metrics(listener, self.metrics.clone(), self.loops.clone()));
        }
        let farewell = async {
            shutdown.cancelled().await;
            tracing::info!("draining");
            self.info.draining.store(true, Ordering::Relaxed);
            self.dispatch.send_away();
            closing.cancel();
            self.away().await;
            streams.cancel();
        };
        let serving = async {
            let (grpc, ()) = tokio::join!(grpc, http);
            Ok(grpc?)
        };
        tokio::pin!(serving);
        tokio::select! {
            ended = &mut serving => return ended,
            () = farewell => {}
        }
        // Followers of streams may hold connections open; they get no longer than this.
        tokio::time::timeout(FAREWELL, serving).await.unwrap_or(Ok(()))
    }

    /// Waits until all agents have gone, but not for long.
    async fn away(&self) {
        let end = tokio::time::Instant::now() + Duration::from_secs(3);
        while self.dispatch.sessions() > 0 && tokio::time::Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
