//! PostgreSQL.
//!
//! A call is one transaction, and hot statements work on sets (`unnest`). Rows are locked in the order of their ids; where two
//! transactions cross all the same, the one that PostgreSQL ends is repeated here.

mod agents;
mod apply;
mod arm;
mod asked;
mod at_once;
mod audit;
mod bound;
mod claim;
mod commit;
mod counts;
mod create;
mod dead_letters;
mod each;
mod fires;
mod gates;
mod hints;
mod hot;
mod hours;
mod idempotency;
mod insert;
mod isolation;
mod jobs;
mod keys;
mod lanes;
mod lease;
mod leases;
mod lists;
mod logs;
mod partitions;
mod pick;
mod place;
mod plan;
mod planner;
mod quick;
mod reach;
mod reads;
mod release;
mod replica;
mod roles;
mod rows;
mod seals;
mod secrets;
mod sessions;
mod sharing;
mod specs;
mod stats;
mod tables;
mod tallies;
mod tenants;
mod trigger;
mod upkeep;
mod users;
mod write;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, PgPool};
use tokio::sync::broadcast;
use tokio::time::Instant;
use uuid::Uuid;

use self::asked::AskedJobs;
use self::bound::Tx;
use self::commit::Tries;
use self::hints::Hints;
use self::hot::Hot;
use self::isolation::{API, AUDIT, ENGINE, IDENTITY};
use self::lanes::Lanes;
use self::reach::{Bounds, Evict};
use self::replica::Replica;
use self::specs::Specs;
use super::changes::Changes;
use super::{Result, Store, StoreError, Wake};
use crate::clock::DatabaseClock;
use crate::fairness::Turns;

/// Connections for triggers at most; there is one where none of them has to wait.
const HOT: u32 = 4;

/// Connections at most for who callers are, and for records.
const FEW: u32 = 4;

/// How to reach the database.
#[derive(Clone, Debug)]
pub struct PgOptions {
    /// `postgres://user:password@host:port/database?...`
    pub url: String,
    /// Connections for calls and for the coordinator's own work, half of them for each; a few more are for heartbeats, triggers and hints.
    pub max_connections: u32,
    /// A replica for what people look at, if there is one.
    pub read_url: Option<String>,
    /// The schema that holds the tables; the connection's default where absent.
    pub schema: Option<String>,
    /// How long a call may wait for a connection.
    pub acquire_timeout: Duration,
    pub application_name: String,
}

impl PgOptions {
    /// The defaults for an address.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            max_connections: 16,
            read_url: None,
            schema: None,
            acquire_timeout: Duration::from_secs(3),
            application_name: "orrery".to_owned(),
        }
    }
}

/// The store in PostgreSQL. Cheap to clone.
#[derive(Clone)]
pub struct PgStore {
    inner: Arc<Inner>,
}

struct Inner {
    /// For the coordinator's own batches; see [`isolation`].
    pool: PgPool,
    /// For what callers ask, in transactions that are each bound to a tenant; see [`bound`].
    callers: PgPool,
    /// For logins, keys and tenants.
    identity: PgPool,
    /// For the sealing of records.
    audit: PgPool,
    /// For renewals of sessions alone, so that they wait behind no other work.
    beats: PgPool,
    /// For triggers, see [`at_once`].
    hot: Hot,
    asked: AskedJobs,
    clock: DatabaseClock,
    /// The latest instant of the database's clock that anybody was told of, in microseconds.
    seen: AtomicI64,
    evict: Evict,
    replica: Option<Replica>,
    connect: PgConnectOptions,
    schema: Option<String>,
    /// Sets this deployment's advisory locks and channel apart from others in the same database.
    scope: i64,
    specs: Specs,
    lanes: Lanes,
    hints: Hints,
    changes: Changes,
    /// Where claims that find more groups than they look at go on. Only a hint: losing it costs a turn.
    group_start: std::sync::Mutex<Uuid>,
    /// Whether the newest claim found as much as it was to take. Only a hint of how to look.
    is_backlog: AtomicBool,
    /// Whose turn it is, as claims go. Only a hint as well.
    turns: std::sync::Mutex<Turns>,
}

/// Repeats a transaction that PostgreSQL ended because it crossed another one, or whose COMMIT had no answer. What is called must bear that
/// the try before has happened after all.
macro_rules! retried {
    ($store:expr, $call:expr) => {{
        let mut tries = $crate::store::postgres::commit::Tries::new(&$store.inner.evict);
        $crate::store::postgres::retried!($store, tries, $call)
    }};
    ($store:expr, $tries:ident, $call:expr) => {
        loop {
            match $crate::store::postgres::commit::Tries::within($call).await {
                Err(error) => match $tries.after(error).await {
                    Ok(()) => {}
                    Err(error) => break Err(error),
                },
                done => break done,
            }
        }
    };
}
use retried;

/// Whether a transaction was ended only because it crossed another: a deadlock, a failure to serialize, or a row that was on its way into the
/// default partition while its month was made (a check that is violated and has no name). Or undone because another was quicker.
fn crossed(error: &StoreError) -> bool {
    if matches!(error, StoreError::Outrun) {
        return true;
    }
    let (StoreError::Unavailable(sqlx::Error::Database(db)) | StoreError::Database(sqlx::Error::Database(db))) = error
    else {
        return false;
    };
    match db.code().as_deref() {
        Some("40001" | "40P01") => true,
        Some("23514") => db.constraint().is_none(),
        _ => false,
    }
}

/// The unique index or constraint that an error speaks of.
fn violated(error: &sqlx::Error) -> Option<&str> {
    error.as_database_error().filter(|db| db.is_unique_violation())?.constraint()
}

impl PgStore {
    /// Connects, without looking at the tables; call [`PgStore::migrate`] before anything else.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]; [`StoreError::Unusable`] where the schema's name is none.
    pub async fn connect(options: PgOptions) -> Result<Self> {
        if let Some(schema) = &options.schema {
            check_schema(schema)?;
        }
        let connect: PgConnectOptions = options.url.parse::<PgConnectOptions>()?;
        let connect = connect.application_name(&options.application_name);
        let evict = Evict::default();
        let path = options.schema.as_deref();
        let of_callers = (options.max_connections / 2).max(1);
        let bounds = Bounds {
            connections: options.max_connections.saturating_sub(of_callers).max(1),
            acquire: options.acquire_timeout,
            statement: Duration::from_secs(15),
            lock: Duration::from_secs(5),
        };
        let pool = reach::pool(connect.clone(), path, ENGINE, &bounds, &evict);
        let callers = Bounds { connections: of_callers, ..bounds };
        let callers = reach::pool(connect.clone(), path, API, &callers, &evict);
        let few = Bounds { connections: FEW, ..bounds };
        let identity = reach::pool(connect.clone(), path, IDENTITY, &few, &evict);
        let audit = reach::pool(connect.clone(), path, AUDIT, &few, &evict);
        let beats = Bounds {
            connections: 2,
            acquire: Duration::from_secs(2),
            statement: Duration::from_secs(2),
            lock: Duration::from_secs(1),
        };
        let beats = reach::pool(connect.clone(), path, ENGINE, &beats, &evict);
        let hot = Hot::new(
            reach::pool(
                connect.clone(),
                path,
                ENGINE,
                &Bounds { connections: HOT, acquire: Duration::from_secs(1), ..bounds },
                &evict,
            ),
            evict.clone(),
        );
        let scope = match path {
            Some(schema) => scope_of(schema),
            None => scope_of(&current_schema(&connect, options.acquire_timeout).await?),
        };
        let hints = Hints::start(pool.clone(), connect.clone(), scope);
        let (specs, lanes) = (Specs::default(), Lanes::default());
        let start = |url: &String| {
            let name = format!("{} reads", options.application_name);
            let path = options.schema.as_deref();
            Replica::start(url, &name, path, options.max_connections, pool.clone())
        };
        let replica = options.read_url.as_ref().map(start).transpose()?;
        let schema = options.schema;
        let inner = Inner {
            pool,
            callers,
            identity,
            audit,
            beats,
            hot,
            asked: AskedJobs::default(),
            clock: DatabaseClock::default(),
            seen: AtomicI64::default(),
            evict,
            replica,
            connect,
            schema,
            scope,
            specs,
            lanes,
            hints,
            changes: Changes::default(),
            group_start: Default::default(),
            is_backlog: AtomicBool::default(),
            turns: Default::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Brings the tables to this version, keeps tenants apart in them, and makes the partitions of this month and the next.
    ///
    /// # Errors
    /// [`StoreError::Migration`], where the database is of a newer version too; [`StoreError::Unusable`] with what an administrator has to do,
    /// where this user may not make the roles that the connections take.
    pub async fn migrate(&self) -> Result<()> {
        // A connection without the limits of the others, for a migration may take its time.
        let pool = PgPoolOptions::new().max_connections(1).connect_with(self.inner.connect.clone()).await?;
        if let Some(schema) = &self.inner.schema {
            create_schema(&pool, schema, self.inner.scope).await?;
        }
        isolation::make(&mut *pool.acquire().await?).await?;
        sqlx::migrate!("../migrations/postgres").run(&pool).await?;
        self.isolate(&pool).await?;
        pool.close().await;
        self.make_partitions(1).await?;
        Ok(())
    }

    /// Isolates the tables, if nobody else has; coordinators that start together do it one after the other.
    async fn isolate(&self, pool: &PgPool) -> Result<()> {
        let mut connection = pool.acquire().await?;
        let lock = self.inner.scope.wrapping_add(9);
        sqlx::query("select pg_advisory_lock($1)").bind(lock).execute(&mut *connection).await?;
        // The lock goes with the connection, which is closed if this fails.
        isolation::isolate(&mut connection).await?;
        sqlx::query("select pg_advisory_unlock($1)").bind(lock).execute(&mut *connection).await?;
        Ok(())
    }

    /// Closes the connections; calls that follow fail.
    pub async fn close(&self) {
        self.inner.callers.close().await;
        self.inner.identity.close().await;
        self.inner.audit.close().await;
        self.inner.beats.close().await;
        self.inner.hot.close().await;
        if let Some(replica) = &self.inner.replica {
            replica.close().await;
        }
        self.inner.pool.close().await;
    }

    /// A repeat does not tell what the try before it has done, if it has: there may be work that its caller does not hear of.
    fn tell_of_lost(&self, tries: &Tries<'_>) {
        if tries.is_repeat() {
            self.inner.hints.tell(Wake::Work);
        }
    }

    /// Begins a transaction of the coordinator's own, which sees the tables of the queue, of all tenants; for callers there is
    /// [`PgStore::begin_for`].
    async fn begin(&self) -> Result<Tx> {
        begin_with(self.pool(), "begin").await
    }

    /// The same for statements that find all their rows by indexes. PostgreSQL plans a statement once, and reading a table that is empty at
    /// that moment costs nothing: what came into it afterwards would be read to its end by each round, until the table is analysed. Nor may
    /// it make bitmaps of an index, for they leave no mark on entries whose rows are dead: each round would read what all rounds since
    /// the last vacuum have worked off. A plain look at an index marks them, and the next one passes them over.
    async fn begin_keyed(&self) -> Result<Tx> {
        begin_with(self.pool(), "begin; set local enable_seqscan = off; set local enable_bitmapscan = off").await
    }

    /// Begins a transaction that sees who callers are, of all tenants: users, keys, roles and tenants.
    async fn begin_identity(&self) -> Result<Tx> {
        begin_with(self.identity(), "begin").await
    }

    /// Begins a transaction that sees the records of all tenants.
    async fn begin_audit(&self) -> Result<Tx> {
        begin_with(self.audit(), "begin").await
    }

    /// The database's clock, which is remembered.
    async fn read_clock(&self, connection: &mut PgConnection) -> Result<DateTime<Utc>> {
        let asked = Instant::now();
        let now = clock(connection).await?;
        self.inner.clock.observe(asked, now);
        self.saw(now);
        Ok(now)
    }

    /// For single statements about who callers are.
    fn identity(&self) -> &PgPool {
        &self.inner.identity
    }

    /// For single statements about records.
    fn audit(&self) -> &PgPool {
        &self.inner.audit
    }

    /// For single statements of the coordinator's own.
    fn pool(&self) -> &PgPool {
        &self.inner.pool
    }
}

/// Begins a transaction of a kind. On a task of its own, that a caller who goes away cannot stop: sqlx knows of the transaction only once BEGIN
/// is answered, and would give the connection to the next caller in the middle of it, whose writes would then be answered and never
/// committed.
async fn begin_with(pool: &PgPool, begin: &'static str) -> Result<Tx> {
    let pool = pool.clone();
    let begun = tokio::spawn(async move { pool.begin_with(begin).await }).await;
    Ok(begun.unwrap_or(Err(sqlx::Error::PoolClosed))?)
}

/// A transaction of the coordinator's own that sees one moment only, and writes nothing.
async fn snapshot(pool: &PgPool) -> Result<Tx> {
    begin_with(pool, "begin isolation level repeatable read, read only").await
}

/// The schema that connections work in where none is named.
async fn current_schema(connect: &PgConnectOptions, patience: Duration) -> Result<String> {
    let ask = async {
        let mut connection = connect.connect().await?;
        let schema = sqlx::query_scalar("select coalesce(current_schema(), '')").fetch_one(&mut connection).await?;
        connection.close().await?;
        sqlx::Result::Ok(schema)
    };
    Ok(tokio::time::timeout(patience, ask).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))?)
}

/// Makes a schema and makes it the one of the pool's only connection.
async fn create_schema(pool: &PgPool, schema: &str, scope: i64) -> Result<()> {
    let mut tx = pool.begin().await?;
    // Two coordinators that start at once would otherwise both try, and one would fail.
    sqlx::query("select pg_advisory_xact_lock($1)").bind(scope).execute(&mut *tx).await?;
    let create = format!("create schema if not exists \"{schema}\"");
    sqlx::query(AssertSqlSafe(create)).execute(&mut *tx).await?;
    sqlx::query("select set_config('search_path', $1, false)").bind(schema).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(())
}

fn check_schema(schema: &str) -> Result<()> {
    let good = !schema.is_empty()
        && schema.len() <= 63
        && schema.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && !schema.starts_with(|c: char| c.is_ascii_digit());
    if good {
        return Ok(());
    }
    Err(StoreError::Unusable(format!("schema {schema:?}: use a-z, 0-9 and _, not starting with a digit")))
}

fn scope_of(schema: &str) -> i64 {
    number_of(schema.as_bytes())
}

/// A number for an advisory lock, the same in every coordinator whatever its version.
fn number_of(name: &[u8]) -> i64 {
    let digest = Sha256::digest(name);
    let mut bytes = [0_u8; 8];
    bytes.copy_from_slice(&digest[..8]);
    i64::from_be_bytes(bytes)
}

/// Microseconds, for arithmetic with `interval '1 microsecond'`.
fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX / 4)
}

fn limited(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// The clock within a transaction, where no other statement has brought it along.
async fn clock(connection: &mut PgConnection) -> Result<DateTime<Utc>> {
    Ok(sqlx::query_scalar("select clock_timestamp()").fetch_one(connection).await?)
}

#[async_trait]
impl Store for PgStore {
    fn engine(&self) -> &'static str {
        "postgres"
    }

    async fn now(&self) -> Result<DateTime<Utc>> {
        let mut connection = self.pool().acquire().await?;
        self.read_clock(&mut connection).await
    }

    async fn read_clock(&self) -> Result<(Instant, DateTime<Utc>)> {
        // To wait for a connection, and to try whether it is one still, takes longer than to ask.
        let mut connection = self.pool().acquire().await?;
        let asked = Instant::now();
        Ok((asked, clock(&mut connection).await?))
    }

    async fn wake(&self, hint: Wake) -> Result<()> {
        self.inner.hints.tell(hint);
        Ok(())
    }

    fn changed(&self, executions: &[Uuid]) {
        self.inner.changes.tell(executions);
    }

    fn changes(&self) -> broadcast::Receiver<Arc<[Uuid]>> {
        self.inner.changes.subscribe()
    }

    fn hints(&self) -> broadcast::Receiver<Wake> {
        self.inner.hints.subscribe()
    }

    fn told(&self) -> broadcast::Receiver<Wake> {
        self.inner.hints.told()
    }
}
