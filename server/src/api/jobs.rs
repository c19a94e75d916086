//! The calls that define, change and fire jobs.

use std::collections::BTreeSet;

use orrery_proto::v1::job_service_server::JobService;
use orrery_proto::v1::{
    BatchCreateJobsRequest, BatchCreateJobsResponse, BatchTriggerJobsRequest, BatchTriggerJobsResponse,
    CreateJobRequest, DeleteJobRequest, DeleteJobResponse, Execution, ExplainJobRequest, Explanation, GetJobRequest,
    Job, ListJobsRequest, ListJobsResponse, ListOmissionsRequest, ListOmissionsResponse, PauseJobRequest,
    PreviewJobRequest, PreviewResponse, ResumeJobRequest, StopJobRequest, TriggerJobRequest, UpdateJobRequest,
    ValidateJobRequest, ValidateJobResponse,
};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::job_calls::{asking, bounded, field_error, job_filter, new_job, new_jobs, of_batch, validate};
use super::page_token::{self, Listing, Scope, page};
use super::{
    Api, convert, definition, explain, job_bounds, job_changes, job_rights, of_one, request, timing, triggers,
};
use crate::auth;
use crate::error::Error;
use crate::store::JobFilter;

/// The most jobs and triggers of one call.
const MAX_CREATED: usize = 1000;
const MAX_TRIGGERED: usize = 10_000;

#[tonic::async_trait]
impl JobService for Api {
    async fn create_job(&self, request: Request<CreateJobRequest>) -> Result<Response<Job>, Status> {
        let principal = auth::caller()?;
        let (metadata, _, message) = request.into_parts();
        let key = request::header_key(&metadata)?;
        let now = self.store.now().await.map_err(Error::from)?;
        let mut asked = new_job(&message, "", &key, &principal, now)?;
        principal.may_define(&asked.new.job.spec.tags, "")?;
        self.secure(&principal, vec![(String::new(), &mut asked.new.job.spec)]).await?;
        let made = self.create(vec![asked]).await.map_err(of_one)?;
        let job = made.first().ok_or_else(|| Status::internal("no job was made"))?;
        Ok(self.answer(job))
    }

    async fn batch_create_jobs(
        &self,
        request: Request<BatchCreateJobsRequest>,
    ) -> Result<Response<BatchCreateJobsResponse>, Status> {
        let principal = auth::caller()?;
        let (metadata, _, message) = request.into_parts();
        bounded("jobs", message.jobs.len(), MAX_CREATED)?;
        let key = request::header_key(&metadata)?;
        let now = self.store.now().await.map_err(Error::from)?;
        let mut jobs = new_jobs(&message.jobs, &key, &principal, now)?;
        for (index, asked) in jobs.iter().enumerate() {
            principal.may_define(&asked.new.job.spec.tags, &format!("jobs[{index}]."))?;
        }
        let defined = jobs.iter_mut().enumerate();
        let defined = defined.map(|(index, asked)| (format!("jobs[{index}]."), &mut asked.new.job.spec));
        self.secure(&principal, defined.collect()).await?;
        let made = self.create(jobs).await.map_err(of_batch)?;
        let timeouts = self.limits.timeouts();
        Ok(Response::new(BatchCreateJobsResponse {
            jobs: made.iter().map(|job| convert::job(job, timeouts)).collect(),
        }))
    }

    async fn list_jobs(&self, request: Request<ListJobsRequest>) -> Result<Response<ListJobsResponse>, Status> {
        let principal = auth::caller()?;
        let message = request.into_inner();
        let size = page_token::page_size(message.page_size, 50, 1000)?;
        let filter = JobFilter { any_tag: principal.tags().map(<[String]>::to_vec), ..job_filter(&message)? };
        let scope = Scope::new(
            Listing::Jobs,
            &[
                &principal.tenant().to_string(),
                filter.status.map_or("", |s| s.as_json_str()),
                filter.job_type.map_or("", |t| t.as_json_str()),
                &message.tag,
                &message.name,
            ],
        );
        let page = page(&scope, &message.page_token, size)?;
        let mut found = self.store.jobs(principal.tenant(), &filter, &page).await.map_err(Error::from)?;
        let next_page_token = page_token::cut(&mut found, size, |job| scope.token(job.id.as_bytes()));
        let timeouts = self.limits.timeouts();
        let jobs = found.iter().map(|job| convert::job(job, timeouts)).collect();
        Ok(Response::new(ListJobsResponse { jobs, next_page_token }))
    }

    async fn get_job(&self, request: Request<GetJobRequest>) -> Result<Response<Job>, Status> {
        let principal = auth::caller()?;
        let id = request::id("id", &request.into_inner().id)?;
        Ok(self.answer(&self.find_job(&principal, id).await?))
    }

    async fn update_job(&self, request: Request<UpdateJobRequest>) -> Result<Response<Job>, Status> {
        let principal = auth::caller()?;
        let (metadata, _, message) = request.into_parts();
        let id = request::id("id", &message.id)?;
        let expected = request::expected_version(message.version, &metadata)?;
        let mut definition = definition::of_update(message);
        let kept = self.unmask(&principal, id, &mut definition).await?;
        let mut spec = definition::read_keeping(&definition, "", &kept).map_err(Error::fields)?;
        // Whether it may change the job as it is, the change itself asks.
        principal.may_define(&spec.tags, "")?;
        self.secure(&principal, vec![(String::new(), &mut spec)]).await?;
        let job = self.change(&principal, id, |job, now| job_changes::replace(job, &spec, expected, now)).await?;
        Ok(self.answer(&job))
    }

    async fn delete_job(&self, request: Request<DeleteJobRequest>) -> Result<Response<DeleteJobResponse>, Status> {
        let principal = auth::caller()?;
        let id = request::id("id", &request.into_inner().id)?;
        self.change(&principal, id, |job, now| Ok(Some(job_changes::delete(job, now)))).await?;
        Ok(Response::new(DeleteJobResponse { id: id.to_string(), deleted: true }))
    }

    async fn validate_job(
        &self,
        request: Request<ValidateJobRequest>,
    ) -> Result<Response<ValidateJobResponse>, Status> {
        let principal = auth::caller()?;
        let message = request.into_inner();
        let existing = match request::id_if_any("id", &message.id)? {
            Some(id) => Some(self.job_config(&principal, id).await?),
            None => None,
        };
        let now = self.store.now().await.map_err(Error::from)?;
        let (mut answer, spec) = validate(message, existing.as_ref(), now);
        if let Some(spec) = spec {
            let rules = self.tenants.rules(principal.tenant()).await.map_err(Error::from)?;
            answer.errors.extend(job_bounds::problems(&rules, &spec, "").into_iter().map(field_error));
            let unknown = self.unknown_secrets(principal.tenant(), &spec, "").await?;
            answer.errors.extend(unknown.into_iter().map(field_error));
            answer.errors.extend(job_rights::problem(&principal, &spec, "").map(field_error));
            answer.valid = answer.errors.is_empty();
        }
        Ok(Response::new(answer))
    }

    async fn trigger_job(&self, request: Request<TriggerJobRequest>) -> Result<Response<Execution>, Status> {
        let principal = auth::caller()?;
        let (metadata, _, message) = request.into_parts();
        let trigger = triggers::read(message, &asking(&principal, &metadata)?)?;
        self.may_touch(&principal, &[trigger.job], "jobs:read", Error::job_not_found).await?;
        Ok(Response::new(convert::execution(&self.trigger_one(trigger).await?)))
    }

    async fn batch_trigger_jobs(
        &self,
        request: Request<BatchTriggerJobsRequest>,
    ) -> Result<Response<BatchTriggerJobsResponse>, Status> {
        let principal = auth::caller()?;
        let (metadata, _, message) = request.into_parts();
        bounded("triggers", message.triggers.len(), MAX_TRIGGERED)?;
        let common = asking(&principal, &metadata)?;
        let triggers = triggers::read_all(message.triggers, &common)?;
        let jobs: BTreeSet<Uuid> = triggers.iter().map(|trigger| trigger.job).collect();
        self.may_touch(&principal, &Vec::from_iter(jobs), "jobs:read", Error::job_not_found).await?;
        let made = self.trigger_all(triggers).await.map_err(Error::from)?;
        Ok(Response::new(BatchTriggerJobsResponse { executions: made.iter().map(convert::execution).collect() }))
    }

    async fn pause_job(&self, request: Request<PauseJobRequest>) -> Result<Response<Job>, Status> {
        let principal = auth::caller()?;
        let id = request::id("id", &request.into_inner().id)?;
        Ok(self.answer(&self.change(&principal, id, job_changes::pause).await?))
    }

    async fn resume_job(&self, request: Request<ResumeJobRequest>) -> Result<Response<Job>, Status> {
        let principal = auth::caller()?;
        let id = request::id("id", &request.into_inner().id)?;
        Ok(self.answer(&self.change(&principal, id, job_changes::resume).await?))
    }

    async fn stop_job(&self, request: Request<StopJobRequest>) -> Result<Response<Job>, Status> {
        let principal = auth::caller()?;
        let id = request::id("id", &request.into_inner().id)?;
        let by = principal.name.clone();
        let job = self.change(&principal, id, |job, now| Ok(Some(job_changes::stop(job, &by, now)))).await?;
        Ok(self.answer(&job))
    }

    async fn preview_job(&self, request: Request<PreviewJobRequest>) -> Result<Response<PreviewResponse>, Status> {
        let principal = auth::caller()?;
        let message = request.into_inner();
        let id = request::id("id", &message.id)?;
        let count = request::preview_count(message.count)?;
        let job = self.job_config(&principal, id).await?;
        let preview = |after, count| timing::preview(&job.spec, job.created_at, after, count);
        let fires = match request::instant("INVALID_ARGUMENT", "after", message.after)? {
            Some(after) => preview(after, count),
            None => {
                let now = self.store.now().await.map_err(Error::from)?;
                self.caches.next_fires(&job, now, count, |count| preview(now, count)).await
            }
        };
        let fires = fires.map_err(|error| {
            let (code, field) = timing::blame(&error);
            Error::field(code, field, error.to_string())
        })?;
        Ok(Response::new(PreviewResponse { fires }))
    }

    async fn explain_job(&self, request: Request<ExplainJobRequest>) -> Result<Response<Explanation>, Status> {
        let principal = auth::caller()?;
        let tenant = principal.tenant();
        let job = self.find_job(&principal, request::id("id", &request.into_inner().id)?).await?;
        let load = self.store.job_load(tenant, job.id).await.map_err(Error::from)?;
        let full = self.full(&explain::gates(&job)).await?;
        let now = self.store.now().await.map_err(Error::from)?;
        let agents = self.store.sessions(tenant, &explain::ALL_AGENTS).await.map_err(Error::from)?;
        let facts = explain::JobFacts { job: &job, load, full: &full, agents: &agents, now };
        Ok(Response::new(explain::job(&facts)))
    }

    async fn list_omissions(
        &self,
        request: Request<ListOmissionsRequest>,
    ) -> Result<Response<ListOmissionsResponse>, Status> {
        let principal = auth::caller()?;
        let message = request.into_inner();
        let job = request::id("jobId", &message.job_id)?;
        let size = page_token::page_size(message.page_size, 50, 1000)?;
        let scope = Scope::new(Listing::Omissions, &[&principal.tenant().to_string(), &job.to_string()]);
        let page = page(&scope, &message.page_token, size)?;
        self.job_config(&principal, job).await?;
        let mut rows = self.store.omissions(principal.tenant(), job, &page).await.map_err(Error::from)?;
        let next_page_token = page_token::cut(&mut rows, size, |row| scope.token(row.id.as_bytes()));
        let omissions = rows.into_iter().map(convert::omission).collect();
        Ok(Response::new(ListOmissionsResponse { omissions, next_page_token }))
    }
}
