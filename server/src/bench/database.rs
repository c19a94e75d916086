use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use uuid::Uuid;

use super::bed::Bed;
use super::error::{Result, failed};
use super::past;
use super::settings::Engine;
use crate::auth::{DEFAULT_TENANT, generate_key};
use crate::store::postgres::{PgOptions, PgStore};
use crate::store::sqlite::SqliteStore;
use crate::store::{ApiKey, Keys as _, Store as _};

/// The tenant beside the default one.
pub(super) const OTHER_TENANT: Uuid = Uuid::from_u128(2);

/// A migrated database with keys to it.
pub(super) struct Database {
    /// As DATABASE_URL takes it.
    pub(super) url: String,
    pub(super) keys: Keys,
    /// Connections of the bench's own; SQLite has none.
    pool: Option<PgPool>,
}

/// API keys.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    /// Of a caller of the default tenant.
    pub(super) caller: String,
    /// Of a caller of the other tenant.
    pub(super) other: String,
    /// Of agents, which serve all tenants.
    pub(super) agents: String,
}

impl Database {
    /// A new one.
    ///
    /// # Errors
    /// Where it cannot be made or migrated.
    pub(super) async fn new(bed: &Bed, engine: Engine) -> Result<Self> {
        match engine {
            Engine::Postgres => Self::postgres(bed.new_database().await?).await,
            Engine::Sqlite => Self::sqlite(format!("{}.db", bed.fresh_path("orrery").display())).await,
        }
    }

    async fn postgres(url: String) -> Result<Self> {
        let store = PgStore::connect(PgOptions { max_connections: 2, ..PgOptions::new(&url) }).await?;
        store.migrate().await?;
        let (keys, stored) = made(store.now().await?);
        for key in &stored {
            store.insert_key(key).await?;
        }
        store.close().await;
        let pool =
            PgPoolOptions::new().max_connections(4).acquire_timeout(Duration::from_secs(30)).connect(&url).await?;
        past::counted(&pool).await?;
        Ok(Self { url, keys, pool: Some(pool) })
    }

    async fn sqlite(path: String) -> Result<Self> {
        let store = SqliteStore::open(&path).await?;
        let (keys, stored) = made(store.now().await?);
        for key in &stored {
            store.insert_key(key).await?;
        }
        store.close().await;
        Ok(Self { url: format!("sqlite:{path}"), keys, pool: None })
    }

    /// Its PostgreSQL.
    ///
    /// # Errors
    /// Where it is none.
    pub(super) fn pool(&self) -> Result<&PgPool> {
        self.pool.as_ref().ok_or_else(|| failed("this is measured on PostgreSQL only"))
    }
}

fn made(now: chrono::DateTime<chrono::Utc>) -> (Keys, [ApiKey; 3]) {
    let key = |tenant, name| generate_key(tenant, name, vec!["*".into()], None, now);
    let (caller, of_caller) = key(Some(DEFAULT_TENANT), "bench");
    let (other, of_other) = key(Some(OTHER_TENANT), "bench-other");
    let (agents, of_agents) = key(None, "bench-agents");
    (Keys { caller, other, agents }, [of_caller, of_other, of_agents])
}
