//! Callers who may only be about jobs with some tags: whether a job, or something of it, is one of those.

use uuid::Uuid;

use super::Api;
use crate::auth::Caller;
use crate::error::{Error, Kind};

/// The most jobs whose executions are listed together.
const MOST_JOBS: usize = 500;

impl Api {
    /// Lets a call be about these jobs, deleted ones included. `sees` is the permission by which what it is about is seen.
    ///
    /// # Errors
    /// `not_found` where the caller may not even see it; PERMISSION_DENIED where it may; the store's.
    pub(super) async fn may_touch(
        &self,
        caller: &Caller,
        jobs: &[Uuid],
        sees: &str,
        not_found: impl Fn(Uuid) -> Error,
    ) -> Result<(), Error> {
        if caller.tags().is_none() {
            return Ok(());
        }
        let found = self.store.job_tags(caller.tenant(), jobs).await?;
        for job in jobs {
            // One that is not there has no tags, and is answered as one that is not seen.
            let tags = found.iter().find(|(id, _)| id == job).map_or(&[][..], |(_, tags)| tags);
            caller.may_touch(tags, sees, || not_found(*job))?;
        }
        Ok(())
    }

    /// Lets a call be about something of a job, such as an execution, whose absence is `not_found`.
    pub(super) async fn may_touch_of(&self, caller: &Caller, job: Uuid, not_found: Error) -> Result<(), Error> {
        self.may_touch(caller, &[job], "executions:read", |_| not_found.clone()).await
    }

    /// The jobs of which a list may show something; `None` where it may show everything.
    ///
    /// # Errors
    /// PERMISSION_DENIED where they are too many for one list: looking through all of history for the few would take long.
    pub(super) async fn jobs_in_reach(&self, caller: &Caller) -> Result<Option<Vec<Uuid>>, Error> {
        let Some(tags) = caller.tags() else { return Ok(None) };
        let limit = i64::try_from(MOST_JOBS + 1).unwrap_or(i64::MAX);
        let jobs = self.store.jobs_tagged(caller.tenant(), tags, limit).await?;
        if jobs.len() <= MOST_JOBS {
            return Ok(Some(jobs));
        }
        let message = format!(
            "jobId: is needed: {} sees jobs with the tag {} only, and of more than {MOST_JOBS} jobs nothing is listed together",
            caller.name,
            tags.join(" or "),
        );
        Err(Error::new(Kind::Denied, "PERMISSION_DENIED", message).with("field", "jobId"))
    }
}

/// What sums up the whole tenant is for those who see all of it.
pub(super) fn whole_tenant(caller: &Caller) -> Result<(), Error> {
    let Some(tags) = caller.tags() else { return Ok(()) };
    let message = format!("jobId: is needed: {} sees jobs with the tag {} only", caller.name, tags.join(" or "));
    Err(Error::new(Kind::Denied, "PERMISSION_DENIED", message).with("field", "jobId"))
}
