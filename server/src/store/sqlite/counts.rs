//! How many executions jobs have and have had, and when that is all.

use chrono::{DateTime, Utc};
use orrery_proto::v1::JobStatus;
use uuid::Uuid;

use super::Work;
use super::executions::{active, armed_at, planned};
use super::rows::{self, micros, select_jobs};
use crate::job::ScheduleKind;
use crate::store::Result;

/// How many executions of a job are active, and how many of these wait for their first lease. What is granted ahead is neither.
pub(super) async fn load_of(work: &mut Work, job: Uuid) -> Result<(i64, i64)> {
    let load = sqlx::query_as(concat!(
        "select count(*), count(*) filter (where state = 'pending' and attempt = 0) from live_executions where job_id = ?1 and ",
        active!(),
        " and not ",
        armed_at!("?2")
    ))
    .bind(job)
    .bind(micros(work.now))
    .fetch_one(&mut *work.tx)
    .await?;
    Ok(load)
}

/// Counts an execution of a job; see [`count`].
pub(super) async fn count_one(work: &mut Work, job: Uuid) -> Result<bool> {
    count(work, job, 1, work.now).await
}

/// Counts executions of a job, the latest of which is of that instant, or takes such back where `more` is less than none. `true` where the
/// job has had all it may: it is inactive then, and its planned fires are taken back, but for those that have been counted.
pub(super) async fn count(work: &mut Work, job: Uuid, more: i64, latest: DateTime<Utc>) -> Result<bool> {
    let full: bool = sqlx::query_scalar(
        "update scheduled_jobs set execution_count = execution_count + ?1, \
         last_execution_at = case when ?1 > 0 then max(coalesce(last_execution_at, ?2), ?2) else last_execution_at end \
         where id = ?3 returning ?1 > 0 and max_executions is not null and execution_count >= max_executions",
    )
    .bind(more)
    .bind(micros(latest))
    .bind(job)
    .fetch_one(&mut *work.tx)
    .await?;
    if full {
        sqlx::query(concat!("delete from live_executions where job_id = ? and epoch = 0 and ", planned!()))
            .bind(job)
            .execute(&mut *work.tx)
            .await?;
        sqlx::query("update scheduled_jobs set status = ?, next_execution_at = null where id = ?")
            .bind(JobStatus::Inactive.as_json_str())
            .bind(job)
            .execute(&mut *work.tx)
            .await?;
    }
    Ok(full)
}

/// A job that has nothing left to fire by itself becomes inactive.
pub(super) async fn retire_if_spent(work: &mut Work, job: Uuid) -> Result<()> {
    let spent = sqlx::query(select_jobs!(
        "where j.id = ? and j.status = 'active' and j.deleted_at is null and j.next_execution_at is null"
    ))
    .bind(job)
    .fetch_optional(&mut *work.tx)
    .await?;
    let Some(job) = spent.as_ref().map(rows::job).transpose()? else { return Ok(()) };
    // With a planned fire it still has something to do.
    if job.next_execution_at.is_some() || job.spec.schedule.kind == ScheduleKind::Manual {
        return Ok(());
    }
    sqlx::query("update scheduled_jobs set status = ? where id = ?")
        .bind(JobStatus::Inactive.as_json_str())
        .bind(job.id)
        .execute(&mut *work.tx)
        .await?;
    Ok(())
}
