//! The calls on the scheduler as a whole: state, queues, agents, cron expressions, health.

use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::{DateTime, Utc};
use orrery_proto::v1::scheduler_service_server::SchedulerService;
use orrery_proto::v1::{
    DrainWorkerRequest, ExplainCronRequest, ExplainCronResponse, GetHealthRequest, GetMetricsRequest, GetReadyRequest,
    GetStatusRequest, Health, HealthDependencies, HealthMetrics, ListQueuesRequest, ListQueuesResponse,
    ListWorkersRequest, ListWorkersResponse, Metrics, PreviewCronRequest, PreviewResponse, Queue, Ready,
    SetQueueRequest, Status as SchedulerStatus, Worker,
};
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status};

use super::page_token::{self, Listing, Scope, page};
use super::{Api, convert, definition, explain, request, timing};
use crate::auth;
use crate::error::{Error, Kind};
use crate::job::{ScheduleKind, ScheduleSpec};
use crate::schedule::{self, Schedule};
use crate::store::{Counts, QueueDepth, Session, Wake};

/// How long the database may take to be called well.
const PATIENCE: Duration = Duration::from_secs(1);
/// The highest limit that can be set.
const MAX_CONCURRENT: i32 = 100_000;
/// In answers over gRPC it is harmless; the gateway turns it into the HTTP status.
pub(crate) const HTTP_STATUS: &str = "x-orrery-http-status";

#[tonic::async_trait]
impl SchedulerService for Api {
    async fn get_status(&self, _: Request<GetStatusRequest>) -> Result<Response<SchedulerStatus>, Status> {
        let principal = auth::caller()?;
        let now = self.store.now().await.map_err(Error::from)?;
        let counts = self.store.counts(Some(principal.tenant())).await.map_err(Error::from)?;
        let coordinators = self.store.coordinators().await.map_err(Error::from)?;
        Ok(Response::new(SchedulerStatus {
            state: if self.info.is_draining() { "draining" } else { "running" }.to_owned(),
            version: self.info.version.clone(),
            store: self.store.engine().to_owned(),
            now: convert::time(Some(now)),
            uptime_seconds: i64::try_from(self.info.started_at.elapsed().as_secs()).unwrap_or(i64::MAX),
            coordinators: coordinators.into_iter().map(convert::coordinator).collect(),
            active_jobs: counts.active_jobs,
            pending_executions: counts.pending,
            running_executions: counts.running,
            workers: convert::count(counts.sessions),
            next_fire_at: convert::time(counts.next_fire),
        }))
    }

    async fn get_metrics(&self, _: Request<GetMetricsRequest>) -> Result<Response<Metrics>, Status> {
        let tenant = auth::caller()?.tenant();
        let now = self.store.now().await.map_err(Error::from)?;
        let counts = self.store.counts(Some(tenant)).await.map_err(Error::from)?;
        // All that retention has left; fires that are planned ahead are not executions yet.
        let to = now + chrono::Duration::milliseconds(1);
        let stats = self.store.stats(tenant, None, DateTime::UNIX_EPOCH, to).await.map_err(Error::from)?;
        let ended = stats.completed + stats.failed + stats.cancelled;
        Ok(Response::new(Metrics {
            total_jobs: counts.total_jobs,
            active_jobs: counts.active_jobs,
            paused_jobs: counts.paused_jobs,
            total_executions: stats.pending + stats.running + ended,
            successful_executions: stats.completed,
            failed_executions: stats.failed,
            cancelled_executions: stats.cancelled,
            average_execution_time: stats.average_ms,
            queue_length: counts.pending,
            active_workers: convert::count(counts.sessions),
            error_rate: convert::share(stats.failed, ended),
            timeout_rate: convert::share(stats.timed_out, ended),
            retry_rate: convert::share(stats.retried, ended),
        }))
    }

    async fn list_queues(&self, request: Request<ListQueuesRequest>) -> Result<Response<ListQueuesResponse>, Status> {
        let tenant = auth::caller()?.tenant();
        let message = request.into_inner();
        let size = page_token::page_size(message.page_size, 50, 1000)?;
        let scope = Scope::new(Listing::Queues, &[&tenant.to_string()]);
        let after = scope.position(&message.page_token)?;
        let depths = self.store.queues(tenant).await.map_err(Error::from)?;
        let agents = self.store.sessions(tenant, &explain::ALL_AGENTS).await.map_err(Error::from)?;
        let now = self.store.now().await.map_err(Error::from)?;
        let mut queues = queues(depths, &agents, now);
        queues.retain(|queue| after.as_deref().is_none_or(|after| queue.name.as_bytes() > after));
        let next_page_token = page_token::cut(&mut queues, size, |queue| scope.token(queue.name.as_bytes()));
        Ok(Response::new(ListQueuesResponse { queues, next_page_token }))
    }

    async fn set_queue(&self, request: Request<SetQueueRequest>) -> Result<Response<Queue>, Status> {
        let principal = auth::caller()?;
        let SetQueueRequest { name, max_concurrent } = request.into_inner();
        if let Some(problem) = definition::queue_problem(&name) {
            return Err(Error::field("INVALID_QUEUE", "name", problem).into());
        }
        if !(0..=MAX_CONCURRENT).contains(&max_concurrent) {
            let message = format!("{max_concurrent} is out of range; give 0 to {MAX_CONCURRENT}");
            return Err(Error::field("INVALID_MAX_CONCURRENT", "maxConcurrent", message).into());
        }
        let tenant = principal.tenant();
        let set = self.store.set_queue_limit(tenant, &name, max_concurrent, principal.subject).await;
        set.map_err(Error::from)?;
        // Where it was raised, there are free places.
        self.wake(Wake::Work).await;
        let depths = self.store.queues(tenant).await.map_err(Error::from)?;
        let agents = self.store.sessions(tenant, &explain::ALL_AGENTS).await.map_err(Error::from)?;
        let now = self.store.now().await.map_err(Error::from)?;
        let queue = queues(depths, &agents, now).into_iter().find(|queue| queue.name == name);
        Ok(Response::new(queue.unwrap_or(Queue { name, max_concurrent, ..Queue::default() })))
    }

    async fn list_workers(
        &self,
        request: Request<ListWorkersRequest>,
    ) -> Result<Response<ListWorkersResponse>, Status> {
        let tenant = auth::caller()?.tenant();
        let message = request.into_inner();
        let size = page_token::page_size(message.page_size, 50, 1000)?;
        let scope = Scope::new(Listing::Workers, &[&tenant.to_string()]);
        let page = page(&scope, &message.page_token, size)?;
        let mut sessions = self.store.sessions(tenant, &page).await.map_err(Error::from)?;
        let next_page_token = page_token::cut(&mut sessions, size, |session| scope.token(session.id.as_bytes()));
        let workers = sessions.iter().map(convert::worker).collect();
        Ok(Response::new(ListWorkersResponse { workers, next_page_token }))
    }

    async fn drain_worker(&self, request: Request<DrainWorkerRequest>) -> Result<Response<Worker>, Status> {
        let principal = auth::caller()?;
        let id = request::id("id", &request.into_inner().id)?;
        let unknown = || Error::new(Kind::NotFound, "WORKER_NOT_FOUND", format!("there is no worker {id}"));
        // Only the deployment's own callers may drain agents that serve all tenants.
        if !self.store.drain_session(principal.tenant_id, id).await.map_err(Error::from)? {
            return Err(unknown().into());
        }
        self.wake(Wake::Cancel).await;
        let agents = self.store.sessions(principal.tenant(), &explain::ALL_AGENTS).await.map_err(Error::from)?;
        let session = agents.iter().find(|session| session.id == id).ok_or_else(unknown)?;
        Ok(Response::new(convert::worker(session)))
    }

    async fn preview_cron(&self, request: Request<PreviewCronRequest>) -> Result<Response<PreviewResponse>, Status> {
        auth::caller()?;
        let message = request.into_inner();
        let count = request::preview_count(message.count)?;
        let schedule = cron(&message)?;
        let after = match request::instant("INVALID_ARGUMENT", "after", message.after)? {
            Some(after) => after,
            None => self.store.now().await.map_err(Error::from)?,
        };
        let fires = if message.previous {
            timing::preview_back(&schedule, after, count)
        } else {
            schedule.preview(after, count).into_iter().map(timing::fire).collect()
        };
        Ok(Response::new(PreviewResponse { fires }))
    }

    async fn explain_cron(
        &self,
        request: Request<ExplainCronRequest>,
    ) -> Result<Response<ExplainCronResponse>, Status> {
        auth::caller()?;
        let description = schedule::explain(&request.into_inner().expression)
            .map_err(|error| Error::field("INVALID_CRON_EXPRESSION", "expression", error.to_string()))?;
        Ok(Response::new(ExplainCronResponse { description }))
    }

    async fn get_health(&self, _: Request<GetHealthRequest>) -> Result<Response<Health>, Status> {
        let counts = tokio::time::timeout(PATIENCE, self.store.counts(None)).await.ok().and_then(Result::ok);
        let database = counts.is_some();
        let Counts { active_jobs, pending, .. } = counts.unwrap_or_default();
        let health = Health {
            status: if database { "healthy" } else { "unhealthy" }.to_owned(),
            service: "scheduler-service".to_owned(),
            port: i32::from(self.info.http_port),
            dependencies: Some(HealthDependencies {
                database,
                redis: self.locks.redis_is_well(),
                // Neither is configured, so neither can fail.
                job_queue: true,
                services: true,
                // It stands on either side.
                distributed_lock: database || self.locks.redis_is_up(),
            }),
            metrics: Some(HealthMetrics { active_jobs, queue_size: pending, memory_usage: resident_bytes() }),
        };
        Ok(well_or_not(health, database))
    }

    async fn get_ready(&self, _: Request<GetReadyRequest>) -> Result<Response<Ready>, Status> {
        let database = matches!(tokio::time::timeout(PATIENCE, self.store.now()).await, Ok(Ok(_)));
        let reason = if self.info.draining.load(Ordering::Relaxed) {
            "the coordinator shuts down"
        } else if !database {
            "the database does not answer"
        } else {
            ""
        };
        let ready = reason.is_empty();
        Ok(well_or_not(Ready { ready, reason: reason.to_owned() }, ready))
    }
}

/// An answer that REST gives with 503 where it is a bad one.
fn well_or_not<T>(message: T, well: bool) -> Response<T> {
    let mut response = Response::new(message);
    if !well {
        response.metadata_mut().insert(HTTP_STATUS, MetadataValue::from_static("503"));
    }
    response
}

/// The schedule in a request for a preview.
fn cron(message: &PreviewCronRequest) -> Result<Schedule, Error> {
    let zone = if message.timezone.is_empty() { "UTC" } else { &message.timezone };
    let spec = ScheduleSpec {
        kind: ScheduleKind::Cron(message.expression.clone()),
        timezone: zone.to_owned(),
        dst_gap: message.dst_gap(),
        dst_overlap: message.dst_overlap(),
    };
    let parsed = spec.parse(DateTime::UNIX_EPOCH).map_err(|error| {
        let (code, field) = timing::blame(&error);
        Error::field(code, if field == "cronExpression" { "expression" } else { field }, error.to_string())
    })?;
    parsed.ok_or_else(|| Error::field("INVALID_CRON_EXPRESSION", "expression", "is missing"))
}

/// Queues that hold something or that an agent serves, by name. Pure.
fn queues(depths: Vec<QueueDepth>, agents: &[Session], now: DateTime<Utc>) -> Vec<Queue> {
    let mut queues: std::collections::BTreeMap<String, Queue> = std::collections::BTreeMap::new();
    for depth in depths {
        let waited = depth.oldest_pending.map_or(0, |since| (now - since).num_milliseconds().max(0));
        let queue = Queue {
            name: depth.name.clone(),
            pending: depth.pending,
            scheduled: depth.scheduled,
            running: depth.running,
            oldest_wait_ms: waited,
            workers: 0,
            slots: 0,
            max_concurrent: depth.max_concurrent,
        };
        queues.insert(depth.name, queue);
    }
    for agent in agents.iter().filter(|agent| agent.attached) {
        for name in &agent.agent.queues {
            let queue = queues.entry(name.clone()).or_insert_with(|| Queue { name: name.clone(), ..Queue::default() });
            queue.workers += 1;
            queue.slots = queue.slots.saturating_add(agent.agent.slots);
        }
    }
    queues.into_values().collect()
}

/// Resident memory of this process; 0 where it cannot be read, as outside of Linux.
fn resident_bytes() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    let kilobytes = line.trim().trim_end_matches("kB").trim().parse::<i64>().unwrap_or(0);
    kilobytes * 1024
}
