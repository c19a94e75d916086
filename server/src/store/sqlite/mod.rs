//! SQLite: a file, for one coordinator.
//!
//! One connection writes, under `begin immediate`, so that a transaction never finds that another one has changed what it read; a few
//! others read. Statements may be loops in a transaction: there is no network between. Since one process uses the file, its own clock,
//! kept from going back, is the database's.

mod agents;
mod arm;
mod audit;
mod counts;
mod dead_letters;
mod executions;
mod fires;
mod gates;
mod jobs;
mod keys;
mod leases;
mod logs;
mod pick;
mod plan;
mod reads;
mod release;
mod roles;
mod rows;
mod save;
mod seals;
mod secrets;
mod sessions;
mod sharing;
mod tenants;
mod trigger;
mod upkeep;
mod users;

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, SubsecRound, Utc};
use sqlx::migrate::MigrateError;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Sqlite, SqlitePool, Transaction};
use tokio::sync::broadcast;
use uuid::Uuid;

use super::changes::Changes;
use super::{Result, Store, StoreError, Wake};
use crate::fairness::Turns;
use crate::job::JobSpec;

/// How long a statement waits for another process that holds the file, such as a backup.
const BUSY: Duration = Duration::from_secs(10);

/// Connections that read.
const READERS: u32 = 4;

/// Rows that a connection reads ahead of what is done with them.
const ROWS: usize = 1024;

/// Hints kept for a slow listener.
const HINTS: usize = 4096;

/// Specs kept in memory; beyond, all are forgotten and read again.
const SPECS: usize = 10_000;

/// A store in an SQLite file.
pub struct SqliteStore {
    writer: SqlitePool,
    readers: SqlitePool,
    hints: broadcast::Sender<Wake>,
    changes: Changes,
    /// The newest instant that was given out, in microseconds.
    latest: AtomicI64,
    /// By job and version: they never change.
    specs: Mutex<HashMap<(Uuid, i64), Arc<JobSpec>>>,
    tidying: tokio::sync::Mutex<()>,
    /// Where claims that find more groups than they look at go on.
    group_start: Mutex<Uuid>,
    /// Whose turn it is, as claims go.
    turns: Mutex<Turns>,
    /// Keeps other coordinators out; let go when the store is dropped.
    _lock: File,
}

/// A transaction, and the instant at which it began.
struct Work {
    tx: Transaction<'static, Sqlite>,
    now: DateTime<Utc>,
}

impl SqliteStore {
    /// Opens a file, which is made where there is none, and brings its tables up to date.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] where the file cannot be opened, another coordinator has it open, or a newer version wrote it.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self> {
        let (path, lock) = reserve(path.as_ref())?;
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .foreign_keys(true)
            .busy_timeout(BUSY)
            .journal_mode(SqliteJournalMode::Wal)
            // What was acknowledged has to outlive a loss of power. Measured: 0.85 ms a commit, where NORMAL takes 0.61 ms.
            .synchronous(SqliteSynchronous::Full)
            .pragma("temp_store", "memory")
            // A whole claim: the connection's thread does not wait for its reader in between.
            .row_buffer_size(ROWS)
            .statement_cache_capacity(256);
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .test_before_acquire(false)
            .connect_with(options.clone())
            .await
            .map_err(|error| unusable(&path, &error))?;
        sqlx::migrate!("../migrations/sqlite").run(&writer).await.map_err(|error| match error {
            MigrateError::VersionMissing(version) => StoreError::Unusable(format!(
                "{} was written by a newer version of Orrery (its migration {version} is unknown here); use that version",
                path.display()
            )),
            other => StoreError::Migration(other),
        })?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .test_before_acquire(false)
            .connect_with(options.pragma("query_only", "on"))
            .await?;
        Ok(Self {
            writer,
            readers,
            hints: broadcast::Sender::new(HINTS),
            changes: Changes::default(),
            latest: AtomicI64::new(0),
            specs: Mutex::default(),
            tidying: tokio::sync::Mutex::default(),
            group_start: Mutex::default(),
            turns: Mutex::default(),
            _lock: lock,
        })
    }

    /// Closes the connections, so that the file is whole without its write-ahead log.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn group_start(&self) -> Uuid {
        *self.group_start.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_group_start(&self, start: Uuid) {
        *self.group_start.lock().unwrap_or_else(PoisonError::into_inner) = start;
    }

    /// The wall clock, to the microsecond; it never goes back.
    fn clock(&self) -> DateTime<Utc> {
        let now = Utc::now().trunc_subsecs(6);
        let latest = self.latest.fetch_max(now.timestamp_micros(), Ordering::AcqRel);
        DateTime::from_timestamp_micros(latest).map_or(now, |latest| latest.max(now))
    }

    /// Begins a transaction that writes. It waits for the one before; its instant is read when it has begun, so that instants rise
    /// in the order of transactions.
    async fn write(&self) -> Result<Work> {
        let pool = self.writer.clone();
        let tx = begun(async move { pool.begin_with("begin immediate").await }).await?;
        Ok(Work { tx, now: self.clock() })
    }

    /// Begins a transaction that sees one state of the database.
    async fn read(&self) -> Result<Work> {
        let pool = self.readers.clone();
        let tx = begun(async move { pool.begin().await }).await?;
        Ok(Work { tx, now: self.clock() })
    }

    /// The definition of a job at a committed version.
    async fn spec(&self, work: &mut Work, job: Uuid, version: i64) -> Result<Arc<JobSpec>> {
        let known = |specs: &HashMap<_, Arc<JobSpec>>| specs.get(&(job, version)).cloned();
        if let Some(spec) = known(&self.specs.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(spec);
        }
        let text: Option<String> = sqlx::query_scalar("select spec from job_versions where job_id = ? and version = ?")
            .bind(job)
            .bind(version)
            .fetch_optional(&mut *work.tx)
            .await?;
        let text = text.ok_or_else(|| StoreError::Corrupt {
            table: "job_versions",
            reason: format!("job {job} has no version {version}"),
        })?;
        let spec = Arc::new(rows::spec(&text)?);
        let mut specs = self.specs.lock().unwrap_or_else(PoisonError::into_inner);
        if specs.len() >= SPECS {
            specs.clear();
        }
        specs.insert((job, version), Arc::clone(&spec));
        Ok(spec)
    }
}

impl Work {
    async fn commit(self) -> Result<()> {
        Ok(self.tx.commit().await?)
    }
}

#[async_trait]
impl Store for SqliteStore {
    fn engine(&self) -> &'static str {
        "sqlite"
    }

    async fn now(&self) -> Result<DateTime<Utc>> {
        Ok(self.clock())
    }

    async fn wake(&self, hint: Wake) -> Result<()> {
        // Nobody listens: nothing is lost, since everybody looks by a timer as well.
        let _ = self.hints.send(hint);
        Ok(())
    }

    fn changed(&self, executions: &[Uuid]) {
        self.changes.tell(executions);
    }

    fn changes(&self) -> broadcast::Receiver<Arc<[Uuid]>> {
        self.changes.subscribe()
    }

    fn hints(&self) -> broadcast::Receiver<Wake> {
        self.hints.subscribe()
    }

    fn told(&self) -> broadcast::Receiver<Wake> {
        // There is no other coordinator.
        self.hints.subscribe()
    }
}

/// Makes sure that the file exists, and that this process alone uses it. The lock is a file of its own: SQLite's are on the database
/// itself, and closing any other handle of a file drops its POSIX locks.
fn reserve(path: &Path) -> Result<(PathBuf, File)> {
    OpenOptions::new().append(true).create(true).open(path).map_err(|error| unusable(path, &error))?;
    // Two names of one file have one lock.
    let path = path.canonicalize().map_err(|error| unusable(path, &error))?;
    let mut lock_path = OsString::from(&path);
    lock_path.push(".lock");
    let lock_path = PathBuf::from(lock_path);
    let lock =
        OpenOptions::new().append(true).create(true).open(&lock_path).map_err(|error| unusable(&lock_path, &error))?;
    match lock.try_lock() {
        Ok(()) => Ok((path, lock)),
        Err(TryLockError::WouldBlock) => Err(StoreError::Unusable(format!(
            "{} is in use by another coordinator; SQLite serves one at a time: stop the other one, name another file, or use PostgreSQL",
            path.display()
        ))),
        Err(TryLockError::Error(error)) => Err(unusable(&lock_path, &error)),
    }
}

fn unusable(path: &Path, error: &dyn std::error::Error) -> StoreError {
    StoreError::Unusable(format!("{} cannot be opened: {error}", path.display()))
}

/// A transaction, begun on a task of its own, that a caller who goes away cannot stop: sqlx knows of it only once BEGIN is answered, and
/// would give the connection to the next caller in the middle of it.
async fn begun(
    begin: impl Future<Output = sqlx::Result<Transaction<'static, Sqlite>>> + Send + 'static,
) -> Result<Transaction<'static, Sqlite>> {
    Ok(tokio::spawn(begin).await.unwrap_or(Err(sqlx::Error::PoolClosed))?)
}
