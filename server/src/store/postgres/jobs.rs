//! [`Jobs`].

use async_trait::async_trait;
use chrono::{DateTime, SubsecRound, Utc};
use sqlx::{PgConnection, Postgres, QueryBuilder, Row};
use uuid::Uuid;

use super::apply::Locked;
use super::audit::note;
use super::commit::{Tries, commit};
use super::create::{is_name_taken, update};
use super::lanes::Wanted;
use super::rows::{armed, job_columns, live_columns};
use super::{PgStore, retried, rows, write};
use crate::audit::Deed;
use crate::execution::{Event, Execution};
use crate::job::Job;
use crate::store::{ChangeJob, Changed, JobFilter, Jobs, NewJob, Notes, Page, Result, StoreError, text};

#[async_trait]
impl Jobs for PgStore {
    async fn create_jobs(&self, jobs: Vec<NewJob>, quota: Option<i64>) -> Result<Vec<Job>> {
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        let notes = self.notes();
        let mut renamed = 0;
        loop {
            let mut tries = Tries::new(&self.inner.evict);
            match retried!(self, tries, self.try_create(&jobs, quota, tries.is_repeat(), &notes)) {
                // A job was renamed to one of these names meanwhile. Once more: then it is seen, and it is known which.
                Err(error) if is_name_taken(&error) && renamed < 3 => renamed += 1,
                Err(error) if is_name_taken(&error) => return Err(StoreError::NameTaken { index: 0 }),
                done => return done,
            }
        }
    }

    async fn job(&self, tenant: Uuid, id: Uuid) -> Result<Option<Job>> {
        let mut tx = self.read_for(tenant).await?;
        let found = sqlx::query(concat!(
            "select ",
            job_columns!(),
            " from scheduled_jobs j where j.id = $1 and j.tenant_id = $2 and j.deleted_at is null"
        ))
        .bind(id)
        .bind(tenant)
        .fetch_optional(&mut *tx)
        .await?;
        found.map(|row| rows::job(&row, &self.inner.specs)).transpose()
    }

    async fn jobs(&self, tenant: Uuid, filter: &JobFilter, page: &Page) -> Result<Vec<Job>> {
        let mut query =
            QueryBuilder::<Postgres>::new(concat!("select ", job_columns!(), " from scheduled_jobs j where "));
        query.push("j.deleted_at is null and j.tenant_id = ").push_bind(tenant);
        if let Some(after) = page.after {
            query.push(" and j.id < ").push_bind(after);
        }
        if let Some(status) = filter.status {
            query.push(" and j.status = ").push_bind(status.as_json_str());
        }
        if let Some(job_type) = filter.job_type {
            query.push(" and j.job_type = ").push_bind(job_type.as_json_str());
        }
        if let Some(tag) = &filter.tag {
            query.push(" and j.tags ? ").push_bind(text::plain(tag).into_owned());
        }
        if let Some(tags) = &filter.any_tag {
            let tags: Vec<String> = tags.iter().map(|tag| text::plain(tag).into_owned()).collect();
            query.push(" and j.tags ?| ").push_bind(tags);
        }
        if let Some(name) = &filter.name {
            // Not LIKE: what people type may hold its signs.
            query.push(" and strpos(lower(j.name), lower(").push_bind(text::plain(name).into_owned());
            query.push(")) > 0");
        }
        query.push(" order by j.id desc limit ").push_bind(page.limit.max(0));
        let found = query.build().fetch_all(&mut *self.read_for(tenant).await?).await?;
        found.iter().map(|row| rows::job(row, &self.inner.specs)).collect()
    }

    async fn job_tags(&self, tenant: Uuid, jobs: &[Uuid]) -> Result<Vec<(Uuid, Vec<String>)>> {
        let mut tx = self.read_for(tenant).await?;
        let found: Vec<(Uuid, sqlx::types::Json<Vec<String>>)> =
            sqlx::query_as("select id, tags from scheduled_jobs where tenant_id = $1 and id = any($2)")
                .bind(tenant)
                .bind(jobs)
                .fetch_all(&mut *tx)
                .await?;
        Ok(found.into_iter().map(|(id, tags)| (id, tags.0)).collect())
    }

    async fn jobs_tagged(&self, tenant: Uuid, tags: &[String], limit: i64) -> Result<Vec<Uuid>> {
        let mut tx = self.read_for(tenant).await?;
        let tags: Vec<String> = tags.iter().map(|tag| text::plain(tag).into_owned()).collect();
        let found = sqlx::query_scalar(
            "select id from scheduled_jobs where tenant_id = $1 and tags ?| $2 order by id desc limit $3",
        )
        .bind(tenant)
        .bind(tags)
        .bind(limit.max(0))
        .fetch_all(&mut *tx)
        .await?;
        Ok(found)
    }

    async fn change_job(&self, tenant: Uuid, id: Uuid, change: &ChangeJob<'_>) -> Result<Changed> {
        let (mut said, notes) = (None, self.notes());
        match retried!(self, self.try_change((tenant, id), change, &mut said, &notes)) {
            Err(error) if is_name_taken(&error) => Err(StoreError::NameTaken { index: 0 }),
            done => done,
        }
    }
}

impl PgStore {
    /// `said` is what a try before this one answered, whose outcome is unknown, and then what this one does.
    async fn try_change(
        &self,
        (tenant, id): (Uuid, Uuid),
        change: &ChangeJob<'_>,
        said: &mut Option<Changed>,
        notes: &Notes,
    ) -> Result<Changed> {
        let mut tx = self.begin_for(tenant).await?;
        if let Some(changed) = said
            && was_written(&mut tx, &changed.job).await?
        {
            return Ok(changed.clone());
        }
        let found = sqlx::query(concat!(
            "select ",
            job_columns!(),
            " from scheduled_jobs j
             where j.id = $1 and j.tenant_id = $2 and j.deleted_at is null for no key update of j"
        ))
        .bind(id)
        .bind(tenant)
        .fetch_optional(&mut *tx)
        .await?
        .ok_or(StoreError::NotFound)?;
        let before = rows::job(&found, &self.inner.specs)?;
        // After the lock was got, which may have taken a while.
        let now = super::clock(&mut tx).await?;
        let wanted = match change(&before, now) {
            Ok(wanted) => wanted,
            Err(refused) => {
                // Now: a transaction that is dropped ends a moment later, and until then planners pass the job over.
                tx.rollback().await?;
                return Err(StoreError::Refused(Box::new(refused)));
            }
        };
        let mut job = changed(&before, wanted.job, now);
        update(&mut tx, &job).await?;
        self.move_waiting(&mut tx, &job).await?;
        if wanted.unplan {
            job.execution_count -= unplan(&mut tx, id, now).await?;
        }
        let (mut cancelled, stops) = (Vec::new(), wanted.cancel.is_some());
        if let Some(reason) = wanted.cancel {
            let locked = lock_all(&mut tx, &before, now).await?;
            let event = Event::CancelRequested { reason };
            let ended = self.apply_to(&mut tx, locked, now, |_, _| event.clone()).await?;
            cancelled = ended.into_iter().map(|(_, after)| after).collect::<Vec<Execution>>();
        }
        if let Some(omission) = &wanted.omission {
            write::omit(&mut tx, &[(tenant, id, omission)], now).await?;
        }
        job.next_execution_at = next_fire(&mut tx, id).await?.or(job.cursor);
        note(&mut tx, &notes.changed(0, || Deed::job_changed(&before, &job, stops))).await?;
        let changed = Changed { job, cancelled };
        *said = Some(changed.clone());
        commit(tx).await?;
        Ok(changed)
    }
}

impl PgStore {
    /// What has not begun will run the new version, so it has to wait where that can run; what is granted ahead as well, for it is called
    /// back.
    async fn move_waiting(&self, tx: &mut PgConnection, job: &Job) -> Result<()> {
        let lane = self.inner.lanes.ids(tx, &[Wanted::of(job.tenant_id, &job.spec)]).await?;
        sqlx::query(concat!(
            "update live_executions e set lane_id = $2, queue = $3, priority = $4
             where e.job_id = $1 and ((e.job_version = 0 and e.state < 2) or ",
            armed!(),
            ") and (e.lane_id, e.queue, e.priority) is distinct from ($2, $3::text, $4)"
        ))
        .bind(job.id)
        .bind(lane.first())
        .bind(text::plain(&job.spec.queue).into_owned())
        .bind(job.spec.priority)
        .execute(&mut *tx)
        .await?;
        // A key stays as it was evaluated; how many may share it is the job's to say, also for what runs.
        let limit = job.spec.concurrency.as_ref().map_or(0, |concurrency| concurrency.limit);
        sqlx::query(
            "update live_executions set key_limit = $2, concurrency_key = case when $2 = 0 then '' else concurrency_key end
             where tenant_id = $3 and job_id = $1 and concurrency_key <> '' and key_limit <> $2",
        )
        .bind(job.id)
        .bind(limit)
        .bind(job.tenant_id)
        .execute(tx)
        .await?;
        Ok(())
    }
}

/// Whether this version was written, at this instant. The lock of a transaction that was writing it is waited for.
async fn was_written(tx: &mut PgConnection, job: &Job) -> Result<bool> {
    sqlx::query("select 1 from scheduled_jobs where id = $1 for no key update").bind(job.id).execute(&mut *tx).await?;
    let version = "select exists (select 1 from job_versions where job_id = $1 and version = $2 and created_at = $3)";
    let written = sqlx::query_scalar(version).bind(job.id).bind(job.version).bind(job.updated_at).fetch_one(tx).await?;
    Ok(written)
}

/// The job to write: what belongs to the store stays the store's.
fn changed(before: &Job, wanted: Job, now: DateTime<Utc>) -> Job {
    let micros = |at: Option<DateTime<Utc>>| at.map(|at| at.trunc_subsecs(6));
    Job {
        id: before.id,
        tenant_id: before.tenant_id,
        created_by: before.created_by,
        created_at: before.created_at,
        version: before.version + 1,
        updated_at: now,
        cursor: micros(wanted.cursor),
        last_execution_at: micros(wanted.last_execution_at),
        halted_at: micros(wanted.halted_at),
        deleted_at: micros(wanted.deleted_at),
        ..wanted
    }
}

/// Takes back the fires that are planned and not yet due. Answers with how many of them had been counted, as they were granted ahead and
/// came back; the job's count falls by as many.
async fn unplan(tx: &mut PgConnection, job: Uuid, now: DateTime<Utc>) -> Result<i64> {
    Ok(sqlx::query_scalar(
        "with gone as (
            delete from live_executions where job_id = $1 and state = 0 and attempt = 0 and trigger_type = 1 and run_at > $2
            returning epoch
         ), counted as (select count(*) as n from gone where epoch > 0),
         uncounted as (
            update scheduled_jobs set execution_count = execution_count - n from counted where id = $1 and n > 0
         ) select n from counted",
    )
    .bind(job)
    .bind(now)
    .fetch_one(tx)
    .await?)
}

/// Locks what waits or runs of a job: everything but fires that are planned ahead.
async fn lock_all(tx: &mut PgConnection, job: &Job, now: DateTime<Utc>) -> Result<Vec<Locked>> {
    let found = sqlx::query(concat!(
        "select ",
        live_columns!(),
        " from live_executions e join scheduled_jobs j on j.id = e.job_id
         where e.tenant_id = $1 and e.job_id = $2
           and (e.state > 0 or e.attempt > 0 or e.trigger_type <> 1 or e.run_at <= $3) order by e.id for update of e"
    ))
    .bind(job.tenant_id)
    .bind(job.id)
    .bind(now)
    .fetch_all(tx)
    .await?;
    found.iter().map(Locked::of).collect()
}

async fn next_fire(tx: &mut PgConnection, job: Uuid) -> Result<Option<DateTime<Utc>>> {
    let row = sqlx::query(
        "select min(run_at) as next from live_executions
         where job_id = $1 and state = 0 and attempt = 0 and trigger_type = 1",
    )
    .bind(job)
    .fetch_one(tx)
    .await?;
    Ok(row.try_get("next")?)
}
