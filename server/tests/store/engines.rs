//! Stores to test.

use std::sync::Arc;

use orrery_server::store::DynStore;
use orrery_server::store::postgres::{PgOptions, PgStore};
use orrery_server::store::sqlite::SqliteStore;
use sqlx::{AssertSqlSafe, Connection};
use tempfile::TempDir;
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
        sqlx::query(AssertSqlSafe(drop)).execute(&mut connection).await.unwrap();
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

/// A store in a schema of its own.
pub async fn postgres() -> Engine {
    let (store, schema) = schema().await;
    Engine { store: Arc::new(store.clone()), schema: Some((store, schema)), directory: None }
}

pub async fn schema() -> (PgStore, String) {
    let schema = format!("test_{}", Uuid::new_v4().simple());
    let store = connect(&schema).await;
    store.migrate().await.unwrap();
    (store, schema)
}

pub async fn connect(schema: &str) -> PgStore {
    connect_by(&database_url(), schema).await
}

pub async fn connect_by(url: &str, schema: &str) -> PgStore {
    let options = PgOptions { schema: Some(schema.to_owned()), max_connections: 10, ..PgOptions::new(url) };
    PgStore::connect(options).await.unwrap()
}

/// A store in a file of its own.
pub async fn sqlite() -> Engine {
    let directory = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(directory.path().join("orrery.db")).await.unwrap();
    Engine { store: Arc::new(store), schema: None, directory: Some(directory) }
}
