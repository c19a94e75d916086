//! The changes of rows that the database itself has noted down, by triggers of the harness.

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgPool};
use uuid::Uuid;

use crate::error::{Result, world};

/// A row of `chaos.changes`; see `journal.sql`.
#[derive(Clone, Debug, FromRow)]
pub struct Change {
    /// Rises in the order in which changes of one row were made.
    pub id: i64,
    /// When the row was changed.
    pub at: DateTime<Utc>,
    /// When its transaction began.
    pub began: DateTime<Utc>,
    /// When others could see it.
    pub committed: DateTime<Utc>,
    pub source: String,
    pub op: String,
    pub execution: Option<Uuid>,
    pub job: Option<Uuid>,
    pub scheduled_at: Option<DateTime<Utc>>,
    pub run_at: Option<DateTime<Utc>>,
    pub trigger_type: Option<i16>,
    pub old_state: Option<i16>,
    pub new_state: Option<i16>,
    pub old_epoch: Option<i64>,
    pub new_epoch: Option<i64>,
    pub old_session: Option<Uuid>,
    pub new_session: Option<Uuid>,
    pub attempt: Option<i32>,
    pub was_started: Option<bool>,
    pub is_started: Option<bool>,
    pub deadline: Option<DateTime<Utc>>,
    pub status: Option<String>,
    pub session_expires: Option<DateTime<Utc>>,
    pub name: Option<String>,
    pub coordinator: Option<Uuid>,
    pub attachment: Option<i64>,
}

impl Change {
    /// Whether it leaves a planned fire with an agent that may not begin it yet.
    pub fn is_armed(&self) -> bool {
        let by_schedule = self.trigger_type == Some(BY_SCHEDULE);
        let ahead = self.run_at.is_some_and(|at| at > self.at);
        self.new_state == Some(LEASED) && self.is_started != Some(true) && by_schedule && ahead
    }
}

/// An execution that is over, as history has it.
#[derive(Clone, Debug, FromRow)]
pub struct Past {
    pub id: Uuid,
    pub job_id: Uuid,
    pub trigger_type: String,
    pub status: String,
    pub scheduled_at: DateTime<Utc>,
    pub completed_at: DateTime<Utc>,
    pub epoch: i64,
    pub attempt: i32,
    pub losses: i32,
    pub worker_id: Option<Uuid>,
    /// JSON as text.
    pub result: Option<String>,
    pub attempts: Option<String>,
    pub error_message: Option<String>,
}

/// Fires that did not happen.
#[derive(Clone, Debug, FromRow)]
pub struct Omitted {
    pub job_id: Uuid,
    pub reason: String,
    pub from_at: DateTime<Utc>,
    pub to_at: DateTime<Utc>,
    pub count: i64,
    /// What it was judged by.
    pub created_at: DateTime<Utc>,
    /// When others could see it.
    pub committed: DateTime<Utc>,
}

/// The state of an execution in the changes of `live_executions`.
pub const PENDING: i16 = 1;
pub const LEASED: i16 = 2;

/// The trigger type of a fire there.
pub const BY_SCHEDULE: i16 = 1;

/// Puts the triggers in place.
///
/// # Errors
/// Where the tables are not those that it expects.
pub async fn install(pool: &PgPool) -> Result<()> {
    for _ in 0..10 {
        // All of it, or nothing. It locks tables that the coordinator is at, in another order: then one of them is ended.
        match sqlx::raw_sql(include_str!("journal.sql")).execute(pool).await {
            Err(error) if error.as_database_error().and_then(|db| db.code()).as_deref() == Some("40P01") => {}
            done => return done.map(drop).map_err(Into::into),
        }
    }
    Err(world("the triggers of the journal could not be put in place beside the coordinator"))
}

/// Every change, the oldest first.
///
/// # Errors
/// Where the database cannot be asked.
pub async fn changes(pool: &PgPool) -> Result<Vec<Change>> {
    Ok(sqlx::query_as(
        "select *, coalesce(pg_xact_commit_timestamp(xmin), at) as committed from chaos.changes order by id",
    )
    .fetch_all(pool)
    .await?)
}

/// Everything that is over.
///
/// # Errors
/// Where the database cannot be asked.
pub async fn past(pool: &PgPool) -> Result<Vec<Past>> {
    let query =
        "select id, job_id, trigger_type, status, scheduled_at, completed_at, epoch, attempt, losses, worker_id,
        result::text as result, attempts::text as attempts, error_message from job_executions order by id";
    Ok(sqlx::query_as(query).fetch_all(pool).await?)
}

/// Every omission.
///
/// # Errors
/// Where the database cannot be asked.
pub async fn omitted(pool: &PgPool) -> Result<Vec<Omitted>> {
    let query = "select job_id, reason, from_at, to_at, count, created_at,
        coalesce(pg_xact_commit_timestamp(xmin), created_at) as committed from fire_omissions order by id";
    Ok(sqlx::query_as(query).fetch_all(pool).await?)
}
