//! Executions that somebody asks for.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use orrery_proto::Json;
use orrery_proto::v1::{TriggerJobRequest, TriggerType};
use serde::Serialize;
use uuid::Uuid;

use super::{Api, json_text, request};
use crate::audit::Author;
use crate::auth::Principal;
use crate::error::Error;
use crate::execution::Execution;
use crate::firing;
use crate::job::Job;
use crate::store::{DynStore, StoreError, Trigger, Wake};

/// The largest parameters of a run, in bytes of their JSON text.
const MAX_PARAMETERS: usize = 1 << 20;

/// What a key of idempotency stands for.
#[derive(Serialize)]
struct Canonical<'a> {
    job: Uuid,
    parameters: Option<&'a str>,
    run_at: Option<DateTime<Utc>>,
}

/// Who asks, and the trace that the asking is part of.
pub(super) struct Asking<'a> {
    pub(super) principal: &'a Principal,
    /// The same, for the audit log.
    pub(super) author: Option<Arc<Author>>,
    pub(super) traceparent: Option<String>,
    /// Of the `Idempotency-Key` header.
    pub(super) key: String,
}

/// What the store is asked for one trigger. Pure.
pub(super) fn read(message: TriggerJobRequest, asking: &Asking<'_>) -> Result<Trigger, Error> {
    let job = request::id("id", &message.id)?;
    let parameters = parameters(message.parameters)?;
    let run_at = request::instant("INVALID_SCHEDULE", "runAt", message.run_at)?;
    let canonical = Canonical { job, parameters: parameters.as_deref(), run_at };
    let idempotency = request::idempotency("trigger", &message.idempotency_key, &asking.key, &canonical)?;
    Ok(Trigger {
        tenant: asking.principal.tenant(),
        job,
        kind: TriggerType::Manual,
        by: asking.principal.subject,
        author: asking.author.clone(),
        parameters,
        run_at,
        retry_of: None,
        idempotency,
        traceparent: asking.traceparent.clone(),
    })
}

/// What the store is asked for many. An error names the trigger it concerns. Pure.
pub(super) fn read_all(messages: Vec<TriggerJobRequest>, asking: &Asking<'_>) -> Result<Vec<Trigger>, Error> {
    let read = messages.into_iter().enumerate().map(|(index, message)| {
        let key =
            if message.idempotency_key.is_empty() { request::key_of_item(&asking.key, index) } else { String::new() };
        let asking = Asking {
            principal: asking.principal,
            author: asking.author.clone(),
            traceparent: asking.traceparent.clone(),
            key,
        };
        read(message, &asking).map_err(|error| error.under(&format!("triggers[{index}]")).with("index", index))
    });
    read.collect()
}

/// The trigger that repeats a finished execution. Pure.
pub(super) fn again(execution: &Execution, field_key: &str, asking: &Asking<'_>) -> Result<Trigger, Error> {
    let idempotency = request::idempotency("retry", field_key, &asking.key, &execution.id)?;
    Ok(Trigger {
        tenant: asking.principal.tenant(),
        job: execution.job_id,
        kind: TriggerType::Retry,
        by: asking.principal.subject,
        author: asking.author.clone(),
        parameters: execution.parameters.clone(),
        run_at: None,
        retry_of: Some(execution.id),
        idempotency,
        traceparent: asking.traceparent.clone(),
    })
}

fn parameters(json: Option<Json>) -> Result<Option<String>, Error> {
    const CODE: &str = "INVALID_PARAMETERS";
    let Some(text) = json.map(|json| json.text).filter(|text| !text.is_empty() && text != "null") else {
        return Ok(None);
    };
    if text.len() > MAX_PARAMETERS {
        let message = format!("are {} bytes of JSON, more than {MAX_PARAMETERS}", text.len());
        return Err(Error::field(CODE, "parameters", message));
    }
    match json_text::problem(&text) {
        Some(problem) => Err(Error::field(CODE, "parameters", problem)),
        None => Ok(Some(text)),
    }
}

/// Decides over triggers, as of an instant; it is only needed where one of them names a time.
pub(super) fn admission(now: Option<DateTime<Utc>>) -> impl Fn(&Job, i64, &Trigger) -> Result<(), Error> {
    move |job, active, trigger| {
        let later = trigger.run_at.is_some_and(|at| now.is_some_and(|now| at > now));
        firing::admit_trigger(job, active, later)
    }
}

/// The database's clock, where one of these triggers names a time.
///
/// # Errors
/// The store's.
pub(super) async fn clock_for(
    store: &DynStore,
    mut triggers: impl Iterator<Item = &Trigger> + Send,
) -> Result<Option<DateTime<Utc>>, StoreError> {
    match triggers.any(|trigger| trigger.run_at.is_some()) {
        true => store.now().await.map(Some),
        false => Ok(None),
    }
}

impl Api {
    /// Makes executions, all or none.
    pub(super) async fn trigger_all(&self, triggers: Vec<Trigger>) -> Result<Vec<Execution>, StoreError> {
        let Some(tenant) = triggers.first().map(|trigger| trigger.tenant) else { return Ok(Vec::new()) };
        let count = triggers.len();
        if let Err(error) = self.allowance.take(tenant, count).await {
            return self.earlier(triggers, error).await;
        }
        let made = self.try_trigger_all(triggers).await;
        if made.is_err() {
            self.allowance.give_back(tenant, count);
        }
        made
    }

    async fn try_trigger_all(&self, triggers: Vec<Trigger>) -> Result<Vec<Execution>, StoreError> {
        let now = clock_for(&self.store, triggers.iter()).await?;
        let made = self.store.trigger(triggers, &admission(now)).await?;
        self.wake(Wake::Work).await;
        Ok(made)
    }

    /// What keys have made before, where nothing more may be made.
    ///
    /// # Errors
    /// Why not, where any of it was not.
    async fn earlier(&self, triggers: Vec<Trigger>, why: Error) -> Result<Vec<Execution>, StoreError> {
        if triggers.iter().any(|trigger| trigger.idempotency.is_none()) {
            return Err(StoreError::Refused(Box::new(why)));
        }
        self.store.trigger(triggers, &|_, _, _| Err(why.clone())).await
    }

    /// Makes one execution, together with what others ask for at the same time.
    pub(super) async fn trigger_one(&self, trigger: Trigger) -> Result<Execution, Error> {
        let (tenant, job) = (trigger.tenant, trigger.job);
        if let Err(error) = self.allowance.take(tenant, 1).await {
            let earlier = self.earlier(vec![trigger], error).await.map_err(super::of_job(job))?;
            return earlier.into_iter().next().ok_or_else(|| Error::job_not_found(job));
        }
        let made = self.triggers.ask(trigger).await;
        if made.is_err() {
            self.allowance.give_back(tenant, 1);
        }
        made
    }
}
