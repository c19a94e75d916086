//! New jobs, and how jobs are written.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use chrono::{DateTime, SubsecRound, Utc};
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::audit::note;
use super::commit::commit;
use super::idempotency::reserve;
use super::rows::job_columns;
use super::{PgStore, rows, violated};
use crate::audit::Deed;
use crate::error::Error;
use crate::job::{Job, JobSpec, ScheduleKind};
use crate::store::{AuditEntry, Idempotency, NewJob, Notes, Result, StoreError, text};

/// Inserts jobs from 29 columns.
macro_rules! insert_jobs {
    () => {
        "insert into scheduled_jobs (id, tenant_id, created_by, name, description, cron_expression, timezone, job_type, config,
            retry_config, timeout_seconds, max_concurrent, status, priority, start_date, end_date, max_executions,
            execution_count, tags, created_at, updated_at, last_execution_at, next_execution_at, version, queue, overlap,
            halted_at, deleted_at, spec)
         select id, tenant_id, created_by, name, description, cron_expression, timezone, job_type, config::jsonb,
            retry_config::jsonb, timeout_seconds, max_concurrent, status, priority, start_date, end_date, max_executions,
            execution_count, tags::jsonb, created_at, updated_at, last_execution_at, next_execution_at, version, queue, overlap,
            halted_at, deleted_at, spec
         from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
            $10::text[], $11::integer[], $12::integer[], $13::text[], $14::integer[], $15::timestamptz[], $16::timestamptz[],
            $17::bigint[], $18::bigint[], $19::text[], $20::timestamptz[], $21::timestamptz[], $22::timestamptz[],
            $23::timestamptz[], $24::bigint[], $25::text[], $26::text[], $27::timestamptz[], $28::timestamptz[], $29::text[]) as
            u(id, tenant_id, created_by, name, description, cron_expression, timezone, job_type, config, retry_config,
            timeout_seconds, max_concurrent, status, priority, start_date, end_date, max_executions, execution_count, tags,
            created_at, updated_at, last_execution_at, next_execution_at, version, queue, overlap, halted_at, deleted_at, spec)"
    };
}

impl PgStore {
    /// `is_repeat`: a try before this one may have made them.
    pub(super) async fn try_create(
        &self,
        jobs: &[NewJob],
        quota: Option<i64>,
        is_repeat: bool,
        notes: &Notes,
    ) -> Result<Vec<Job>> {
        let mut tx = self.begin_all(jobs.iter().map(|new| new.job.tenant_id)).await?;
        self.lock_tenants(&mut tx, jobs).await?;
        let now = super::clock(&mut tx).await?;
        let items: Vec<(Uuid, Option<&Idempotency>)> =
            jobs.iter().map(|new| (new.job.tenant_id, new.idempotency.as_ref())).collect();
        let mut keyed = reserve(&mut tx, "job", &items, jobs.iter().map(|new| new.job.id).collect(), now).await?;
        keyed.check()?;
        if is_repeat {
            let made: HashSet<Uuid> =
                self.jobs_by_id(&mut tx, &keyed.ids).await?.into_iter().map(|job| job.id).collect();
            keyed.are_made(&made);
        }
        let fresh: Vec<(usize, Job)> = jobs
            .iter()
            .enumerate()
            .filter(|(index, _)| keyed.fresh[*index])
            .map(|(index, new)| (index, begun(new.job.clone(), now)))
            .collect();
        check_quota(&mut tx, &fresh, quota).await?;
        check_names(&mut tx, &fresh).await?;
        insert(&mut tx, &fresh).await?;
        let noted: Vec<AuditEntry> =
            fresh.iter().filter_map(|(index, job)| notes.changed(*index, || Deed::job_created(job))).collect();
        note(&mut tx, &noted).await?;
        let mut known: HashMap<Uuid, Job> = fresh.into_iter().map(|(_, job)| (job.id, job)).collect();
        let earlier: Vec<Uuid> = keyed.ids.iter().filter(|id| !known.contains_key(id)).copied().collect();
        if !earlier.is_empty() {
            known.extend(self.jobs_by_id(&mut tx, &earlier).await?.into_iter().map(|job| (job.id, job)));
        }
        commit(tx).await?;
        keyed.ids.iter().map(|id| known.get(id).cloned().ok_or(StoreError::NotFound)).collect()
    }

    /// One creation of a tenant at a time, so that quota and names are counted as they will be.
    async fn lock_tenants(&self, tx: &mut PgConnection, jobs: &[NewJob]) -> Result<()> {
        let tenants: BTreeSet<Uuid> = jobs.iter().map(|new| new.job.tenant_id).collect();
        for tenant in tenants {
            self.lock_tenant(tx, tenant).await?;
            refuse_suspended(tx, tenant).await?;
        }
        Ok(())
    }

    /// Lets nobody else make jobs of a tenant, or change it, until the transaction ends.
    pub(super) async fn lock_tenant(&self, tx: &mut PgConnection, tenant: Uuid) -> Result<()> {
        let (high, low) = tenant.as_u64_pair();
        let key = self.inner.scope ^ (high ^ low.rotate_left(17)).cast_signed();
        sqlx::query("select pg_advisory_xact_lock($1)").bind(key).execute(&mut *tx).await?;
        Ok(())
    }

    async fn jobs_by_id(&self, tx: &mut PgConnection, ids: &[Uuid]) -> Result<Vec<Job>> {
        let found = sqlx::query(concat!("select ", job_columns!(), " from scheduled_jobs j where j.id = any($1)"))
            .bind(ids)
            .fetch_all(tx)
            .await?;
        found.iter().map(|row| rows::job(row, &self.inner.specs)).collect()
    }
}

/// A job as it is at its beginning.
fn begun(job: Job, now: DateTime<Utc>) -> Job {
    let cursor = job.cursor.map(|at| at.trunc_subsecs(6));
    Job { version: 1, cursor, halted_at: job.halted_at.map(|_| now), updated_at: now, next_execution_at: cursor, ..job }
}

/// Under the lock of the tenant: what is made before its suspension is told of it, and nothing is made after it.
async fn refuse_suspended(tx: &mut PgConnection, tenant: Uuid) -> Result<()> {
    let suspended = "select suspend_reason from tenants where id = $1 and suspended_at is not null";
    let suspended: Option<String> = sqlx::query_scalar(suspended).bind(tenant).fetch_optional(tx).await?;
    match suspended {
        Some(reason) => Err(StoreError::Refused(Box::new(Error::tenant_suspended(&reason)))),
        None => Ok(()),
    }
}

async fn check_quota(tx: &mut PgConnection, fresh: &[(usize, Job)], quota: Option<i64>) -> Result<()> {
    let Some(limit) = quota else { return Ok(()) };
    let mut wanted: BTreeMap<Uuid, i64> = BTreeMap::new();
    for (_, job) in fresh {
        *wanted.entry(job.tenant_id).or_default() += 1;
    }
    for (tenant, more) in wanted {
        let count = "select count(*) from scheduled_jobs where tenant_id = $1 and deleted_at is null";
        let current: i64 = sqlx::query_scalar(count).bind(tenant).fetch_one(&mut *tx).await?;
        if current + more > limit {
            return Err(StoreError::QuotaExceeded { limit, current });
        }
    }
    Ok(())
}

/// Finds the first job whose name is taken, by another job or by an earlier one of the same call.
async fn check_names(tx: &mut PgConnection, fresh: &[(usize, Job)]) -> Result<()> {
    let name = |job: &Job| text::plain(&job.spec.name).into_owned();
    // Each name by itself, and by the index that has them in order: while PostgreSQL has not counted a table's rows it takes it for empty, and
    // compares each name with each job.
    let taken = sqlx::query(
        "select j.tenant_id, j.name from unnest($1::uuid[], $2::text[]) as u(tenant_id, name) cross join lateral (
            select s.tenant_id, s.name from scheduled_jobs s
            where s.tenant_id = u.tenant_id and s.name = u.name and s.deleted_at is null order by s.tenant_id, s.name limit 1) j",
    )
    .bind(fresh.iter().map(|(_, job)| job.tenant_id).collect::<Vec<_>>())
    .bind(fresh.iter().map(|(_, job)| name(job)).collect::<Vec<_>>())
    .fetch_all(tx)
    .await?;
    let mut seen: HashSet<(Uuid, String)> = HashSet::with_capacity(fresh.len());
    for row in &taken {
        seen.insert((row.try_get("tenant_id")?, row.try_get("name")?));
    }
    for (index, job) in fresh {
        if !seen.insert((job.tenant_id, name(job))) {
            return Err(StoreError::NameTaken { index: *index });
        }
    }
    Ok(())
}

async fn insert(tx: &mut PgConnection, fresh: &[(usize, Job)]) -> Result<()> {
    if fresh.is_empty() {
        return Ok(());
    }
    let jobs: Vec<&Job> = fresh.iter().map(|(_, job)| job).collect();
    write_jobs(tx, insert_jobs!(), &jobs).await?;
    write_versions(tx, &jobs).await
}

/// Writes a changed job, whose row the caller holds.
pub(super) async fn update(tx: &mut PgConnection, job: &Job) -> Result<()> {
    let sql = concat!(
        insert_jobs!(),
        " on conflict (id) do update set name = excluded.name, description = excluded.description,
            cron_expression = excluded.cron_expression, timezone = excluded.timezone, job_type = excluded.job_type,
            config = excluded.config, retry_config = excluded.retry_config, timeout_seconds = excluded.timeout_seconds,
            max_concurrent = excluded.max_concurrent, status = excluded.status, priority = excluded.priority,
            start_date = excluded.start_date, end_date = excluded.end_date, max_executions = excluded.max_executions,
            execution_count = excluded.execution_count, tags = excluded.tags, updated_at = excluded.updated_at,
            last_execution_at = excluded.last_execution_at, next_execution_at = excluded.next_execution_at,
            version = excluded.version, queue = excluded.queue, overlap = excluded.overlap, halted_at = excluded.halted_at,
            deleted_at = excluded.deleted_at, spec = excluded.spec"
    );
    write_jobs(tx, sql, &[job]).await?;
    write_versions(tx, &[job]).await
}

async fn write_jobs(tx: &mut PgConnection, sql: &'static str, jobs: &[&Job]) -> Result<()> {
    fn of<T>(jobs: &[&Job], column: impl Fn(&Job) -> T) -> Vec<T> {
        jobs.iter().map(|job| column(job)).collect()
    }
    let plain = |text: &str| text::plain(text).into_owned();
    sqlx::query(sql)
        .bind(of(jobs, |j| j.id))
        .bind(of(jobs, |j| j.tenant_id))
        .bind(of(jobs, |j| j.created_by))
        .bind(of(jobs, |j| plain(&j.spec.name)))
        .bind(of(jobs, |j| plain(&j.spec.description)))
        .bind(of(jobs, |j| cron_of(&j.spec)))
        .bind(of(jobs, |j| plain(&j.spec.schedule.timezone)))
        .bind(of(jobs, |j| j.spec.job_type.as_json_str()))
        .bind(of(jobs, |j| text::jsonb(&j.spec.config).into_owned()))
        .bind(of(jobs, |j| j.spec.retry.documented().to_string()))
        .bind(of(jobs, |j| j.spec.timeout_seconds))
        .bind(of(jobs, |j| j.spec.max_concurrent))
        .bind(of(jobs, |j| j.status.as_json_str()))
        .bind(of(jobs, |j| j.spec.priority))
        .bind(of(jobs, |j| j.spec.start_date))
        .bind(of(jobs, |j| j.spec.end_date))
        .bind(of(jobs, |j| j.spec.max_executions))
        .bind(of(jobs, |j| j.execution_count))
        .bind(of(jobs, |j| text::jsonb(&serde_json::json!(j.spec.tags).to_string()).into_owned()))
        .bind(of(jobs, |j| j.created_at))
        .bind(of(jobs, |j| j.updated_at))
        .bind(of(jobs, |j| j.last_execution_at))
        .bind(of(jobs, |j| j.cursor))
        .bind(of(jobs, |j| j.version))
        .bind(of(jobs, |j| plain(&j.spec.queue)))
        .bind(of(jobs, |j| j.spec.overlap.as_json_str()))
        .bind(of(jobs, |j| j.halted_at))
        .bind(of(jobs, |j| j.deleted_at))
        .bind(of(jobs, |j| spec_text(&j.spec)))
        .execute(tx)
        .await?;
    Ok(())
}

async fn write_versions(tx: &mut PgConnection, jobs: &[&Job]) -> Result<()> {
    sqlx::query(
        "insert into job_versions (job_id, version, tenant_id, spec, created_at, created_by)
         select * from unnest($1::uuid[], $2::bigint[], $3::uuid[], $4::text[], $5::timestamptz[], $6::uuid[])",
    )
    .bind(jobs.iter().map(|j| j.id).collect::<Vec<_>>())
    .bind(jobs.iter().map(|j| j.version).collect::<Vec<_>>())
    .bind(jobs.iter().map(|j| j.tenant_id).collect::<Vec<_>>())
    .bind(jobs.iter().map(|j| spec_text(&j.spec)).collect::<Vec<_>>())
    .bind(jobs.iter().map(|j| j.updated_at).collect::<Vec<_>>())
    .bind(jobs.iter().map(|j| j.created_by).collect::<Vec<_>>())
    .execute(&mut *tx)
    .await?;
    super::secrets::insert_of_jobs(tx, jobs).await
}

/// Whether the name of a job was taken while it was being written.
pub(super) fn is_name_taken(error: &StoreError) -> bool {
    matches!(error, StoreError::Database(error) if violated(error) == Some("scheduled_jobs_name"))
}

/// JSON escapes NULs, so the text always can be stored.
fn spec_text(spec: &JobSpec) -> String {
    serde_json::to_string(spec).unwrap_or_default()
}

/// The expression for people; the column is shorter than what a definition may hold.
fn cron_of(spec: &JobSpec) -> Option<String> {
    match &spec.schedule.kind {
        ScheduleKind::Cron(expression) => Some(text::plain(expression).chars().take(100).collect()),
        _ => None,
    }
}
