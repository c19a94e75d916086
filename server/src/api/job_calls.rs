//! What the calls on jobs have in common.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};
use orrery_proto::v1::{
    self, CreateJobRequest, FieldError, JobStatus, JobType, ListJobsRequest, ValidateJobRequest, ValidateJobResponse,
};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Response, Status};
use uuid::Uuid;

use super::job_changes::Decision;
use super::job_secrets::{unmask_any, without_values};
use super::triggers::Asking;
use super::{Api, convert, definition, of_job, request, timing};
use crate::audit::Author;
use crate::auth::{Caller, Principal};
use crate::cache::JobConfig;
use crate::error::{Error, FieldProblem, Kind};
use crate::execution::manual_id;
use crate::job::{Job, JobSpec};
use crate::store::{Changed, JobFilter, NewJob, StoreError, Wake};

/// Says inside of this module that a job is already as it is wanted; no caller sees it.
const UNCHANGED: &str = "UNCHANGED";
/// How many fires a validation shows.
const SHOWN_FIRES: usize = 5;

impl Api {
    /// The definition of a job of the caller's tenant, within its reach, for what does not depend on how far it has come.
    pub(super) async fn job_config(&self, caller: &Caller, id: Uuid) -> Result<JobConfig, Error> {
        let job = self.caches.job(caller.tenant(), id).await?.ok_or_else(|| Error::job_not_found(id))?;
        caller.may_touch(&job.spec.tags, "jobs:read", || Error::job_not_found(id))?;
        Ok(job)
    }

    /// A job of the caller's tenant, within its reach.
    pub(super) async fn find_job(&self, caller: &Caller, id: Uuid) -> Result<Job, Error> {
        let job = self.store.job(caller.tenant(), id).await?.ok_or_else(|| Error::job_not_found(id))?;
        caller.may_touch(&job.spec.tags, "jobs:read", || Error::job_not_found(id))?;
        Ok(job)
    }

    /// Changes a job within the caller's reach as `decide` says, and tells those whom it concerns.
    pub(super) async fn change(
        &self,
        principal: &Caller,
        id: Uuid,
        decide: impl Fn(&Job, DateTime<Utc>) -> Decision + Send + Sync,
    ) -> Result<Job, Error> {
        // Days into whose past the change writes an omission.
        let past = Mutex::new(None);
        let decided = |job: &Job, now: DateTime<Utc>| {
            principal.may_touch(&job.spec.tags, "jobs:read", || Error::job_not_found(id))?;
            let change = decide(job, now)?.ok_or_else(|| Error::new(Kind::Internal, UNCHANGED, "nothing to change"))?;
            *past.lock().unwrap_or_else(PoisonError::into_inner) = change.omission.as_ref().map(|o| (o.from, o.to));
            Ok(change)
        };
        let _held = self.lock_job(id).await?;
        let changing = self.caches.changing(id).await;
        let changed = self.store.change_job(principal.tenant(), id, &decided).await;
        changing.done().await;
        match changed {
            Ok(Changed { job, cancelled }) => {
                self.wake(Wake::Plan).await;
                // What agents run of it may have to end, and what they hold ahead of its instant is called back.
                self.wake(Wake::Cancel).await;
                let past = *past.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some((from, to)) = past {
                    self.caches.forget_days(principal.tenant(), from, to).await;
                }
                self.store.changed(&cancelled.iter().map(|execution| execution.id).collect::<Vec<_>>());
                Ok(job)
            }
            Err(StoreError::Refused(reason)) if reason.code == UNCHANGED => self.find_job(principal, id).await,
            Err(error) => Err(of_job(id)(error)),
        }
    }

    /// Stores jobs, all or none. Whatever the time, a key that came before answers with the job that it made.
    pub(super) async fn create(&self, asked: Vec<Asked>) -> Result<Vec<Job>, StoreError> {
        self.repeated(&asked).await?;
        let most = match asked.first() {
            Some(first) => self.tenants.rules(first.new.job.tenant_id).await?.max_jobs,
            None => 0,
        };
        let jobs = asked.into_iter().map(|asked| asked.new).collect();
        let made = self.store.create_jobs(jobs, Some(most).filter(|most| *most > 0)).await?;
        self.wake(Wake::Plan).await;
        Ok(made)
    }

    /// Fails where it is too late for a job, unless an earlier call with its key has made it.
    async fn repeated(&self, asked: &[Asked]) -> Result<(), StoreError> {
        let late: Vec<usize> = (0..asked.len()).filter(|index| asked[*index].too_late.is_some()).collect();
        if late.is_empty() {
            return Ok(());
        }
        let refused = || {
            let problems = asked.iter().filter_map(|asked| asked.too_late.clone()).collect();
            Err(StoreError::Refused(Box::new(Error::fields(problems))))
        };
        if late.iter().any(|index| asked[*index].new.idempotency.is_none()) {
            return refused();
        }
        // In a tenant that may have no job at all, only those are answered with that are there.
        let jobs = late.iter().map(|index| asked[*index].new.clone()).collect();
        match self.store.create_jobs(jobs, Some(0)).await {
            Ok(_) => Ok(()),
            Err(StoreError::QuotaExceeded { .. }) => refused(),
            Err(StoreError::IdempotencyKeyReused { index }) => {
                Err(StoreError::IdempotencyKeyReused { index: late.get(index).copied().unwrap_or(index) })
            }
            Err(error) => Err(error),
        }
    }

    /// The answer that shows a job, with its version as an `ETag`.
    pub(super) fn answer(&self, job: &Job) -> Response<v1::Job> {
        let mut response = Response::new(convert::job(job, self.limits.timeouts()));
        if let Ok(tag) = MetadataValue::try_from(format!("\"{}\"", job.version)) {
            response.metadata_mut().insert("etag", tag);
        }
        response
    }
}

/// A job to store, and why it is too late for it, if it is: none of its fires lies ahead.
pub(super) struct Asked {
    pub(super) new: NewJob,
    pub(super) too_late: Option<FieldProblem>,
}

/// A job to store. `prefix` stands before the names of its fields.
pub(super) fn new_job(
    message: &CreateJobRequest,
    prefix: &str,
    header_key: &str,
    principal: &Principal,
    now: DateTime<Utc>,
) -> Result<Asked, Error> {
    let spec = definition::read(message, prefix).map_err(Error::fields)?;
    let hashed = without_values(&spec);
    let idempotency = request::idempotency("create", &message.idempotency_key, header_key, &*hashed)?;
    let (cursor, too_late) = match timing::first_fire(&spec, now, now) {
        Ok(cursor) => (cursor, None),
        Err(problem) => (None, Some(FieldProblem { field: format!("{prefix}{}", problem.field), ..problem })),
    };
    Ok(Asked { new: NewJob { job: fresh(spec, cursor, principal, now), idempotency }, too_late })
}

fn fresh(spec: JobSpec, cursor: Option<DateTime<Utc>>, principal: &Principal, now: DateTime<Utc>) -> Job {
    Job {
        // Ordered by time, so that the newest are listed first.
        id: manual_id(now),
        tenant_id: principal.tenant(),
        spec,
        status: JobStatus::Active,
        version: 1,
        cursor,
        execution_count: 0,
        last_execution_at: None,
        halted_at: None,
        tenant_suspended_at: None,
        created_by: principal.subject,
        created_at: now,
        updated_at: now,
        deleted_at: None,
        next_execution_at: cursor,
    }
}

/// Jobs to store; what is wrong with any of them is said at once.
pub(super) fn new_jobs(
    messages: &[CreateJobRequest],
    header_key: &str,
    principal: &Principal,
    now: DateTime<Utc>,
) -> Result<Vec<Asked>, Error> {
    let mut jobs = Vec::with_capacity(messages.len());
    let (mut problems, mut any_is_wrong) = (Vec::new(), false);
    for (index, message) in messages.iter().enumerate() {
        let key =
            if message.idempotency_key.is_empty() { request::key_of_item(header_key, index) } else { String::new() };
        match new_job(message, &format!("jobs[{index}]."), &key, principal, now) {
            Ok(asked) => {
                problems.extend(asked.too_late.clone());
                jobs.push(asked);
            }
            Err(error) => {
                problems.extend(error.fields);
                any_is_wrong = true;
            }
        }
    }
    if any_is_wrong { Err(Error::fields(problems)) } else { Ok(jobs) }
}

/// What is wrong with a definition, or the fires that it will have, and the definition where nothing is.
pub(super) fn validate(
    message: ValidateJobRequest,
    existing: Option<&JobConfig>,
    now: DateTime<Utc>,
) -> (ValidateJobResponse, Option<JobSpec>) {
    let created_at = existing.map_or(now, |job| job.created_at);
    let given = ValidateJobRequest { id: String::new(), ..message };
    let spec = match existing {
        Some(job) if given == ValidateJobRequest::default() => Ok(job.spec.clone()),
        _ => {
            let mut given = definition::of_validate(given);
            let kept = if existing.is_some() { unmask_any(&mut given) } else { BTreeSet::new() };
            definition::read_keeping(&given, "", &kept)
        }
    };
    let checked =
        spec.and_then(|spec| timing::first_fire(&spec, created_at, now).map(|_| spec).map_err(|problem| vec![problem]));
    match checked {
        Ok(spec) => {
            let next_fires = timing::preview(&spec, created_at, now, SHOWN_FIRES).unwrap_or_default();
            (ValidateJobResponse { valid: true, errors: Vec::new(), next_fires }, Some(spec))
        }
        Err(problems) => {
            let errors = problems.into_iter().map(field_error).collect();
            (ValidateJobResponse { valid: false, errors, next_fires: Vec::new() }, None)
        }
    }
}

/// A problem as a validation shows it.
pub(super) fn field_error(problem: FieldProblem) -> FieldError {
    FieldError { field: problem.field, code: problem.code.to_owned(), message: problem.message }
}

/// Which jobs a caller wants to see.
pub(super) fn job_filter(message: &ListJobsRequest) -> Result<JobFilter, Error> {
    let unknown = |field| Error::field("INVALID_ARGUMENT", field, "is not one of its values");
    let status = message.status.filter(|status| *status != 0).map(JobStatus::try_from);
    let job_type = message.job_type.filter(|kind| *kind != 0).map(JobType::try_from);
    let text = |field: &str, text: &str| {
        if text.contains('\0') {
            return Err(Error::field("INVALID_ARGUMENT", field, "has a NUL character; remove it"));
        }
        Ok(Some(text.to_owned()).filter(|text| !text.is_empty()))
    };
    Ok(JobFilter {
        status: status.transpose().map_err(|_| unknown("status"))?,
        job_type: job_type.transpose().map_err(|_| unknown("jobType"))?,
        tag: text("tag", &message.tag)?,
        any_tag: None,
        name: text("name", &message.name)?,
    })
}

/// Who asks for executions.
pub(super) fn asking<'a>(principal: &'a Principal, metadata: &MetadataMap) -> Result<Asking<'a>, Error> {
    Ok(Asking {
        principal,
        author: Author::of_call(),
        traceparent: request::traceparent(metadata),
        key: request::header_key(metadata)?,
    })
}

/// A batch has one item at least, and not too many.
pub(super) fn bounded(field: &str, length: usize, most: usize) -> Result<(), Error> {
    if (1..=most).contains(&length) {
        return Ok(());
    }
    Err(Error::field("INVALID_ARGUMENT", field, format!("there are {length}; give 1 to {most}")))
}

/// An error of a batch of jobs, with the field that it is about.
pub(super) fn of_batch(error: StoreError) -> Status {
    let index = match &error {
        StoreError::NameTaken { index } => Some((*index, "name")),
        StoreError::IdempotencyKeyReused { index } => Some((*index, "idempotencyKey")),
        _ => None,
    };
    let mut error = Error::from(error);
    if let Some((index, field)) = index {
        error.fields.push(FieldProblem {
            field: format!("jobs[{index}].{field}"),
            code: error.code,
            message: error.message.clone(),
        });
    }
    error.into()
}
