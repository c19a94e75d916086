//! Rows of executions: how they are read, stepped by an event, and written. Shared by the traits beside.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use orrery_proto::v1::Delivery;
use sqlx::{Sqlite, Transaction};
use uuid::Uuid;

use super::rows::{self, cut, micros, select_finished, select_live};
use super::{SqliteStore, Work};
use crate::execution::{Event, Execution, Policy, Rejected, apply, manual_id};
use crate::job::RetryPolicy;
use crate::store::text::{jsonb, plain};
use crate::store::{Result, StoreError};

/// What takes a place of its job, as [`Execution::is_active`] has it.
macro_rules! active {
    () => {
        "(state in ('pending', 'leased', 'running') or (state = 'scheduled' and attempt > 0))"
    };
}

/// Fires that are planned and not yet released.
macro_rules! planned {
    () => {
        "(state = 'scheduled' and attempt = 0 and trigger_type = 'scheduled')"
    };
}

/// Whether it is granted ahead of its instant, as [`Execution::is_armed`] has it; to be followed by the parameter that is now.
macro_rules! armed_at {
    ($now:literal) => {
        concat!("(state = 'leased' and run_at > ", $now, ")")
    };
}

pub(super) use {active, armed_at, planned};

impl SqliteStore {
    /// The execution after an event, written.
    pub(super) async fn step(
        &self,
        work: &mut Work,
        execution: &Execution,
        event: &Event,
    ) -> Result<std::result::Result<Execution, Rejected>> {
        let next = self.after(work, execution, event).await?;
        if let Ok(next) = &next {
            super::save::save(&mut work.tx, next).await?;
        }
        Ok(next)
    }

    /// The execution after an event, not written.
    pub(super) async fn after(
        &self,
        work: &mut Work,
        execution: &Execution,
        event: &Event,
    ) -> Result<std::result::Result<Execution, Rejected>> {
        let policy = self.policy(work, execution, event).await?;
        Ok(apply(execution, event, &policy, work.now).map(|mut next| {
            cut(&mut next);
            next
        }))
    }

    /// What of the job decides over the event. Only the end of an attempt asks for it.
    async fn policy(&self, work: &mut Work, execution: &Execution, event: &Event) -> Result<Policy> {
        // Every event is named, so that a new one cannot be decided on the wrong policy.
        let ends = match event {
            Event::Finished { .. }
            | Event::Interrupted { .. }
            | Event::LeaseExpired { .. }
            | Event::TimedOut { .. } => true,
            Event::Due
            | Event::Granted { .. }
            | Event::Armed { .. }
            | Event::Started { .. }
            | Event::Progressed { .. }
            | Event::Released { .. }
            | Event::CancelRequested { .. }
            | Event::StartDeadlinePassed => false,
        };
        if !ends || execution.job_version == 0 {
            return Ok(Policy { retry: RetryPolicy::default(), delivery: Delivery::AtLeastOnce, random: 0.0 });
        }
        match self.spec(work, execution.job_id, execution.job_version).await {
            Ok(spec) => Ok(Policy { retry: spec.retry.clone(), delivery: spec.delivery, random: rand::random() }),
            Err(error @ StoreError::Corrupt { .. }) => {
                tracing::error!(execution = %execution.id, %error, "nobody knows whether this is to be repeated; it is not");
                Ok(Policy { retry: RetryPolicy::default(), delivery: Delivery::AtMostOnce, random: 0.0 })
            }
            Err(error) => Err(error),
        }
    }

    /// Asks executions to end; those that an event did change are returned.
    pub(super) async fn cancel_all(
        &self,
        work: &mut Work,
        executions: &[Execution],
        reason: &str,
    ) -> Result<Vec<Execution>> {
        let event = Event::CancelRequested { reason: plain(reason).into_owned() };
        let mut cancelled = Vec::new();
        for execution in executions {
            if let Ok(next) = self.step(work, execution, &event).await? {
                cancelled.push(next);
            }
        }
        Ok(cancelled)
    }
}

/// A live execution.
pub(super) async fn live(tx: &mut Transaction<'static, Sqlite>, id: Uuid) -> Result<Option<Execution>> {
    let row = sqlx::query(select_live!("where id = ?")).bind(id).fetch_optional(&mut **tx).await?;
    row.as_ref().map(rows::live).transpose()
}

/// Those of these executions that are live, in one statement.
pub(super) async fn all_live(
    tx: &mut Transaction<'static, Sqlite>,
    ids: impl Iterator<Item = Uuid>,
) -> Result<BTreeMap<Uuid, Execution>> {
    let ids: BTreeSet<String> = ids.map(|id| id.simple().to_string()).collect();
    let ids = rows::to_json("live_executions", &ids)?;
    let found = sqlx::query(select_live!("where id in (select unhex(value) from json_each(?))"))
        .bind(ids)
        .fetch_all(&mut **tx)
        .await?;
    found.iter().map(|row| rows::live(row).map(|execution| (execution.id, execution))).collect()
}

/// A finished execution.
pub(super) async fn finished(tx: &mut Transaction<'static, Sqlite>, id: Uuid) -> Result<Option<Execution>> {
    let row = sqlx::query(select_finished!("where id = ?")).bind(id).fetch_optional(&mut **tx).await?;
    row.as_ref().map(rows::finished).transpose()
}

/// An execution, wherever it stands.
pub(super) async fn any(tx: &mut Transaction<'static, Sqlite>, id: Uuid) -> Result<Option<Execution>> {
    match live(tx, id).await? {
        Some(execution) => Ok(Some(execution)),
        None => finished(tx, id).await,
    }
}

/// Inserts a live execution; `false` where it exists, live or finished.
pub(super) async fn insert(tx: &mut Transaction<'static, Sqlite>, execution: &Execution) -> Result<bool> {
    let done = sqlx::query(
        "insert into live_executions (id, tenant_id, job_id, trigger_type, triggered_by, lane_id, queue, priority, \
         scheduled_at, run_at, created_at, state, parameters, retry_of, traceparent, start_by, concurrency_key, \
         key_limit) \
         select ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18 \
         where not exists (select 1 from job_executions where id = ?1) on conflict (id) do nothing",
    )
    .bind(execution.id)
    .bind(execution.tenant_id)
    .bind(execution.job_id)
    .bind(execution.trigger.as_json_str())
    .bind(execution.triggered_by)
    .bind(execution.lane_id)
    .bind(&execution.queue)
    .bind(execution.priority)
    .bind(micros(execution.scheduled_at))
    .bind(micros(execution.run_at))
    .bind(micros(execution.created_at))
    .bind(execution.state.name())
    .bind(execution.parameters.as_deref().map(plain))
    .bind(execution.retry_of)
    .bind(execution.traceparent.as_deref().map(plain))
    .bind(execution.start_by.map(micros))
    .bind(execution.concurrency.as_ref().map(|c| plain(&c.key)).unwrap_or_default())
    .bind(execution.concurrency.as_ref().map_or(0, |c| c.limit))
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Takes a live execution away, as though it had never been.
pub(super) async fn delete(tx: &mut Transaction<'static, Sqlite>, id: Uuid) -> Result<()> {
    sqlx::query("delete from live_executions where id = ?").bind(id).execute(&mut **tx).await?;
    Ok(())
}

/// The active executions of a job but one, and but what is granted ahead.
pub(super) async fn active_of(work: &mut Work, job: Uuid, but: Uuid) -> Result<Vec<Execution>> {
    let others =
        select_live!("where job_id = ?1 and id <> ?2 and ", active!(), " and not ", armed_at!("?3"), " order by id");
    let found = sqlx::query(others).bind(job).bind(but).bind(micros(work.now)).fetch_all(&mut *work.tx).await?;
    found.iter().map(rows::live).collect()
}

/// The event with texts that every engine can keep.
pub(super) fn clean(event: Event) -> Event {
    match event {
        Event::Finished { session_id, epoch, mut report } => {
            report.result = report.result.map(|json| jsonb(&json).into_owned());
            report.error_message = plain(&report.error_message).into_owned();
            report.error_stack = plain(&report.error_stack).into_owned();
            Event::Finished { session_id, epoch, report }
        }
        Event::CancelRequested { reason } => Event::CancelRequested { reason: plain(&reason).into_owned() },
        other => other,
    }
}

/// Records fires that did not happen.
pub(super) async fn omit(
    tx: &mut Transaction<'static, Sqlite>,
    (tenant, job): (Uuid, Uuid),
    omission: &crate::store::NewOmission,
    now: DateTime<Utc>,
) -> Result<()> {
    sqlx::query(
        "insert into fire_omissions (id, tenant_id, job_id, created_at, reason, from_at, to_at, count, detail) \
         values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(manual_id(now))
    .bind(tenant)
    .bind(job)
    .bind(micros(now))
    .bind(plain(&omission.reason))
    .bind(micros(omission.from))
    .bind(micros(omission.to))
    .bind(omission.count)
    .bind(plain(&omission.detail))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Ends what of a job waits or runs: all but the fires that are planned ahead.
pub(super) async fn cancel_all_of(
    store: &SqliteStore,
    work: &mut Work,
    job: Uuid,
    reason: &str,
) -> Result<Vec<Execution>> {
    let found = sqlx::query(select_live!("where job_id = ? and not (run_at > ? and ", planned!(), ") order by id"))
        .bind(job)
        .bind(micros(work.now))
        .fetch_all(&mut *work.tx)
        .await?;
    let executions = found.iter().map(rows::live).collect::<Result<Vec<_>>>()?;
    store.cancel_all(work, &executions, reason).await
}
