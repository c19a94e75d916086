//! Executions that were given up because their agents were lost.

use async_trait::async_trait;
use orrery_proto::v1::{DeadLetterReason, DeadLetterState};
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite, SqliteExecutor, Transaction};
use uuid::Uuid;

use super::audit::note;
use super::reads::among;
use super::rows::{instant, maybe_instant, micros, named};
use super::{SqliteStore, executions};
use crate::audit::Deed;
use crate::execution::Execution;
use crate::store::text::plain;
use crate::store::{
    DeadLetter, DeadLetterFilter, DeadLetters, DecideTrigger, Discard, Page, Result, StoreError, Trigger,
};

const TABLE: &str = "dead_letters";

/// `select` of what [`letter`] reads.
macro_rules! select_letters {
    ($rest:literal) => {
        concat!(
            "select d.*, coalesce((select j.name from scheduled_jobs j where j.id = d.job_id), '') as job_name, \
             coalesce(d.note, '') as noted from dead_letters d ",
            $rest
        )
    };
}

#[async_trait]
impl DeadLetters for SqliteStore {
    async fn dead_letters(&self, tenant: Uuid, filter: &DeadLetterFilter, page: &Page) -> Result<Vec<DeadLetter>> {
        let mut query = QueryBuilder::<Sqlite>::new(select_letters!("where d.tenant_id = "));
        query.push_bind(tenant);
        if let Some(job) = filter.job {
            query.push(" and d.job_id = ").push_bind(job);
        }
        if let Some(jobs) = &filter.jobs {
            among(&mut query, "d.job_id", jobs);
        }
        if let Some(state) = filter.state {
            query.push(" and d.state = ").push_bind(state.as_json_str());
        }
        if let Some(after) = page.after {
            query.push(" and d.id < ").push_bind(after);
        }
        query.push(" order by d.id desc limit ").push_bind(page.limit.max(0));
        let found = query.build().fetch_all(&self.readers).await?;
        found.iter().map(letter).collect()
    }

    async fn dead_letter(&self, tenant: Uuid, execution: Uuid) -> Result<Option<DeadLetter>> {
        read(&self.readers, tenant, execution).await
    }

    async fn discard_dead_letter(&self, discard: &Discard) -> Result<DeadLetter> {
        let notes = self.notes();
        let mut work = self.write().await?;
        let before = read(&mut *work.tx, discard.tenant, discard.execution).await?.ok_or(StoreError::NotFound)?;
        if let Some(refused) = before.undiscardable() {
            return Err(StoreError::Refused(Box::new(refused)));
        }
        sqlx::query(
            "update dead_letters set state = 'discarded', decided_by = ?, decided_at = ?, note = ? \
             where execution_id = ? and state = 'open'",
        )
        .bind(discard.by)
        .bind(micros(work.now))
        .bind(plain(&discard.note))
        .bind(discard.execution)
        .execute(&mut *work.tx)
        .await?;
        let found = read(&mut *work.tx, discard.tenant, discard.execution).await?.ok_or(StoreError::NotFound)?;
        if before != found {
            note(&mut work, &notes.changed(0, || Deed::dead_letter("dead_letters:discard", &before, &found))).await?;
        }
        work.commit().await?;
        Ok(found)
    }

    async fn release_dead_letter(&self, trigger: &Trigger, decide: &DecideTrigger<'_>) -> Result<Execution> {
        let of = trigger.retry_of.ok_or(StoreError::NotFound)?;
        let notes = self.notes();
        let mut work = self.write().await?;
        let found = read(&mut *work.tx, trigger.tenant, of).await?.ok_or(StoreError::NotFound)?;
        if let Some(refused) = found.unreleasable() {
            return Err(StoreError::Refused(Box::new(refused)));
        }
        if let Some(earlier) = found.released_as {
            return executions::any(&mut work.tx, earlier).await?.ok_or(StoreError::NotFound);
        }
        let made = self.trigger_in(&mut work, vec![trigger.clone()], decide).await?;
        let made = made.into_iter().next().ok_or(StoreError::NotFound)?;
        sqlx::query(
            "update dead_letters set state = 'released', released_as = ?, decided_by = ?, decided_at = ? where execution_id = ?",
        )
        .bind(made.id)
        .bind(trigger.by)
        .bind(micros(work.now))
        .bind(of)
        .execute(&mut *work.tx)
        .await?;
        let released = read(&mut *work.tx, trigger.tenant, of).await?.ok_or(StoreError::NotFound)?;
        note(&mut work, &notes.changed(0, || Deed::dead_letter("dead_letters:release", &found, &released))).await?;
        work.commit().await?;
        Ok(made)
    }
}

/// Writes the dead letter that an execution becomes by its end, if it is one, in the transaction that ends it.
pub(super) async fn bury(tx: &mut Transaction<'static, Sqlite>, ended: &Execution) -> Result<()> {
    let Some(letter) = DeadLetter::of(ended) else { return Ok(()) };
    sqlx::query(
        "insert into dead_letters (id, execution_id, tenant_id, job_id, reason, message, losses, last_worker, created_at) \
         values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(letter.id)
    .bind(letter.execution_id)
    .bind(letter.tenant_id)
    .bind(letter.job_id)
    .bind(letter.reason.as_json_str())
    .bind(plain(&letter.message))
    .bind(letter.losses)
    .bind(plain(&letter.last_worker))
    .bind(micros(letter.created_at))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

async fn read(executor: impl SqliteExecutor<'_>, tenant: Uuid, execution: Uuid) -> Result<Option<DeadLetter>> {
    let found = sqlx::query(select_letters!("where d.execution_id = ? and d.tenant_id = ?"))
        .bind(execution)
        .bind(tenant)
        .fetch_optional(executor)
        .await?;
    found.as_ref().map(letter).transpose()
}

fn letter(row: &SqliteRow) -> Result<DeadLetter> {
    Ok(DeadLetter {
        id: row.try_get("id")?,
        execution_id: row.try_get("execution_id")?,
        tenant_id: row.try_get("tenant_id")?,
        job_id: row.try_get("job_id")?,
        job_name: row.try_get("job_name")?,
        reason: named(row, TABLE, "reason", DeadLetterReason::from_json_str)?,
        message: row.try_get("message")?,
        losses: row.try_get("losses")?,
        last_worker: row.try_get("last_worker")?,
        created_at: instant(row, TABLE, "created_at")?,
        state: named(row, TABLE, "state", DeadLetterState::from_json_str)?,
        released_as: row.try_get("released_as")?,
        decided_by: row.try_get("decided_by")?,
        decided_at: maybe_instant(row, TABLE, "decided_at")?,
        note: row.try_get("noted")?,
    })
}
