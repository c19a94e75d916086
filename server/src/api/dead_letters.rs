//! The calls on dead letters: list them, put them aside, run their work again.

use orrery_proto::v1::dead_letter_service_server::DeadLetterService;
use orrery_proto::v1::{
    DeadLetter, DeadLetterState, DiscardDeadLetterRequest, Execution, GetDeadLetterRequest, ListDeadLettersRequest,
    ListDeadLettersResponse, ReleaseDeadLetterRequest,
};
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::executions::note;
use super::job_calls::asking;
use super::page_token::{self, Listing, Scope, page};
use super::{Api, convert, request, triggers};
use crate::auth::{self, Caller};
use crate::error::Error;
use crate::job::Job;
use crate::store::{self, DeadLetterFilter, Discard, StoreError, Wake};

#[tonic::async_trait]
impl DeadLetterService for Api {
    async fn list_dead_letters(
        &self,
        request: Request<ListDeadLettersRequest>,
    ) -> Result<Response<ListDeadLettersResponse>, Status> {
        let caller = auth::caller()?;
        let tenant = caller.tenant();
        let message = request.into_inner();
        let size = page_token::page_size(message.page_size, 50, 1000)?;
        let state = message.state.filter(|state| *state != 0).map(DeadLetterState::try_from).transpose();
        let state = state.map_err(|_| Error::field("INVALID_ARGUMENT", "state", "is not one of its values"))?;
        let mut filter = DeadLetterFilter { job: request::id_if_any("jobId", &message.job_id)?, jobs: None, state };
        let scope = Scope::new(Listing::DeadLetters, &[&tenant.to_string(), &format!("{filter:?}")]);
        let page = page(&scope, &message.page_token, size)?;
        match filter.job {
            Some(job) => self.may_touch(&caller, &[job], "executions:read", Error::job_not_found).await?,
            None => filter.jobs = self.jobs_in_reach(&caller).await?,
        }
        let mut found = self.store.dead_letters(tenant, &filter, &page).await.map_err(Error::from)?;
        let next_page_token = page_token::cut(&mut found, size, |letter| scope.token(letter.id.as_bytes()));
        let dead_letters = found.into_iter().map(convert::dead_letter).collect();
        Ok(Response::new(ListDeadLettersResponse { dead_letters, next_page_token }))
    }

    async fn get_dead_letter(&self, request: Request<GetDeadLetterRequest>) -> Result<Response<DeadLetter>, Status> {
        let caller = auth::caller()?;
        let execution = request::id("executionId", &request.into_inner().execution_id)?;
        Ok(Response::new(convert::dead_letter(self.find_dead_letter(&caller, execution).await?)))
    }

    async fn discard_dead_letter(
        &self,
        request: Request<DiscardDeadLetterRequest>,
    ) -> Result<Response<DeadLetter>, Status> {
        let principal = auth::caller()?;
        let message = request.into_inner();
        let execution = request::id("executionId", &message.execution_id)?;
        let note = note(message.reason)?;
        if principal.tags().is_some() {
            self.find_dead_letter(&principal, execution).await?;
        }
        let discard = Discard { tenant: principal.tenant(), execution, by: principal.subject, note };
        let letter = self.store.discard_dead_letter(&discard).await.map_err(of_letter(execution))?;
        Ok(Response::new(convert::dead_letter(letter)))
    }

    async fn release_dead_letter(
        &self,
        request: Request<ReleaseDeadLetterRequest>,
    ) -> Result<Response<Execution>, Status> {
        let principal = auth::caller()?;
        let (metadata, _, message) = request.into_parts();
        let id = request::id("executionId", &message.execution_id)?;
        self.find_dead_letter(&principal, id).await?;
        // Its history is kept as long as it is.
        let execution = self.store.execution(principal.tenant(), id).await.map_err(Error::from)?;
        let execution = execution.ok_or_else(|| Error::dead_letter_not_found(id))?;
        // That it was released is its own idempotency: a key adds nothing.
        let asking = triggers::Asking { key: String::new(), ..asking(&principal, &metadata)? };
        let trigger = triggers::again(&execution, "", &asking)?;
        let taken = self.allowance.take(trigger.tenant, 1).await;
        let admission = triggers::admission(None);
        // One that was released answers with what it was released as, whatever the quota.
        let decide = |job: &Job, active: i64, trigger: &store::Trigger| match &taken {
            Ok(()) => admission(job, active, trigger),
            Err(error) => Err(error.clone()),
        };
        let made = self.store.release_dead_letter(&trigger, &decide).await.map_err(of_letter(id));
        if made.is_err() && taken.is_ok() {
            self.allowance.give_back(trigger.tenant, 1);
        }
        let made = made?;
        self.wake(Wake::Work).await;
        Ok(Response::new(convert::execution(&made)))
    }
}

impl Api {
    /// A dead letter of the caller's tenant, of a job within its reach.
    async fn find_dead_letter(&self, caller: &Caller, execution: Uuid) -> Result<store::DeadLetter, Error> {
        let not_found = || Error::dead_letter_not_found(execution);
        let found = self.store.dead_letter(caller.tenant(), execution).await?.ok_or_else(not_found)?;
        self.may_touch_of(caller, found.job_id, not_found()).await?;
        Ok(found)
    }
}

fn of_letter(execution: Uuid) -> impl FnOnce(StoreError) -> Error {
    move |error| match error {
        StoreError::NotFound => Error::dead_letter_not_found(execution),
        other => super::of_one(other),
    }
}
