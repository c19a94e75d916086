//! [`DeadLetters`].

use async_trait::async_trait;
use orrery_proto::v1::{DeadLetterReason, DeadLetterState};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::audit::note;
use super::commit::commit;
use super::{PgStore, retried, rows};
use crate::audit::Deed;
use crate::execution::Execution;
use crate::store::{
    DeadLetter, DeadLetterFilter, DeadLetters, DecideTrigger, Discard, Notes, Page, Result, StoreError, Trigger, text,
};

const TABLE: &str = "dead_letters";

/// `select` of what [`letter`] reads.
macro_rules! select_letters {
    ($rest:literal) => {
        concat!(
            "select d.id, d.execution_id, d.tenant_id, d.job_id, coalesce(j.name, '') as job_name, d.reason, d.message, d.losses,
                d.last_worker, d.created_at, d.state, d.released_as, d.decided_by, d.decided_at, coalesce(d.note, '') as note
             from dead_letters d left join scheduled_jobs j on j.id = d.job_id ",
            $rest
        )
    };
}

#[async_trait]
impl DeadLetters for PgStore {
    async fn dead_letters(&self, tenant: Uuid, filter: &DeadLetterFilter, page: &Page) -> Result<Vec<DeadLetter>> {
        let found = sqlx::query(select_letters!(
            "where d.tenant_id = $1 and ($2::uuid is null or d.job_id = $2) and ($3::text is null or d.state = $3)
                and ($4::uuid is null or d.id < $4) and ($6::uuid[] is null or d.job_id = any($6)) order by d.id desc limit $5"
        ))
        .bind(tenant)
        .bind(filter.job)
        .bind(filter.state.map(|state| state.as_json_str()))
        .bind(page.after)
        .bind(page.limit.max(0))
        .bind(&filter.jobs)
        .fetch_all(&mut *self.read_for(tenant).await?)
        .await?;
        found.iter().map(letter).collect()
    }

    async fn dead_letter(&self, tenant: Uuid, execution: Uuid) -> Result<Option<DeadLetter>> {
        read(&mut *self.read_for(tenant).await?, tenant, execution).await
    }

    async fn discard_dead_letter(&self, discard: &Discard) -> Result<DeadLetter> {
        let notes = self.notes();
        retried!(self, self.try_discard(discard, &notes))
    }

    async fn release_dead_letter(&self, trigger: &Trigger, decide: &DecideTrigger<'_>) -> Result<Execution> {
        let notes = self.notes();
        retried!(self, self.try_release_letter(trigger, decide, &notes))
    }
}

impl PgStore {
    async fn try_discard(&self, discard: &Discard, notes: &Notes) -> Result<DeadLetter> {
        let mut tx = self.begin_for(discard.tenant).await?;
        let before = lock(&mut tx, discard.tenant, discard.execution).await?;
        if let Some(refused) = before.undiscardable() {
            return Err(StoreError::Refused(Box::new(refused)));
        }
        sqlx::query(
            "update dead_letters set state = 'discarded', decided_by = $2, decided_at = clock_timestamp(), note = $3
             where execution_id = $1 and state = 'open'",
        )
        .bind(discard.execution)
        .bind(discard.by)
        .bind(text::plain(&discard.note))
        .execute(&mut *tx)
        .await?;
        let letter = read(&mut tx, discard.tenant, discard.execution).await?.ok_or(StoreError::NotFound)?;
        if before != letter {
            note(&mut tx, &notes.changed(0, || Deed::dead_letter("dead_letters:discard", &before, &letter))).await?;
        }
        commit(tx).await?;
        Ok(letter)
    }

    async fn try_release_letter(
        &self,
        trigger: &Trigger,
        decide: &DecideTrigger<'_>,
        notes: &Notes,
    ) -> Result<Execution> {
        let of = trigger.retry_of.ok_or(StoreError::NotFound)?;
        let mut tx = self.begin_for(trigger.tenant).await?;
        // Who comes second waits here, and finds it released.
        let letter = lock(&mut tx, trigger.tenant, of).await?;
        if let Some(refused) = letter.unreleasable() {
            return Err(StoreError::Refused(Box::new(refused)));
        }
        if let Some(earlier) = letter.released_as {
            let made = super::reads::by_ids(&mut tx, &[earlier]).await?;
            return made.into_iter().next().ok_or(StoreError::NotFound);
        }
        let made = self.trigger_in(&mut tx, std::slice::from_ref(trigger), decide, &mut None).await?;
        let made = made.into_iter().next().ok_or(StoreError::NotFound)?;
        sqlx::query(
            "update dead_letters set state = 'released', released_as = $2, decided_by = $3, decided_at = clock_timestamp()
             where execution_id = $1",
        )
        .bind(of)
        .bind(made.id)
        .bind(trigger.by)
        .execute(&mut *tx)
        .await?;
        let released = read(&mut tx, trigger.tenant, of).await?.ok_or(StoreError::NotFound)?;
        note(&mut tx, &notes.changed(0, || Deed::dead_letter("dead_letters:release", &letter, &released))).await?;
        commit(tx).await?;
        Ok(made)
    }
}

/// Writes the dead letters among executions that end, in the transaction that ends them.
pub(super) async fn bury(connection: &mut PgConnection, ended: &[&Execution]) -> Result<()> {
    for letter in ended.iter().filter_map(|execution| DeadLetter::of(execution)) {
        sqlx::query(
            "insert into dead_letters (id, execution_id, tenant_id, job_id, reason, message, losses, last_worker, created_at)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .bind(letter.id)
        .bind(letter.execution_id)
        .bind(letter.tenant_id)
        .bind(letter.job_id)
        .bind(letter.reason.as_json_str())
        .bind(text::plain(&letter.message))
        .bind(letter.losses)
        .bind(text::plain(&letter.last_worker))
        .bind(letter.created_at)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

async fn lock(tx: &mut PgConnection, tenant: Uuid, execution: Uuid) -> Result<DeadLetter> {
    sqlx::query("select 1 from dead_letters where execution_id = $1 and tenant_id = $2 for update")
        .bind(execution)
        .bind(tenant)
        .execute(&mut *tx)
        .await?;
    read(tx, tenant, execution).await?.ok_or(StoreError::NotFound)
}

async fn read(connection: &mut PgConnection, tenant: Uuid, execution: Uuid) -> Result<Option<DeadLetter>> {
    let found = sqlx::query(select_letters!("where d.execution_id = $1 and d.tenant_id = $2"))
        .bind(execution)
        .bind(tenant)
        .fetch_optional(connection)
        .await?;
    found.as_ref().map(letter).transpose()
}

fn letter(row: &PgRow) -> Result<DeadLetter> {
    let (reason, state) = (rows::text(row, "reason")?, rows::text(row, "state")?);
    Ok(DeadLetter {
        id: row.try_get("id")?,
        execution_id: row.try_get("execution_id")?,
        tenant_id: row.try_get("tenant_id")?,
        job_id: row.try_get("job_id")?,
        job_name: row.try_get("job_name")?,
        reason: DeadLetterReason::from_json_str(reason).ok_or_else(|| rows::corrupt(TABLE, "reason", reason))?,
        message: row.try_get("message")?,
        losses: row.try_get("losses")?,
        last_worker: row.try_get("last_worker")?,
        created_at: row.try_get("created_at")?,
        state: DeadLetterState::from_json_str(state).ok_or_else(|| rows::corrupt(TABLE, "state", state))?,
        released_as: row.try_get("released_as")?,
        decided_by: row.try_get("decided_by")?,
        decided_at: row.try_get("decided_at")?,
        note: row.try_get("note")?,
    })
}
