//! Stores to test.

use std::sync::Arc;

use orrery_server::store::DynStore;
use orrery_server::store::postgres::{PgOptions, PgStore};
use orrery_server::store::sqlite::SqliteStore;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;
use tokio::sync::OnceCell;
use uuid::Uuid;

/// A store and what is to be done when its test has passed.
pub struct Engine {
    pub store: DynStore,
    schema: Option<(PgStore, String)>,
    /// Goes with the engine, and the file in it.
    directory: Option<TempDir>,
}

/// Runs a test on a fresh store, and clears up after it unless it failed.
pub async fn run<T, F>(engine: impl Future<Output = Engine>, test: T)
where
    T: FnOnce(DynStore) -> F,
    F: Future<Output = ()>,
{
    let engine = engine.await;
    test(engine.store).await;
    if let Some((store, schema)) = engine.schema {
        store.close().await;
        let mut connection = sqlx::PgConnection::connect(&database_url()).await.unwrap();
        let drop = format!("drop schema {schema} cascade");
        // What a test has dropped in the middle of a call may still go on in the server for a moment, and cross this.
        loop {
            match sqlx::query(AssertSqlSafe(drop.clone())).execute(&mut connection).await {
                Err(sqlx::Error::Database(crossed)) if crossed.code().as_deref() == Some("40P01") => {}
                done => {
                    done.unwrap();
                    break;
                }
            }
        }
    }
    drop(engine.directory);
}

pub fn database_url() -> String {
    std::env::var("ORRERY_TEST_DATABASE_URL").unwrap_or_else(|_| {
        panic!(
            "ORRERY_TEST_DATABASE_URL is not set: give the address of a PostgreSQL database in which schemas may be made, such as \
             postgres://postgres@127.0.0.1:5432/postgres"
        )
    })
}

/// The user that the stores log in as: it owns their tables, and neither bypasses row-level security nor inherits what its roles may.
pub const OWNER: &str = "orrery_tests";

/// The address of the same database for another user, whose password is its name.
pub fn url_of(user: &str) -> String {
    let url = database_url();
    let (scheme, rest) = url.split_once("://").expect("postgres://...");
    let place = rest.split_once('@').map_or(rest, |(_, place)| place);
    format!("{scheme}://{user}:{user}@{place}")
}

/// The address by which stores log in.
pub async fn owners_url() -> String {
    static MADE: OnceCell<()> = OnceCell::const_new();
    MADE.get_or_init(|| async {
        let mut connection = PgConnection::connect(&database_url()).await.unwrap();
        // Other programs of tests do the same.
        let make = format!(
            "begin; select pg_advisory_xact_lock(7253);
             do $$ declare r text; begin
                if not exists (select 1 from pg_roles where rolname = '{OWNER}') then
                    create role {OWNER} login noinherit createrole password '{OWNER}';
                end if;
                -- Where somebody else has made the roles, only an administrator can let another user take them (from 16 on).
                for r in select quote_ident(rolname) from pg_roles where rolname in ('orrery_api', 'orrery_engine', 'orrery_identity', 'orrery_audit') and not pg_has_role('{OWNER}', oid, 'MEMBER')
                    and current_setting('server_version_num')::integer >= 160000
                loop execute format('grant %s to {OWNER}', r); end loop;
                execute format('grant create on database %I to {OWNER}', current_database());
             end $$; commit"
        );
        sqlx::raw_sql(AssertSqlSafe(make)).execute(&mut connection).await.unwrap();
    })
    .await;
    url_of(OWNER)
}

/// Takes the policies away that let the owner of the tables see their rows: whatever the store does as anybody but its roles finds nothing.
async fn blind_the_owner(schema: &str) {
    let mut connection = PgConnection::connect(&database_url()).await.unwrap();
    let drop = format!(
        "do $$ declare t regclass; begin
            for t in select polrelid::regclass from pg_policy p join pg_class c on c.oid = p.polrelid
                where p.polname = 'owner' and c.relnamespace = '{schema}'::regnamespace
            loop execute format('drop policy owner on %s', t); end loop;
         end $$"
    );
    sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut connection).await.unwrap();
}

/// A database of its own, where what PostgreSQL knows by database only is to be told: deadlocks, or which rows nobody sees any more.
pub struct Database {
    pub name: String,
    pub url: String,
}

impl Database {
    pub async fn new() -> Self {
        let name = format!("test_{}", Uuid::new_v4().simple());
        statement(&format!("create database {name}")).await;
        let (server, _) = database_url().rsplit_once('/').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        Self { url: format!("{server}/{name}"), name }
    }

    pub async fn drop(self) {
        statement(&format!("drop database {} with (force)", self.name)).await;
    }
}

async fn statement(text: &str) {
    let mut raw = PgConnection::connect(&database_url()).await.unwrap();
    sqlx::query(AssertSqlSafe(text.to_owned())).execute(&mut raw).await.unwrap();
}

/// A store in a schema of its own.
pub async fn postgres() -> Engine {
    let (store, schema) = schema().await;
    blind_the_owner(&schema).await;
    Engine { store: Arc::new(store.clone()), schema: Some((store, schema)), directory: None }
}

pub async fn schema() -> (PgStore, String) {
    let schema = format!("test_{}", Uuid::new_v4().simple());
    let store = connect(&schema).await;
    store.migrate().await.unwrap();
    (store, schema)
}

pub async fn connect(schema: &str) -> PgStore {
    connect_by(&owners_url().await, schema).await
}

pub async fn connect_by(url: &str, schema: &str) -> PgStore {
    let options = PgOptions { schema: Some(schema.to_owned()), max_connections: 10, ..PgOptions::new(url) };
    PgStore::connect(options).await.unwrap()
}

/// The same as a store of any engine.
pub fn dynamic(store: &PgStore) -> DynStore {
    Arc::new(store.clone())
}

/// A connection of its own to a schema.
pub async fn raw(schema: &str) -> PgConnection {
    let mut connection = PgConnection::connect(&database_url()).await.unwrap();
    sqlx::query("select set_config('search_path', $1, false)").bind(schema).execute(&mut connection).await.unwrap();
    connection
}

/// The end of a test's schema.
pub async fn drop_schema(store: &PgStore, schema: &str) {
    store.close().await;
    let drop = format!("drop schema {schema} cascade");
    sqlx::query(AssertSqlSafe(drop)).execute(&mut raw("public").await).await.unwrap();
}

/// A store in a file of its own.
pub async fn sqlite() -> Engine {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(directory.path().join("orrery.db")).await.unwrap();
    Engine { store: Arc::new(store), schema: None, directory: Some(directory) }
}
