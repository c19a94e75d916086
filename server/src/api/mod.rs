//! The gRPC services, which REST calls pass as well. Handlers read the caller, ask pure functions to decide, and let the store keep it.

pub(crate) mod agents;
mod audit;
mod audit_check;
mod convert;
mod dead_letters;
mod definition;
mod executions;
mod explain;
mod health;
mod job_bounds;
mod job_calls;
mod job_changes;
mod job_rights;
mod job_secrets;
mod jobs;
mod json_text;
mod keys;
mod page_token;
mod reach;
mod request;
mod roles;
mod scheduler;
mod secrets;
mod sign_in;
mod tenants;
mod timing;
mod trigger_queue;
mod triggers;
mod users;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use orrery_proto::v1::audit_service_server::AuditServiceServer;
use orrery_proto::v1::auth_service_server::AuthServiceServer;
use orrery_proto::v1::dead_letter_service_server::DeadLetterServiceServer;
use orrery_proto::v1::enrolment_service_server::EnrolmentServiceServer;
use orrery_proto::v1::execution_service_server::ExecutionServiceServer;
use orrery_proto::v1::job_service_server::JobServiceServer;
use orrery_proto::v1::key_service_server::KeyServiceServer;
use orrery_proto::v1::role_service_server::RoleServiceServer;
use orrery_proto::v1::scheduler_service_server::SchedulerServiceServer;
use orrery_proto::v1::secret_service_server::SecretServiceServer;
use orrery_proto::v1::tenant_service_server::TenantServiceServer;
use orrery_proto::v1::user_service_server::UserServiceServer;
use tonic::service::Routes;
use uuid::Uuid;

pub(crate) use convert::job as shown_job;
pub(crate) use scheduler::HTTP_STATUS;
pub use trigger_queue::{TriggerLoop, TriggerQueue};
pub(crate) use users::user_name;

use crate::admission::{Admission, Full, Gate};
use crate::auth::Authenticator;
use crate::cache::Caches;
use crate::config::Limits;
use crate::error::Error;
use crate::lock::{self, Held, Locks};
use crate::secret::Vault;
use crate::store::{DynStore, StoreError, Wake};
use crate::tenant::{Allowance, Directory};
use crate::tls::Tls;

/// What the handlers need. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    pub store: DynStore,
    pub limits: Arc<Limits>,
    pub info: Arc<CoordinatorInfo>,
    pub locks: Locks,
    pub caches: Caches,
    /// The way in for executions that are asked for one by one.
    pub triggers: TriggerQueue,
    /// Keys and sessions.
    pub authenticator: Authenticator,
    /// Holds the authority that lets agents in.
    pub tls: Tls,
    pub vault: Vault,
    pub tenants: Directory,
    /// Counts what callers ask for.
    pub allowance: Allowance,
}

/// What a coordinator says of itself.
#[derive(Debug)]
pub struct CoordinatorInfo {
    pub id: Uuid,
    pub version: String,
    /// The revision it was built from, where ORRERY_BUILD named it at build time.
    pub build: String,
    pub started_at: Instant,
    /// Shown by `/health`.
    pub http_port: u16,
    /// Set when it shuts down: it is ready for nothing new, and streams end.
    pub draining: AtomicBool,
}

impl CoordinatorInfo {
    /// Whether it shuts down.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}

/// All services of the API with health and reflection, for a tonic server. Agents' service is not among them.
///
/// # Errors
/// Where the descriptors of the contract cannot be read, which is a fault of the build.
pub fn grpc_routes(api: Api) -> Result<Routes, tonic_reflection::server::Error> {
    let most = api.limits.max_body_bytes;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(orrery_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let health = health::HealthService::new(Arc::clone(&api.info));
    Ok(Routes::new(JobServiceServer::new(api.clone()).max_decoding_message_size(most))
        .add_service(AuthServiceServer::new(api.clone()).max_decoding_message_size(most))
        .add_service(AuditServiceServer::new(api.clone()).max_decoding_message_size(most))
        .add_service(KeyServiceServer::new(api.clone()).max_decoding_message_size(most))
        .add_service(UserServiceServer::new(api.clone()).max_decoding_message_size(most))
        .add_service(TenantServiceServer::new(api.clone()).max_decoding_message_size(most))
        .add_service(RoleServiceServer::new(api.clone()).max_decoding_message_size(most))
        .add_service(DeadLetterServiceServer::new(api.clone()).max_decoding_message_size(most))
        .add_service(EnrolmentServiceServer::new(api.clone()).max_decoding_message_size(most))
        .add_service(ExecutionServiceServer::new(api.clone()).max_decoding_message_size(most))
        .add_service(SecretServiceServer::new(api.clone()).max_decoding_message_size(most))
        .add_service(SchedulerServiceServer::new(api).max_decoding_message_size(most))
        .add_service(tonic_health::pb::health_server::HealthServer::new(health))
        .add_service(reflection))
}

impl Api {
    /// Takes the lock of a job, which spares calls on one job the wait for its row with a connection each.
    async fn lock_job(&self, id: Uuid) -> Result<Held, Error> {
        Ok(self.locks.acquire(&lock::of_job(id), lock::PATIENCE).await?)
    }

    /// Those of these gates that have no free place now.
    async fn full(&self, gates: &[Gate]) -> Result<Vec<Full>, Error> {
        let rooms = self.store.rooms(gates, self.limits.tenant_max_concurrent).await?;
        Ok(Admission::new(rooms).full(gates))
    }

    /// Tells everybody that there may be work. Losing a hint costs latency only, so a failure is not the caller's.
    async fn wake(&self, hint: Wake) {
        if let Err(error) = self.store.wake(hint).await {
            tracing::debug!(%error, ?hint, "a hint was lost");
        }
    }
}

/// An error of the store that concerns one job.
fn of_job(id: Uuid) -> impl FnOnce(StoreError) -> Error {
    move |error| match error {
        StoreError::NotFound => Error::job_not_found(id),
        other => of_one(other),
    }
}

/// An error of a call that concerns one item, which therefore has no index.
fn of_one(error: StoreError) -> Error {
    let mut error = Error::from(error);
    error.details.remove("index");
    error
}
