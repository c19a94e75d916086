//! Executions that somebody asks for.

use chrono::{DateTime, Utc};
use orrery_proto::Json;
use orrery_proto::v1::{TriggerJobRequest, TriggerType};
use serde::Serialize;
use uuid::Uuid;

use super::{Api, json_text, request};
use crate::auth::Principal;
use crate::error::Error;
use crate::execution::Execution;
use crate::firing;
use crate::job::Job;
use crate::store::{StoreError, Trigger, Wake};

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
        let asking = Asking { principal: asking.principal, traceparent: asking.traceparent.clone(), key };
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

/// Decides over triggers, as of an instant.
pub(super) fn admission(now: DateTime<Utc>) -> impl Fn(&Job, i64, &Trigger) -> Result<(), Error> {
    move |job, active, trigger| firing::admit_trigger(job, active, trigger.run_at.is_some_and(|at| at > now))
}

impl Api {
    /// Makes executions, all or none.
    pub(super) async fn trigger_all(&self, triggers: Vec<Trigger>) -> Result<Vec<Execution>, StoreError> {
        let now = self.store.now().await?;
        let made = self.store.trigger(triggers, &admission(now)).await?;
        self.wake(Wake::Work).await;
        Ok(made)
    }

    /// Makes one execution. Where triggers of its job contend, it waits for its turn: of many, all but a few are going to be refused, and
    /// should not hold a connection of the pool meanwhile. A job without a limit takes no lock, and many triggers of one call take none: the
    /// transaction decides either way.
    pub(super) async fn trigger_one(&self, trigger: Trigger) -> Result<Execution, Error> {
        let job = trigger.job;
        let _held = match self.caches.contends(trigger.tenant, job).await {
            true => Some(self.lock_job(job).await?),
            false => None,
        };
        let made = self.trigger_all(vec![trigger]).await.map_err(super::of_job(job))?;
        made.into_iter().next().ok_or_else(|| Error::job_not_found(job))
    }
}
