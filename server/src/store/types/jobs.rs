//! Definitions.

use orrery_proto::v1::{JobStatus, JobType};

use super::NewOmission;
use crate::execution::Execution;
use crate::job::Job;

/// A job to insert. `job.version` is 1. `created_at` is the caller's reading of the database's clock, and stays: its cursor was counted from it.
#[derive(Clone, Debug)]
pub struct NewJob {
    pub job: Job,
    pub idempotency: Option<Idempotency>,
}

/// A caller's key, and a hash of the request it came with, so that the same key with another request is noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    pub key: String,
    pub request_hash: [u8; 32],
}

/// Which jobs to list.
#[derive(Clone, Debug, Default)]
pub struct JobFilter {
    pub status: Option<JobStatus>,
    pub job_type: Option<JobType>,
    pub tag: Option<String>,
    /// Only jobs with one of these tags.
    pub any_tag: Option<Vec<String>>,
    /// Part of the name, whatever the case.
    pub name: Option<String>,
}

/// What to write of a changed job.
#[derive(Clone, Debug)]
pub struct JobChange {
    /// The job after the change; the store sets `version` (one more) and `updated_at`.
    pub job: Job,
    /// Take back the fires that are planned and not yet due.
    pub unplan: bool,
    /// End what waits or runs, with this reason.
    pub cancel: Option<String>,
    pub omission: Option<NewOmission>,
}

/// What a change of a job did.
#[derive(Clone, Debug)]
pub struct Changed {
    pub job: Job,
    /// Executions that were cancelled, or are asked to end and still hold a lease.
    pub cancelled: Vec<Execution>,
}
