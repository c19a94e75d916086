//! `grpc.health.v1`: serving until the coordinator drains.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, Stream};
use orrery_proto::v1::dead_letter_service_server::SERVICE_NAME as DEAD_LETTERS;
use orrery_proto::v1::execution_service_server::SERVICE_NAME as EXECUTIONS;
use orrery_proto::v1::job_service_server::SERVICE_NAME as JOBS;
use orrery_proto::v1::scheduler_service_server::SERVICE_NAME as SCHEDULER;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::CoordinatorInfo;

/// How often a watcher's answer is looked at again.
const INTERVAL: Duration = Duration::from_secs(1);
const AGENTS: &str = orrery_proto::v1::agent_service_server::SERVICE_NAME;

pub(super) struct HealthService {
    info: Arc<CoordinatorInfo>,
}

impl HealthService {
    pub(super) fn new(info: Arc<CoordinatorInfo>) -> Self {
        Self { info }
    }
}

fn status(info: &CoordinatorInfo, service: &str) -> ServingStatus {
    match service {
        "" | JOBS | EXECUTIONS | DEAD_LETTERS | SCHEDULER | AGENTS if info.is_draining() => ServingStatus::NotServing,
        "" | JOBS | EXECUTIONS | DEAD_LETTERS | SCHEDULER | AGENTS => ServingStatus::Serving,
        _ => ServingStatus::ServiceUnknown,
    }
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        match status(&self.info, &request.into_inner().service) {
            ServingStatus::ServiceUnknown => Err(Status::not_found("there is no such service")),
            found => Ok(Response::new(HealthCheckResponse { status: found.into() })),
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let service = request.into_inner().service;
        let start = (Arc::clone(&self.info), None);
        let changes = stream::unfold(start, move |(info, last)| {
            let service = service.clone();
            async move {
                let mut found = status(&info, &service);
                while last == Some(found) {
                    tokio::time::sleep(INTERVAL).await;
                    found = status(&info, &service);
                }
                Some((Ok(HealthCheckResponse { status: found.into() }), (info, Some(found))))
            }
        });
        Ok(Response::new(Box::pin(changes)))
    }
}
