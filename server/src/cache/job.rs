//! `scheduler:job_config:{jobId}`, and what a change of a job does to the caches.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Caches, Read};
use crate::job::{Job, JobSpec};
use crate::store::StoreError;

const LIFE: Duration = Duration::from_secs(3600);

/// The definition of a job. What changes as it fires is not here, and neither is the executor's config: it may hold secrets, and nobody who
/// reads the cache needs it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobConfig {
    pub id: Uuid,
    pub tenant_id: Uuid,
    pub version: i64,
    pub created_at: DateTime<Utc>,
    pub spec: JobSpec,
}

impl JobConfig {
    fn of(job: Job) -> Self {
        let Job { id, tenant_id, version, created_at, spec, .. } = job;
        Self { id, tenant_id, version, created_at, spec: JobSpec { config: String::new(), ..spec } }
    }
}

/// A change of a job that is on its way. The caches of the job answer nothing until it is done.
#[must_use]
pub struct Changing {
    caches: Caches,
    keys: Vec<String>,
    /// What to take the fences away by; `None` where they could not be put up.
    fence: Option<String>,
    is_done: bool,
}

pub(super) fn key(id: Uuid) -> String {
    format!("scheduler:job_config:{id}")
}

impl Caches {
    /// The definition of a job of this tenant.
    ///
    /// # Errors
    /// The store's.
    pub async fn job(&self, tenant: Uuid, id: Uuid) -> Result<Option<JobConfig>, StoreError> {
        let read = async {
            let job = self.inner.store.job(tenant, id).await?;
            Ok(job.map(|job| Read { value: JobConfig::of(job), life: LIFE }))
        };
        let found = self.through("job_config", &key(id), |_: &JobConfig| true, read).await?;
        // What another tenant has is not there for this one.
        Ok(found.filter(|job| job.tenant_id == tenant))
    }

    /// To be called before a job is changed; the caches answer again once what this returns is done.
    pub async fn changing(&self, job: Uuid) -> Changing {
        let keys = vec![key(job), super::fires::key(job)];
        let fence = match &self.inner.entries {
            Some(entries) => entries.put_up(&keys).await.ok(),
            None => None,
        };
        if fence.is_none() && self.inner.entries.is_some() {
            self.distrust().await;
        }
        Changing { caches: self.clone(), keys, fence, is_done: false }
    }
}

impl Changing {
    /// The change has happened, or has not. Whoever is told of it after this finds nothing of before.
    pub async fn done(mut self) {
        self.is_done = true;
        end(self.caches.clone(), std::mem::take(&mut self.keys), self.fence.take()).await;
    }
}

impl Drop for Changing {
    fn drop(&mut self) {
        // A caller that has gone away takes its call with it, and not what the database has committed.
        if !self.is_done
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(end(self.caches.clone(), std::mem::take(&mut self.keys), self.fence.take()));
        }
    }
}

async fn end(caches: Caches, keys: Vec<String>, fence: Option<String>) {
    let Some(entries) = &caches.inner.entries else { return };
    let cleared = match &fence {
        Some(fence) => entries.clear(&keys, fence).await.is_ok(),
        None => false,
    };
    // A reader may have filled in, under the generation that began before the change, what it read before the commit.
    if !cleared {
        caches.distrust().await;
    }
}
