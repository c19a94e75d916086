//! Definitions.

use std::collections::BTreeMap;

use async_trait::async_trait;
use sqlx::{QueryBuilder, Sqlite, Transaction};
use uuid::Uuid;

use super::audit::note;
use super::executions::{cancel_all_of, omit};
use super::rows::{self, micros, select_jobs, to_json};
use super::{SqliteStore, Work};
use crate::audit::Deed;
use crate::job::{Job, JobSpec, ScheduleKind};
use crate::store::text::{jsonb, plain};
use crate::store::{ChangeJob, Changed, Idempotency, JobFilter, Jobs, NewJob, Page, Result, StoreError};

const TABLE: &str = "scheduled_jobs";

#[async_trait]
impl Jobs for SqliteStore {
    async fn create_jobs(&self, jobs: Vec<NewJob>, quota: Option<i64>) -> Result<Vec<Job>> {
        let notes = self.notes();
        let mut work = self.write().await?;
        let mut made = Vec::with_capacity(jobs.len());
        let mut fresh: BTreeMap<Uuid, i64> = BTreeMap::new();
        for (index, new) in jobs.into_iter().enumerate() {
            let tenant = new.job.tenant_id;
            // What an earlier item of this call is to make is not there yet.
            if let Some(earlier) = replay(&mut work, tenant, "job", new.idempotency.as_ref(), index).await?
                && (made.iter().any(|(id, _)| *id == earlier) || by_id(&mut work.tx, earlier).await?.is_some())
            {
                made.push((earlier, None));
                continue;
            }
            super::tenants::refuse_suspended(&mut work.tx, tenant).await?;
            remember(&mut work, tenant, "job", new.idempotency.as_ref(), new.job.id).await?;
            *fresh.entry(tenant).or_default() += 1;
            made.push((new.job.id, Some(new.job)));
        }
        if let Some(limit) = quota {
            for (tenant, more) in fresh {
                within_quota(&mut work.tx, tenant, more, limit).await?;
            }
        }
        for (index, (_, fresh)) in made.iter().enumerate() {
            if let Some(job) = fresh {
                let halted_at = job.halted_at.map(|_| work.now);
                let job = Job { version: 1, halted_at, updated_at: work.now, ..job.clone() };
                write(&mut work, &job, index).await?;
                note(&mut work, &notes.changed(index, || Deed::job_created(&job))).await?;
            }
        }
        let mut jobs = Vec::with_capacity(made.len());
        for (id, _) in made {
            jobs.extend(by_id(&mut work.tx, id).await?);
        }
        work.commit().await?;
        Ok(jobs)
    }

    async fn job(&self, tenant: Uuid, id: Uuid) -> Result<Option<Job>> {
        let mut work = self.read().await?;
        of_tenant(&mut work.tx, tenant, id).await
    }

    async fn jobs(&self, tenant: Uuid, filter: &JobFilter, page: &Page) -> Result<Vec<Job>> {
        let mut query = QueryBuilder::<Sqlite>::new(select_jobs!("where j.deleted_at is null and j.tenant_id = "));
        query.push_bind(tenant);
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
            query
                .push(" and exists (select 1 from json_each(j.tags) where value = ")
                .push_bind(plain(tag).into_owned())
                .push(")");
        }
        if let Some(tags) = &filter.any_tag {
            let tags: Vec<_> = tags.iter().map(|tag| plain(tag)).collect();
            query
                .push(" and exists (select 1 from json_each(j.tags) has join json_each(")
                .push_bind(to_json(TABLE, &tags)?)
                .push(") wanted on wanted.value = has.value)");
        }
        if let Some(name) = &filter.name {
            query.push(" and instr(j.name_folded, ").push_bind(plain(name).to_lowercase()).push(") > 0");
        }
        query.push(" order by j.id desc limit ").push_bind(page.limit.max(0));
        let found = query.build().fetch_all(&self.readers).await?;
        found.iter().map(rows::job).collect()
    }

    async fn job_tags(&self, tenant: Uuid, jobs: &[Uuid]) -> Result<Vec<(Uuid, Vec<String>)>> {
        let mut work = self.read().await?;
        let mut found = Vec::new();
        for id in jobs {
            let row = sqlx::query("select tags from scheduled_jobs where tenant_id = ? and id = ?")
                .bind(tenant)
                .bind(id)
                .fetch_optional(&mut *work.tx)
                .await?;
            if let Some(row) = row {
                found.push((*id, rows::json(&row, TABLE, "tags")?));
            }
        }
        Ok(found)
    }

    async fn jobs_tagged(&self, tenant: Uuid, tags: &[String], limit: i64) -> Result<Vec<Uuid>> {
        let tags: Vec<_> = tags.iter().map(|tag| plain(tag)).collect();
        let found = sqlx::query_scalar(
            "select j.id from scheduled_jobs j where j.tenant_id = ?1 and exists \
             (select 1 from json_each(j.tags) has join json_each(?2) wanted on wanted.value = has.value) \
             order by j.id desc limit ?3",
        )
        .bind(tenant)
        .bind(to_json(TABLE, &tags)?)
        .bind(limit.max(0))
        .fetch_all(&self.readers)
        .await?;
        Ok(found)
    }

    async fn change_job(&self, tenant: Uuid, id: Uuid, change: &ChangeJob<'_>) -> Result<Changed> {
        let notes = self.notes();
        let mut work = self.write().await?;
        let before = of_tenant(&mut work.tx, tenant, id).await?.ok_or(StoreError::NotFound)?;
        let change = change(&before, work.now).map_err(|reason| StoreError::Refused(Box::new(reason)))?;
        // Which job it is, whose, and since when, is not for a change to say.
        let job = Job {
            id: before.id,
            tenant_id: before.tenant_id,
            created_by: before.created_by,
            created_at: before.created_at,
            version: before.version + 1,
            updated_at: work.now,
            ..change.job
        };
        write(&mut work, &job, 0).await?;
        if change.unplan {
            unplan(&mut work, id).await?;
        }
        let stops = change.cancel.is_some();
        let cancelled = match change.cancel {
            Some(reason) => cancel_all_of(self, &mut work, id, &reason).await?,
            None => Vec::new(),
        };
        if let Some(omission) = change.omission {
            omit(&mut work.tx, (tenant, id), &omission, work.now).await?;
        }
        let job = by_id(&mut work.tx, id).await?.ok_or(StoreError::NotFound)?;
        note(&mut work, &notes.changed(0, || Deed::job_changed(&before, &job, stops))).await?;
        work.commit().await?;
        Ok(Changed { job, cancelled })
    }
}

/// A job, deleted or not.
pub(super) async fn by_id(tx: &mut Transaction<'static, Sqlite>, id: Uuid) -> Result<Option<Job>> {
    let row = sqlx::query(select_jobs!("where j.id = ?")).bind(id).fetch_optional(&mut **tx).await?;
    row.as_ref().map(rows::job).transpose()
}

/// A tenant's job, unless deleted.
pub(super) async fn of_tenant(tx: &mut Transaction<'static, Sqlite>, tenant: Uuid, id: Uuid) -> Result<Option<Job>> {
    let row = sqlx::query(select_jobs!("where j.id = ? and j.tenant_id = ? and j.deleted_at is null"))
        .bind(id)
        .bind(tenant)
        .fetch_optional(&mut **tx)
        .await?;
    row.as_ref().map(rows::job).transpose()
}

/// The lane of a job's executions.
pub(super) async fn lane_of(tx: &mut Transaction<'static, Sqlite>, job: Uuid) -> Result<i64> {
    let lane =
        sqlx::query_scalar("select lane_id from scheduled_jobs where id = ?").bind(job).fetch_one(&mut **tx).await?;
    Ok(lane)
}

/// What a caller's key has made before, if its request was the same.
pub(super) async fn replay(
    work: &mut Work,
    tenant: Uuid,
    scope: &'static str,
    idempotency: Option<&Idempotency>,
    index: usize,
) -> Result<Option<Uuid>> {
    let Some(idempotency) = idempotency else { return Ok(None) };
    let known: Option<(Vec<u8>, Uuid)> = sqlx::query_as(
        "select request_hash, target_id from idempotency_keys where tenant_id = ? and scope = ? and key = ?",
    )
    .bind(tenant)
    .bind(scope)
    .bind(&idempotency.key)
    .fetch_optional(&mut *work.tx)
    .await?;
    match known {
        None => Ok(None),
        Some((hash, made)) if hash == idempotency.request_hash => Ok(Some(made)),
        Some(_) => Err(StoreError::IdempotencyKeyReused { index }),
    }
}

/// Keeps what a caller's key made. It replaces what has been deleted since.
pub(super) async fn remember(
    work: &mut Work,
    tenant: Uuid,
    scope: &'static str,
    idempotency: Option<&Idempotency>,
    made: Uuid,
) -> Result<()> {
    let Some(idempotency) = idempotency else { return Ok(()) };
    sqlx::query(
        "insert or replace into idempotency_keys (tenant_id, scope, key, request_hash, target_id, created_at) \
         values (?, ?, ?, ?, ?, ?)",
    )
    .bind(tenant)
    .bind(scope)
    .bind(&idempotency.key)
    .bind(idempotency.request_hash.as_slice())
    .bind(made)
    .bind(micros(work.now))
    .execute(&mut *work.tx)
    .await?;
    Ok(())
}

async fn within_quota(tx: &mut Transaction<'static, Sqlite>, tenant: Uuid, more: i64, limit: i64) -> Result<()> {
    let current: i64 =
        sqlx::query_scalar("select count(*) from scheduled_jobs where tenant_id = ? and deleted_at is null")
            .bind(tenant)
            .fetch_one(&mut **tx)
            .await?;
    if current + more > limit { Err(StoreError::QuotaExceeded { limit, current }) } else { Ok(()) }
}

/// Takes back the fires that are planned and not yet due. The job's count falls by those that had been counted, as they were granted ahead
/// and came back.
async fn unplan(work: &mut Work, job: Uuid) -> Result<()> {
    let statement = concat!(
        "delete from live_executions where job_id = ? and run_at > ? and ",
        super::executions::planned!(),
        " returning epoch > 0"
    );
    let gone: Vec<bool> =
        sqlx::query_scalar(statement).bind(job).bind(micros(work.now)).fetch_all(&mut *work.tx).await?;
    let counted = gone.into_iter().filter(|counted| *counted).count();
    sqlx::query("update scheduled_jobs set execution_count = execution_count - ? where id = ?")
        .bind(rows::count(counted))
        .bind(job)
        .execute(&mut *work.tx)
        .await?;
    Ok(())
}

/// Writes a job, new or changed, and its version.
async fn write(work: &mut Work, job: &Job, index: usize) -> Result<()> {
    // JSON escapes NULs, so that the definition is kept as it came.
    let spec_text = to_json(TABLE, &job.spec)?;
    let taken: Option<Uuid> = sqlx::query_scalar(
        "select id from scheduled_jobs where tenant_id = ? and name = ? and deleted_at is null and id <> ?",
    )
    .bind(job.tenant_id)
    .bind(plain(&job.spec.name))
    .bind(job.id)
    .fetch_optional(&mut *work.tx)
    .await?;
    if taken.is_some() && job.deleted_at.is_none() {
        return Err(StoreError::NameTaken { index });
    }
    let lane = lane(&mut work.tx, job.tenant_id, &job.spec).await?;
    upsert(&mut work.tx, job, &spec_text, lane).await?;
    sqlx::query("insert into job_versions (job_id, version, spec, created_at) values (?, ?, ?, ?)")
        .bind(job.id)
        .bind(job.version)
        .bind(&spec_text)
        .bind(micros(work.now))
        .execute(&mut *work.tx)
        .await?;
    super::secrets::insert_of_job(work, job).await?;
    // What has not begun will run the new version, so it has to wait where that can run; what is granted ahead as well, for it is called back.
    sqlx::query(concat!(
        "update live_executions set lane_id = ?1, queue = ?2, priority = ?3 \
         where job_id = ?4 and ((job_version = 0 and state in ('scheduled', 'pending')) or ",
        super::executions::armed_at!("?5"),
        ")"
    ))
    .bind(lane)
    .bind(plain(&job.spec.queue))
    .bind(job.spec.priority)
    .bind(job.id)
    .bind(micros(work.now))
    .execute(&mut *work.tx)
    .await?;
    // A key stays as it was evaluated; how many may share it is the job's to say, also for what runs.
    sqlx::query(
        "update live_executions set key_limit = ?2, concurrency_key = case when ?2 = 0 then '' else concurrency_key end \
         where job_id = ?1 and concurrency_key <> '' and key_limit <> ?2",
    )
    .bind(job.id)
    .bind(job.spec.concurrency.as_ref().map_or(0, |concurrency| concurrency.limit))
    .execute(&mut *work.tx)
    .await?;
    Ok(())
}

async fn upsert(tx: &mut Transaction<'static, Sqlite>, job: &Job, spec_text: &str, lane: i64) -> Result<()> {
    let spec = &job.spec;
    let cron = match &spec.schedule.kind {
        ScheduleKind::Cron(expression) => Some(plain(expression)),
        _ => None,
    };
    sqlx::query(
        "insert into scheduled_jobs (id, tenant_id, name, name_folded, description, cron_expression, timezone, job_type, config, \
         retry_config, timeout_seconds, max_concurrent, status, priority, start_date, end_date, max_executions, execution_count, \
         created_by, tags, created_at, updated_at, last_execution_at, next_execution_at, version, queue, overlap, halted_at, \
         deleted_at, lane_id, spec) \
         values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) \
         on conflict (id) do update set name = excluded.name, name_folded = excluded.name_folded, \
         description = excluded.description, cron_expression = excluded.cron_expression, timezone = excluded.timezone, \
         job_type = excluded.job_type, config = excluded.config, retry_config = excluded.retry_config, \
         timeout_seconds = excluded.timeout_seconds, max_concurrent = excluded.max_concurrent, status = excluded.status, \
         priority = excluded.priority, start_date = excluded.start_date, end_date = excluded.end_date, \
         max_executions = excluded.max_executions, execution_count = excluded.execution_count, tags = excluded.tags, \
         updated_at = excluded.updated_at, last_execution_at = excluded.last_execution_at, \
         next_execution_at = excluded.next_execution_at, version = excluded.version, queue = excluded.queue, \
         overlap = excluded.overlap, halted_at = excluded.halted_at, deleted_at = excluded.deleted_at, lane_id = excluded.lane_id, \
         spec = excluded.spec",
    )
    .bind(job.id)
    .bind(job.tenant_id)
    .bind(plain(&spec.name))
    .bind(plain(&spec.name).to_lowercase())
    .bind(plain(&spec.description))
    .bind(cron)
    .bind(plain(&spec.schedule.timezone))
    .bind(spec.job_type.as_json_str())
    .bind(jsonb(&spec.config))
    .bind(spec.retry.documented().to_string())
    .bind(spec.timeout_seconds)
    .bind(spec.max_concurrent)
    .bind(job.status.as_json_str())
    .bind(spec.priority)
    .bind(spec.start_date.map(micros))
    .bind(spec.end_date.map(micros))
    .bind(spec.max_executions)
    .bind(job.execution_count)
    .bind(job.created_by)
    .bind(jsonb(&to_json(TABLE, &spec.tags)?))
    .bind(micros(job.created_at))
    .bind(micros(job.updated_at))
    .bind(job.last_execution_at.map(micros))
    .bind(job.cursor.map(micros))
    .bind(job.version)
    .bind(plain(&spec.queue))
    .bind(spec.overlap.as_json_str())
    .bind(job.halted_at.map(micros))
    .bind(job.deleted_at.map(micros))
    .bind(lane)
    .bind(spec_text)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// The lane of a definition, made where it is new.
async fn lane(tx: &mut Transaction<'static, Sqlite>, tenant: Uuid, spec: &JobSpec) -> Result<i64> {
    let executor = spec.executor();
    // An update that changes nothing, so that the row is answered whether it is new or not.
    let id = sqlx::query_scalar(
        "insert into lanes (tenant_id, queue, executor, selector) values (?, ?, ?, ?) \
         on conflict (tenant_id, queue, executor, selector) do update set queue = excluded.queue returning id",
    )
    .bind(tenant)
    .bind(plain(&spec.queue))
    .bind(plain(&executor))
    .bind(to_json("lanes", &spec.selector)?)
    .fetch_one(&mut **tx)
    .await?;
    Ok(id)
}
