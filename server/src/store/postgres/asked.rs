//! Jobs that are asked for again and again, in memory. What stands here may be out of date: the statement that goes by it looks whether the
//! job's version and status are still those.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use orrery_proto::v1::JobStatus;
use uuid::Uuid;

use crate::firing::counts_active;
use crate::job::{Job, JobSpec};

/// Jobs kept.
const CAPACITY: usize = 10_000;

/// A job as it was when its lock was last had.
pub(super) struct Asked {
    pub job: Job,
    pub spec: Arc<JobSpec>,
    pub lane: i64,
}

impl Asked {
    /// Whether a trigger of the job is decided by its version and status alone: no count has to be right for it, and nothing of what
    /// is made depends on the instant but the instants.
    fn is_plain(&self) -> bool {
        self.job.status != JobStatus::Inactive
            && self.spec.max_executions.is_none()
            && self.spec.start_deadline_seconds.is_none()
            && !counts_active(&self.spec)
    }

    /// Whether nothing of the job limits how many of its executions run at once.
    pub(super) fn is_free(&self) -> bool {
        self.spec.max_concurrent <= 0 && self.spec.concurrency.is_none()
    }
}

/// Jobs by their id, committed ones in committed lanes only.
#[derive(Default)]
pub(super) struct AskedJobs {
    known: Mutex<HashMap<Uuid, Arc<Asked>>>,
}

impl AskedJobs {
    pub(super) fn get(&self, tenant: Uuid, job: Uuid) -> Option<Arc<Asked>> {
        self.known().get(&job).filter(|asked| asked.job.tenant_id == tenant).cloned()
    }

    /// Keeps a job, if triggers of it are plain.
    pub(super) fn put(&self, job: Job, lane: i64) {
        let spec = Arc::new(job.spec.clone());
        let asked = Asked { job, spec, lane };
        let mut known = self.known();
        if !asked.is_plain() {
            known.remove(&asked.job.id);
            return;
        }
        if known.len() >= CAPACITY {
            // Which ones are asked for again nobody knows; a fresh start costs one read each.
            known.clear();
        }
        known.insert(asked.job.id, Arc::new(asked));
    }

    pub(super) fn forget(&self, job: Uuid) {
        self.known().remove(&job);
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<Uuid, Arc<Asked>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
