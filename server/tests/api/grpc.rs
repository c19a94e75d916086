//! The same services over gRPC, with health and reflection.

use std::collections::BTreeSet;

use orrery_proto::Json;
use orrery_proto::v1::job_service_client::JobServiceClient;
use orrery_proto::v1::scheduler_service_client::SchedulerServiceClient;
use orrery_proto::v1::{CreateJobRequest, GetHealthRequest, GetJobRequest, JobType, ListJobsRequest};
use tonic::transport::Channel;
use tonic::{Code, Request};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_types::StatusExt;

use crate::world::{World, limits};

async fn channel(world: &World) -> Channel {
    Channel::from_shared(format!("http://{}", world.grpc)).unwrap().connect().await.unwrap()
}

#[tokio::test]
async fn jobs_are_made_over_grpc() {
    let world = World::new().await;
    let mut jobs = JobServiceClient::new(channel(&world).await);
    let request = CreateJobRequest {
        name: "over-grpc".into(),
        cron_expression: "@hourly".into(),
        job_type: JobType::Http.into(),
        config: Some(Json::new(r#"{"url":"https://example.com","body":1.50}"#)),
        ..Default::default()
    };
    let made = jobs.create_job(request.clone()).await.unwrap().into_inner();
    assert_eq!(made.config.unwrap().text, r#"{"url":"https://example.com","body":1.50}"#);
    let taken = jobs.create_job(request.clone()).await.unwrap_err();
    assert_eq!(
        (taken.code(), taken.get_details_error_info().unwrap().reason.as_str()),
        (Code::AlreadyExists, "JOB_NAME_TAKEN")
    );
    let wrong = jobs.create_job(CreateJobRequest { timezone: "x".into(), ..request }).await.unwrap_err();
    assert_eq!(wrong.code(), Code::InvalidArgument);
    assert_eq!(wrong.get_details_bad_request().unwrap().field_violations[0].field, "timezone");
    let missing = jobs.get_job(GetJobRequest { id: uuid::Uuid::nil().to_string() }).await.unwrap_err();
    assert_eq!(missing.code(), Code::NotFound);
    // Over REST it is the same job.
    assert_eq!(world.get(crate::world::JOBS).await.ok()["jobs"][0]["name"], "over-grpc");
}

#[tokio::test]
async fn grpc_needs_credentials_too() {
    let world = World::with(false, limits()).await;
    let mut jobs = JobServiceClient::new(channel(&world).await);
    let refused = jobs.list_jobs(ListJobsRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert_eq!(refused.get_details_error_info().unwrap().reason, "UNAUTHENTICATED");
    let key = world.make_key(Some(uuid::Uuid::from_u128(3)), &["jobs:read"]).await;
    let mut request = Request::new(ListJobsRequest::default());
    request.metadata_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
    jobs.list_jobs(request).await.unwrap();
    let mut scheduler = SchedulerServiceClient::new(channel(&world).await);
    assert_eq!(scheduler.get_health(GetHealthRequest {}).await.unwrap().into_inner().status, "healthy");
}

#[tokio::test]
async fn health_and_reflection_are_served() {
    let world = World::with(false, limits()).await;
    let mut health = HealthClient::new(channel(&world).await);
    let ask = |service: &str| HealthCheckRequest { service: service.into() };
    assert_eq!(health.check(ask("")).await.unwrap().into_inner().status, 1);
    assert_eq!(health.check(ask("orrery.v1.JobService")).await.unwrap().into_inner().status, 1);
    assert_eq!(health.check(ask("x")).await.unwrap_err().code(), Code::NotFound);
    world.info.draining.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(health.check(ask("")).await.unwrap().into_inner().status, 2);

    let mut reflection = ServerReflectionClient::new(channel(&world).await);
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = reflection.server_reflection_info(tokio_stream::iter([list])).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(found)) = answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("no list of services")
    };
    let names: BTreeSet<String> = found.service.into_iter().map(|service| service.name).collect();
    for name in ["JobService", "ExecutionService", "DeadLetterService", "SchedulerService", "AgentService"] {
        assert!(names.contains(&format!("orrery.v1.{name}")), "{names:?}");
    }
}
