//! A server to call, and the means to play the agent.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use orrery_proto::v1::{ErrorType, ExecutionStatus};
use orrery_server::api::{Api, CoordinatorInfo, TriggerQueue, grpc_routes};
use orrery_server::audit::Denials;
use orrery_server::auth::{AuthLayer, Authenticator, Keyring, NewKey, generate_key};
use orrery_server::cache::Caches;
use orrery_server::config::{Identity, Limits, Strategy};
use orrery_server::edge::{Edge, EdgeArgs};
use orrery_server::execution::{Event, Report};
use orrery_server::gateway::{self, Face};
use orrery_server::limiter::{Guard, Limiter, Rates};
use orrery_server::lock::Locks;
use orrery_server::secret::{KeySource, Vault};
use orrery_server::store::sqlite::SqliteStore;
use orrery_server::store::{
    Assignment, Candidate, Change, Claim, DynStore, Fires, Grant, Keys, Leases, NewSession, Session, Sessions,
};
use orrery_server::telemetry::Metrics;
use orrery_server::tenant::{Allowance, Directory};
use orrery_server::tls::Tls;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub(crate) const JOBS: &str = "/api/v1/scheduler/jobs";
pub(crate) const EXECUTIONS: &str = "/api/v1/scheduler/executions";
pub(crate) const SECRET: &str = "q3v8Zk1mPw5Tn7Yc2Rb9Lx4Jd6Hf0Gs8Aa";
pub(crate) const SERVICE_TOKEN: &str = "Zx9Lm2Qw7Er4Ty1Ui8Op5As3Df6Gh0JkBb";

/// What secrets are encrypted under.
pub(crate) const KEY: &str = "test:MDEyMzQ1Njc4OWFiY2RlZmdoaWprbG1ub3BxcnN0dXY=";

pub(crate) struct World {
    pub(crate) store: Arc<SqliteStore>,
    pub(crate) info: Arc<CoordinatorInfo>,
    pub(crate) http: SocketAddr,
    pub(crate) grpc: SocketAddr,
    pub(crate) client: reqwest::Client,
    /// Sent with every call.
    pub(crate) key: Option<String>,
    pub(crate) metrics: Metrics,
    keyring: Keyring,
    /// Ends what writes down denied calls, which then is no more.
    told: Mutex<(CancellationToken, JoinHandle<()>)>,
    dir: tempfile::TempDir,
}

/// What a call answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The body of a call that must have gone well.
    #[track_caller]
    pub(crate) fn ok(&self) -> Value {
        assert!(matches!(self.status, 200 | 201), "{} {}", self.status, self.text);
        self.json()
    }

    /// The code of a call that must have failed so, in the documented body.
    #[track_caller]
    pub(crate) fn refused(&self, status: u16, code: &str) -> Value {
        let body = self.json();
        assert_eq!((self.status, body["error"]["code"].as_str()), (status, Some(code)), "{}", self.text);
        assert!(body["error"]["message"].as_str().is_some_and(|m| !m.is_empty()), "{}", self.text);
        assert!(body["error"]["details"].is_object(), "{}", self.text);
        assert!(body["timestamp"].as_str().is_some_and(|t| t.ends_with('Z')), "{}", self.text);
        assert!(body["path"].as_str().is_some_and(|p| p.starts_with('/')), "{}", self.text);
        body["error"].clone()
    }
}

pub(crate) fn limits() -> Limits {
    Limits {
        scheduler_job_timeout_ms: 300_000,
        max_jobs_per_tenant: 1000,
        max_executions_per_hour: Some(0),
        allow_shell: Some(true),
        job_execution_timeout_ms: 600_000,
        max_concurrent_jobs: 1000,
        arm_ahead_ms: 1500,
        tenant_max_concurrent: 0,
        max_body_bytes: 4 << 20,
        max_log_bytes: 10 << 20,
        session_ttl_ms: 15_000,
        strategy: Strategy::LeastLoaded,
        retention_days: 90,
        log_retention_days: 30,
        audit_retention_days: 400,
    }
}

impl World {
    /// Where the database is.
    pub(crate) fn directory(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// A server to whose callers on this host everything is allowed.
    pub(crate) async fn new() -> Self {
        Self::with(true, limits()).await
    }

    pub(crate) async fn with(dev_loopback: bool, limits: Limits) -> Self {
        Self::limited(dev_loopback, limits, 0).await
    }

    /// With so many calls a minute for each caller.
    pub(crate) async fn limited(dev_loopback: bool, limits: Limits, rate_limit: u32) -> Self {
        Self::edged(dev_loopback, limits, rate_limit, EdgeArgs::default()).await
    }

    /// With rules for addresses, browsers and those who guess as well.
    pub(crate) async fn edged(dev_loopback: bool, limits: Limits, rate_limit: u32, edge: EdgeArgs) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(dir.path().join("orrery.db")).await.unwrap());
        let dyn_store: DynStore = store.clone();
        let mut identity = Identity { jwt_secret: Some(SECRET.into()), ..Identity::default() };
        identity.internal.internal_service_token = Some(SERVICE_TOKEN.into());
        let authenticator = Authenticator::new(dyn_store.clone(), &identity, dev_loopback).unwrap();
        let keyring = authenticator.keyring().clone();
        let auth = AuthLayer::new(authenticator.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let http = listener.local_addr().unwrap();
        let info = Arc::new(CoordinatorInfo {
            id: Uuid::now_v7(),
            version: "test".into(),
            build: "abc123".into(),
            started_at: Instant::now(),
            http_port: http.port(),
            draining: AtomicBool::new(false),
        });
        let metrics = Metrics::default();
        let locks = Locks::new(dyn_store.clone(), None, info.id, Duration::from_secs(30), metrics.clone());
        let tenants = Directory::new(dyn_store.clone(), &limits);
        let (denials, telling) = Denials::new(dyn_store.clone(), metrics.clone());
        let stop_telling = CancellationToken::new();
        let told = Mutex::new((stop_telling.clone(), tokio::spawn(telling.run(stop_telling))));
        let auth = auth
            .limited_by(Limiter::new(Rates { principal: rate_limit, address: rate_limit }, None, metrics.clone()))
            .guarded_by(Guard::new(edge.free_attempts, None, metrics.clone()))
            .behind(Edge::new(&edge))
            .of_tenants(tenants.clone())
            .counting(metrics.clone())
            .telling(denials);
        let face = Face { origins: edge.cors_origins.clone(), hsts_seconds: edge.hsts(false) };
        let caches = Caches::new(dyn_store.clone(), None, metrics.clone());
        let limits = Arc::new(limits);
        let (triggers, making) = TriggerQueue::new(dyn_store.clone(), limits.clone(), None);
        tokio::spawn(making.run(CancellationToken::new()));
        let vault = Vault::open(dyn_store.clone(), KeySource::Text(KEY.to_owned().into())).await.unwrap();
        let allowance = Allowance::new(dyn_store.clone(), tenants.clone(), limits.hourly());
        let api = Api {
            store: dyn_store,
            limits,
            info: info.clone(),
            locks,
            caches,
            triggers,
            authenticator,
            tls: Tls::off(),
            vault,
            tenants,
            allowance,
        };
        let router = gateway::router(api.clone(), auth.clone(), &face);
        tokio::spawn(async move {
            axum::serve(listener, router.into_make_service_with_connect_info::<SocketAddr>()).await.unwrap();
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let grpc = listener.local_addr().unwrap();
        let routes = grpc_routes(api).unwrap();
        tokio::spawn(async move {
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
            let server = tonic::transport::Server::builder().layer(auth).add_routes(routes);
            server.serve_with_incoming(incoming).await.unwrap();
        });
        Self { store, info, http, grpc, client: reqwest::Client::new(), key: None, metrics, keyring, told, dir }
    }

    /// The same server, for a caller with a key of another tenant.
    pub(crate) async fn with_key(mut self, tenant: Option<Uuid>, permissions: &[&str]) -> Self {
        self.key = Some(self.make_key(tenant, permissions).await);
        self
    }

    pub(crate) async fn make_key(&self, tenant: Option<Uuid>, permissions: &[&str]) -> String {
        let permissions = permissions.iter().map(ToString::to_string).collect();
        let new =
            NewKey { tenant_id: tenant, name: "test key".into(), permissions, expires_at: None, created_by: None };
        let (plain, key) = generate_key(&self.keyring, new, chrono::Utc::now());
        self.store.insert_key(&key).await.unwrap();
        plain
    }

    /// Writes what there is to tell of denied calls, and ends it.
    pub(crate) async fn denials_are_told(&self) {
        let mut told = self.told.lock().await;
        told.0.cancel();
        (&mut told.1).await.unwrap();
    }

    /// What heads of the audit log are signed with.
    pub(crate) fn signer(&self) -> orrery_server::audit::Signer {
        self.keyring.signer()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.http)
    }

    pub(crate) async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let request = match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        };
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Answer { status, headers, text: response.text().await.unwrap() }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(self.client.get(self.url(path))).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.post_text(path, body.to_string()).await
    }

    pub(crate) async fn post_text(&self, path: &str, body: impl Into<reqwest::Body>) -> Answer {
        let request = self.client.post(self.url(path)).header("content-type", "application/json");
        self.send(request.body(body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: Value) -> Answer {
        self.send(self.client.put(self.url(path)).body(body.to_string())).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.send(self.client.delete(self.url(path))).await
    }

    /// A job that fires hourly, with changes.
    pub(crate) async fn job(&self, name: &str, changes: Value) -> Value {
        let mut definition = hourly(name);
        merge(&mut definition, changes);
        self.post(JOBS, definition).await.ok()
    }

    pub(crate) async fn trigger(&self, job: &Value) -> Value {
        let id = job["id"].as_str().unwrap();
        self.post(&format!("{JOBS}/{id}/trigger"), json!({})).await.ok()
    }

    /// An agent that serves everything.
    pub(crate) async fn agent(&self) -> Session {
        let agent = NewSession {
            tenant_id: None,
            agent_id: None,
            name: "agent-1".into(),
            version: "1".into(),
            labels: BTreeMap::new(),
            queues: vec!["default".into()],
            executors: vec!["http".into(), "shell".into()],
            slots: 4,
            coordinator_id: self.info.id,
            address: "127.0.0.1".into(),
        };
        self.store.open_session(&agent, Duration::from_secs(60)).await.unwrap()
    }

    /// Grants all that waits to an agent, which begins it.
    pub(crate) async fn start(&self, agent: &Session) -> Vec<Grant> {
        let lanes: Vec<i64> = self.store.lanes_after(0).await.unwrap().iter().map(|lane| lane.id).collect();
        let timeouts =
            orrery_server::job::Timeouts { default: Duration::from_secs(300), cap: Duration::from_secs(600) };
        let claim = Claim { lanes: &lanes, limit: 100, tenant_limit: 0, timeouts };
        let assign = |candidates: &[Candidate<'_>]| {
            let to_agent = || {
                Some(Assignment {
                    session_id: agent.id,
                    attachment: agent.attachment,
                    worker_name: agent.agent.name.clone(),
                })
            };
            candidates.iter().map(|_| to_agent()).collect()
        };
        let grants = self.store.claim(&claim, &assign).await.unwrap().grants;
        for grant in &grants {
            let event = Event::Started { session_id: agent.id, epoch: grant.execution.epoch };
            self.apply(grant, event).await;
        }
        grants
    }

    /// An attempt ends.
    pub(crate) async fn finish(&self, agent: &Session, grant: &Grant, status: ExecutionStatus, result: &str) {
        let report = Report {
            status,
            result: Some(result.to_owned()),
            error_type: (status == ExecutionStatus::Failed).then_some(ErrorType::UserError),
            error_message: if status == ExecutionStatus::Failed { "it failed".into() } else { String::new() },
            error_stack: String::new(),
            retryable: None,
            duration_ms: 25,
            memory_peak_mb: Some(1.5),
            cpu_time_ms: Some(10),
        };
        let epoch = grant.execution.epoch;
        self.apply(grant, Event::Finished { session_id: agent.id, epoch, report: Box::new(report) }).await;
    }

    async fn apply(&self, grant: &Grant, event: Event) {
        let change = Change { execution: grant.execution.id, tenant: None, event, known: None };
        self.store.apply(vec![change]).await.unwrap().remove(0).unwrap();
    }

    /// Runs all that waits to its end.
    pub(crate) async fn run_all(&self, agent: &Session, result: &str) {
        for grant in self.start(agent).await {
            self.finish(agent, &grant, ExecutionStatus::Completed, result).await;
        }
    }
}

pub(crate) fn hourly(name: &str) -> Value {
    json!({
        "name": name,
        "cronExpression": "0 0 * * * *",
        "jobType": "http",
        "config": {"url": "https://example.com/hook"}
    })
}

/// Sets fields; null takes a field away.
pub(crate) fn merge(into: &mut Value, changes: Value) {
    for (name, value) in changes.as_object().cloned().unwrap_or_default() {
        match value {
            Value::Null => drop(into.as_object_mut().unwrap().remove(&name)),
            value => into[name] = value,
        }
    }
}

pub(crate) fn id(value: &Value) -> &str {
    value["id"].as_str().unwrap()
}
