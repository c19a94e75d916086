//! The calls that read, follow, cancel and repeat executions.

use std::pin::Pin;

use chrono::{DateTime, Duration, Utc};
use futures_util::Stream;
use orrery_proto::v1::execution_service_server::ExecutionService;
use orrery_proto::v1::{
    CancelExecutionRequest, Execution, ExecutionStats, ExecutionStatus, ExplainExecutionRequest, Explanation,
    FollowExecutionLogsRequest, GetExecutionRequest, GetExecutionStatsRequest, ListExecutionLogsRequest,
    ListExecutionLogsResponse, ListExecutionsRequest, ListExecutionsResponse, LogEntry, RetryExecutionRequest,
    TriggerType, WatchExecutionRequest,
};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::job_calls::asking;
use super::page_token::{self, Listing, Scope, page};
use super::watch::{self, Watched};
use super::{Api, convert, explain, reach, request, triggers};
use crate::admission::Gate;
use crate::auth::{self, Caller, Principal};
use crate::error::{Error, Kind};
use crate::execution::{self, Event, Rejected};
use crate::store::{Change, ExecutionFilter, Wake};

/// The most characters of a reason.
const MAX_REASON: usize = 1000;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl ExecutionService for Api {
    async fn list_executions(
        &self,
        request: Request<ListExecutionsRequest>,
    ) -> Result<Response<ListExecutionsResponse>, Status> {
        let principal = auth::caller()?;
        let message = request.into_inner();
        let size = page_token::page_size(message.page_size, 50, 1000)?;
        let mut filter = filter(&message)?;
        let scope = Scope::new(Listing::Executions, &[&principal.tenant().to_string(), &format!("{filter:?}")]);
        let page = page(&scope, &message.page_token, size)?;
        match filter.job {
            Some(job) => self.job_or_its_history(&principal, job, &filter).await?,
            None => filter.jobs = self.jobs_in_reach(&principal).await?,
        }
        let mut found = self.store.executions(principal.tenant(), &filter, &page).await.map_err(Error::from)?;
        let next_page_token = page_token::cut(&mut found, size, |e| scope.token(e.id.as_bytes()));
        let executions = found.iter().map(convert::execution).collect();
        Ok(Response::new(ListExecutionsResponse { executions, next_page_token }))
    }

    async fn get_execution(&self, request: Request<GetExecutionRequest>) -> Result<Response<Execution>, Status> {
        let principal = auth::caller()?;
        let id = request::id("id", &request.into_inner().id)?;
        Ok(Response::new(convert::execution(&self.find_execution(&principal, id).await?)))
    }

    async fn get_execution_stats(
        &self,
        request: Request<GetExecutionStatsRequest>,
    ) -> Result<Response<ExecutionStats>, Status> {
        let principal = auth::caller()?;
        let message = request.into_inner();
        let job = request::id_if_any("jobId", &message.job_id)?;
        let to = match request::instant("INVALID_DATE_RANGE", "to", message.to)? {
            Some(to) => to,
            None => self.store.now().await.map_err(Error::from)?,
        };
        let from = request::instant("INVALID_DATE_RANGE", "from", message.from)?.unwrap_or(to - Duration::hours(24));
        in_order(from, to)?;
        match job {
            Some(job) => {
                let of = ExecutionFilter { job: Some(job), ..Default::default() };
                self.job_or_its_history(&principal, job, &of).await?;
            }
            None => reach::whole_tenant(&principal)?,
        }
        let stats = match job {
            Some(_) => self.store.stats(principal.tenant(), job, from, to).await,
            None => self.caches.stats(principal.tenant(), from, to).await,
        };
        let stats = stats.map_err(Error::from)?;
        Ok(Response::new(convert::stats(&stats, from, to)))
    }

    async fn cancel_execution(&self, request: Request<CancelExecutionRequest>) -> Result<Response<Execution>, Status> {
        let principal = auth::caller()?;
        let message = request.into_inner();
        let id = request::id("id", &message.id)?;
        let reason = reason(message.reason, &principal)?;
        if principal.tags().is_some() {
            self.find_execution(&principal, id).await?;
        }
        let event = Event::CancelRequested { reason };
        let change = Change { execution: id, tenant: Some(principal.tenant()), event, known: None };
        let answers = self.store.apply(vec![change]).await.map_err(Error::from)?;
        let answer = answers.into_iter().next().unwrap_or(Err(Rejected::Unknown));
        let execution = answer.map_err(|rejected| refused(id, &rejected))?;
        // Where an agent holds it, it must be told; where not, a place of its job has become free.
        self.wake(if execution.is_done() { Wake::Work } else { Wake::Cancel }).await;
        self.store.changed(&[id]);
        Ok(Response::new(convert::execution(&execution)))
    }

    async fn retry_execution(&self, request: Request<RetryExecutionRequest>) -> Result<Response<Execution>, Status> {
        let principal = auth::caller()?;
        let (metadata, _, message) = request.into_parts();
        let id = request::id("id", &message.id)?;
        let execution = self.find_execution(&principal, id).await?;
        if !execution.is_done() {
            let status = execution.status();
            let message = format!("execution {id} is {}; wait for its end or cancel it first", status.as_json_str());
            return Err(Error::new(Kind::Conflict, "EXECUTION_NOT_FINISHED", message).into());
        }
        let trigger = triggers::again(&execution, &message.idempotency_key, &asking(&principal, &metadata)?)?;
        Ok(Response::new(convert::execution(&self.trigger_one(trigger).await?)))
    }

    async fn explain_execution(
        &self,
        request: Request<ExplainExecutionRequest>,
    ) -> Result<Response<Explanation>, Status> {
        let principal = auth::caller()?;
        let tenant = principal.tenant();
        let id = request::id("id", &request.into_inner().id)?;
        let execution = self.find_execution(&principal, id).await?;
        let job = self.store.job(tenant, execution.job_id).await.map_err(Error::from)?;
        let full = self.full(&Gate::of(&execution)).await?;
        let agents = self.store.sessions(tenant, &explain::ALL_AGENTS).await.map_err(Error::from)?;
        let facts = explain::ExecutionFacts { execution: &execution, job: job.as_ref(), full: &full, agents: &agents };
        Ok(Response::new(explain::execution(&facts)))
    }

    type WatchExecutionStream = Answers<Execution>;

    async fn watch_execution(
        &self,
        request: Request<WatchExecutionRequest>,
    ) -> Result<Response<Self::WatchExecutionStream>, Status> {
        let principal = auth::caller()?;
        let id = request::id("id", &request.into_inner().id)?;
        let watched = Watched::subscribe(self, principal.tenant(), id);
        let first = watched.read().await?;
        self.may_touch_of(&principal, first.job_id, Error::execution_not_found(id)).await?;
        Ok(Response::new(Box::pin(watch::executions(watched, first))))
    }

    async fn list_execution_logs(
        &self,
        request: Request<ListExecutionLogsRequest>,
    ) -> Result<Response<ListExecutionLogsResponse>, Status> {
        let principal = auth::caller()?;
        let message = request.into_inner();
        let id = request::id("id", &message.id)?;
        let size = page_token::page_size(message.page_size, 1000, 10_000)?;
        let scope = Scope::new(Listing::Logs, &[&principal.tenant().to_string(), &id.to_string()]);
        let after = scope.number(&message.page_token)?.unwrap_or(0);
        self.find_execution(&principal, id).await?;
        let limit = i64::try_from(size).unwrap_or(i64::MAX - 1) + 1;
        let mut lines = self.store.logs(principal.tenant(), id, after, limit).await.map_err(Error::from)?;
        let next_page_token = page_token::cut(&mut lines, size, |line| scope.token(&line.sequence.to_be_bytes()));
        let entries = lines.iter().map(convert::log_entry).collect();
        Ok(Response::new(ListExecutionLogsResponse { entries, next_page_token }))
    }

    type FollowExecutionLogsStream = Answers<LogEntry>;

    async fn follow_execution_logs(
        &self,
        request: Request<FollowExecutionLogsRequest>,
    ) -> Result<Response<Self::FollowExecutionLogsStream>, Status> {
        let principal = auth::caller()?;
        let message = request.into_inner();
        let id = request::id("id", &message.id)?;
        let watched = Watched::subscribe(self, principal.tenant(), id);
        let execution = watched.read().await?;
        self.may_touch_of(&principal, execution.job_id, Error::execution_not_found(id)).await?;
        Ok(Response::new(Box::pin(watch::logs(watched, message.after))))
    }
}

impl Api {
    /// An execution of the caller's tenant, of a job within its reach.
    async fn find_execution(&self, caller: &Caller, id: Uuid) -> Result<execution::Execution, Error> {
        let found = self.store.execution(caller.tenant(), id).await?.ok_or_else(|| Error::execution_not_found(id))?;
        self.may_touch_of(caller, found.job_id, Error::execution_not_found(id)).await?;
        Ok(found)
    }

    /// A job, or a deleted one that has left history: anything else is not found, rather than an empty list.
    async fn job_or_its_history(&self, principal: &Caller, job: Uuid, filter: &ExecutionFilter) -> Result<(), Error> {
        let tenant = principal.tenant();
        self.may_touch(principal, &[job], "executions:read", Error::job_not_found).await?;
        if self.caches.job(tenant, job).await?.is_some() {
            return Ok(());
        }
        let any = ExecutionFilter { job: filter.job, ..Default::default() };
        let one = crate::store::Page { after: None, limit: 1 };
        if self.store.executions(tenant, &any, &one).await?.is_empty() {
            return Err(Error::job_not_found(job));
        }
        Ok(())
    }
}

fn filter(message: &ListExecutionsRequest) -> Result<ExecutionFilter, Error> {
    let unknown = |field| Error::field("INVALID_ARGUMENT", field, "is not one of its values");
    let status = message.status.filter(|status| *status != 0).map(ExecutionStatus::try_from);
    let trigger = message.trigger_type.filter(|trigger| *trigger != 0).map(TriggerType::try_from);
    let from = request::instant("INVALID_DATE_RANGE", "from", message.from)?;
    let to = request::instant("INVALID_DATE_RANGE", "to", message.to)?;
    if let (Some(from), Some(to)) = (from, to) {
        in_order(from, to)?;
    }
    Ok(ExecutionFilter {
        jobs: None,
        job: request::id_if_any("jobId", &message.job_id)?,
        status: status.transpose().map_err(|_| unknown("status"))?,
        trigger: trigger.transpose().map_err(|_| unknown("triggerType"))?,
        from,
        to,
    })
}

fn in_order(from: DateTime<Utc>, to: DateTime<Utc>) -> Result<(), Error> {
    if to < from {
        return Err(Error::field("INVALID_DATE_RANGE", "to", "lies before from; give a later one"));
    }
    Ok(())
}

fn reason(reason: String, principal: &Principal) -> Result<String, Error> {
    let reason = note(reason)?;
    Ok(if reason.is_empty() { format!("cancelled by {}", principal.name) } else { reason })
}

/// What somebody gives as the reason of a decision, empty or not.
///
/// # Errors
/// INVALID_ARGUMENT where it is too long.
pub(super) fn note(reason: String) -> Result<String, Error> {
    if reason.chars().count() > MAX_REASON || reason.contains('\0') {
        let message = format!("give at most {MAX_REASON} characters, and no NUL");
        return Err(Error::field("INVALID_ARGUMENT", "reason", message));
    }
    Ok(reason)
}

fn refused(id: Uuid, rejected: &Rejected) -> Error {
    match rejected {
        Rejected::AlreadyDone { status } => {
            let message = format!("execution {id} is over: it is {status}");
            Error::new(Kind::Conflict, "EXECUTION_ALREADY_FINISHED", message).with("status", status)
        }
        Rejected::Unknown => Error::execution_not_found(id),
        other => Error::new(Kind::Conflict, "INVALID_STATE", other.to_string()),
    }
}
