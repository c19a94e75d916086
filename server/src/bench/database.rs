use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use uuid::Uuid;

use super::bed::Bed;
use super::error::{Result, failed};
use super::past;
use super::settings::Engine;
use crate::auth::{DEFAULT_TENANT, Keyring, NewKey, generate_key};
use crate::config::ServerSecret;
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
    /// What the keys are hashed under, as ORRERY_KEY_PEPPER takes it.
    pub(super) pepper: String,
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
        let pepper = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        let (keys, stored) = made(&pepper, store.now().await?)?;
        for key in &stored {
            store.insert_key(key).await?;
        }
        store.close().await;
        let pool =
            PgPoolOptions::new().max_connections(4).acquire_timeout(Duration::from_secs(30)).connect(&url).await?;
        past::counted(&pool).await?;
        Ok(Self { url, keys, pepper, pool: Some(pool) })
    }

    async fn sqlite(path: String) -> Result<Self> {
        let store = SqliteStore::open(&path).await?;
        let pepper = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        let (keys, stored) = made(&pepper, store.now().await?)?;
        for key in &stored {
            store.insert_key(key).await?;
        }
        store.close().await;
        Ok(Self { url: format!("sqlite:{path}"), keys, pepper, pool: None })
    }

    /// Its PostgreSQL.
    ///
    /// # Errors
    /// Where it is none.
    pub(super) fn pool(&self) -> Result<&PgPool> {
        self.pool.as_ref().ok_or_else(|| failed("this is measured on PostgreSQL only"))
    }
}

fn made(pepper: &str, now: chrono::DateTime<chrono::Utc>) -> Result<(Keys, [ApiKey; 3])> {
    let secret = ServerSecret { key_pepper: vec![pepper.to_owned()], key_file: None };
    let keyring = Keyring::from_settings(&secret, None).map_err(|error| failed(error.to_string()))?;
    let key = |tenant_id, name: &str| {
        let permissions = vec!["*".to_owned()];
        let new = NewKey { tenant_id, name: name.to_owned(), permissions, expires_at: None, created_by: None };
        generate_key(&keyring, new, now)
    };
    let (caller, of_caller) = key(Some(DEFAULT_TENANT), "bench");
    let (other, of_other) = key(Some(OTHER_TENANT), "bench-other");
    let (agents, of_agents) = key(None, "bench-agents");
    Ok((Keys { caller, other, agents }, [of_caller, of_other, of_agents]))
}
