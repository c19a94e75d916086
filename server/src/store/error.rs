use sqlx::error::DatabaseError;
use sqlx::sqlite::SqliteError;
use uuid::Uuid;

/// Why a store did not do what it was asked. Texts of the database stay inside; callers see the variant.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached or is not ready: what was asked did not happen. (Of a single statement outside of a transaction that
    /// is not known; all of those may be repeated.)
    #[error("the database is unavailable")]
    Unavailable(#[source] sqlx::Error),
    /// The connection was lost between COMMIT and its answer, and the database could not be asked since: it happened or it did not.
    #[error("it is not known whether it was written")]
    Unknown(#[source] sqlx::Error),
    /// There is no such row (of this tenant).
    #[error("not found")]
    NotFound,
    /// Another job of the tenant has this name.
    #[error("the name of job {index} is taken")]
    NameTaken { index: usize },
    /// The tenant has as many as it may.
    #[error("the tenant may have {limit} jobs and has {current}")]
    QuotaExceeded { limit: i64, current: i64 },
    /// The key has been used with another request.
    #[error("the idempotency key of item {index} was used with another request")]
    IdempotencyKeyReused { index: usize },
    /// The caller's own decision refused the change.
    #[error(transparent)]
    Refused(Box<crate::error::Error>),
    /// The caller's own decision, or a missing job, refused a trigger.
    #[error("trigger {index}: {reason}")]
    TriggerRefused { index: usize, job: Uuid, reason: Box<crate::error::Error> },
    /// Another coordinator has opened this SQLite file, or it is of a newer version.
    #[error("{0}")]
    Unusable(String),
    /// Other transactions, again and again, have used meanwhile what this one counted on: it did not happen.
    #[error("others were quicker, again and again")]
    Outrun,
    /// Anything else of the database: a bug.
    #[error("the database refused a statement")]
    Database(#[source] sqlx::Error),
    /// A row that this version cannot read.
    #[error("row of {table} cannot be read: {reason}")]
    Corrupt { table: &'static str, reason: String },
    /// Migrations failed.
    #[error("the migrations failed")]
    Migration(#[source] sqlx::migrate::MigrateError),
}

impl StoreError {
    /// Whether the database is the matter, so that the same call may succeed later.
    pub fn is_away(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Unknown(_))
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::Protocol(_) => Self::Unavailable(error),
            sqlx::Error::Database(db) if is_passing(db.as_ref()) => Self::Unavailable(error),
            _ => Self::Database(error),
        }
    }
}

/// Whether an error speaks of the database's state and not of the statement, so that the same call may succeed later.
fn is_passing(error: &dyn DatabaseError) -> bool {
    let Some(code) = error.code() else { return false };
    if error.try_downcast_ref::<SqliteError>().is_some() {
        // The low byte of an extended code is the kind: busy, locked, I/O, full.
        return code.parse::<u32>().is_ok_and(|code| matches!(code & 0xff, 5 | 6 | 10 | 13));
    }
    // 08: connection exceptions; 53: out of disk, memory or connections; 57P: shut down, crash, cannot connect now; 58: I/O. Then: idle in a
    // transaction for too long; read only; ended as one of two that crossed; locked for too long; ran for too long.
    ["08", "53", "57P", "58"].iter().any(|class| code.starts_with(class))
        || ["25P03", "25006", "40001", "40P01", "55P03", "57014"].contains(&code.as_ref())
}

impl From<sqlx::migrate::MigrateError> for StoreError {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        use sqlx::migrate::MigrateError::{Execute, ExecuteMigration};
        let (cause, version) = match error {
            Execute(cause) => (cause, None),
            ExecuteMigration(cause, version) => (cause, Some(version)),
            other => return Self::Migration(other),
        };
        match (Self::from(cause), version) {
            // A database that goes away meanwhile is tried again; what is migrated already stays so.
            (away @ Self::Unavailable(_), _) => away,
            (Self::Database(cause), Some(version)) => Self::Migration(ExecuteMigration(cause, version)),
            (Self::Database(cause), None) => Self::Migration(Execute(cause)),
            (other, _) => other,
        }
    }
}
