use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgPool};
use tempfile::TempDir;
use uuid::Uuid;

use super::error::{Result, Tried, failed, path};
use super::postgres::Postgres;
use super::procfs;
use super::settings::Settings;

/// What all scenarios stand on: a directory, and a PostgreSQL in which each makes a database of its own.
pub(super) struct Bed {
    pub(super) settings: Settings,
    directory: TempDir,
    server: Option<Server>,
    /// Databases that were made and not dropped.
    made: Mutex<Vec<String>>,
}

struct Server {
    url: String,
    own: Option<Postgres>,
    pool: PgPool,
    /// The process whose children serve the connections, where it runs on this machine.
    pid: Option<i32>,
}

impl Bed {
    /// Makes the directory, and starts or reaches PostgreSQL where a scenario needs it.
    ///
    /// # Errors
    /// Where that cannot be done.
    pub(super) async fn prepared(settings: Settings, needs_postgres: bool) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("orrery-bench-").tempdir();
        let directory = directory.tried(|| "making a temporary directory".into())?;
        // PostgreSQL may run as another user.
        let open = fs::set_permissions(directory.path(), Permissions::from_mode(0o755));
        open.tried(path("opening", directory.path()))?;
        let server = match needs_postgres {
            true => Some(Server::reached(settings.database_url.as_deref(), directory.path()).await?),
            false => None,
        };
        Ok(Self { settings, directory, server, made: Mutex::default() })
    }

    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A path that nothing has been made at.
    pub(super) fn fresh_path(&self, name: &str) -> PathBuf {
        self.directory.path().join(format!("{name}-{}", Uuid::new_v4().simple()))
    }

    /// Connections to PostgreSQL itself.
    pub(super) fn server(&self) -> Option<&PgPool> {
        self.server.as_ref().map(|server| &server.pool)
    }

    /// CPU seconds that PostgreSQL has used, where it runs on this machine.
    pub(super) fn postgres_cpu(&self) -> Option<f64> {
        procfs::cpu_of_family(self.server.as_ref()?.pid?)
    }

    /// An empty database, by its address.
    ///
    /// # Errors
    /// Where the user may not make one.
    pub(super) async fn new_database(&self) -> Result<String> {
        let server = self.server.as_ref().ok_or_else(|| failed("PostgreSQL was not started"))?;
        let name = format!("orrery_bench_{}", Uuid::new_v4().simple());
        sqlx::query(AssertSqlSafe(format!("create database {name}"))).execute(&server.pool).await?;
        self.made.lock().unwrap_or_else(PoisonError::into_inner).push(name.clone());
        Ok(with_database(&server.url, &name))
    }

    /// Drops the databases that were made, so that what was measured does not disturb what comes next.
    pub(super) async fn drop_databases(&self) {
        let made = std::mem::take(&mut *self.made.lock().unwrap_or_else(PoisonError::into_inner));
        let Some(server) = &self.server else { return };
        for name in made {
            let drop = format!("drop database if exists {name} with (force)");
            if let Err(error) = sqlx::query(AssertSqlSafe(drop)).execute(&server.pool).await {
                eprintln!("bench: the database {name} is left: {error}");
            }
        }
    }

    /// Stops what it started and removes what it made.
    pub(super) async fn close(self) {
        self.drop_databases().await;
        if let Some(server) = self.server {
            server.pool.close().await;
            if let Some(own) = server.own {
                own.stop().await;
            }
        }
    }
}

impl Server {
    async fn reached(url: Option<&str>, directory: &Path) -> Result<Self> {
        let own = match url {
            Some(_) => None,
            None => Some(Postgres::start(directory).await?),
        };
        let url = own.as_ref().map(Postgres::url).or(url).unwrap_or_default().to_owned();
        let pool =
            PgPoolOptions::new().max_connections(2).acquire_timeout(Duration::from_secs(30)).connect(&url).await?;
        let backend: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&pool).await?;
        Ok(Self { url, own, pool, pid: procfs::parent_of(backend, "postgres") })
    }
}

/// The address of another database of the same server.
fn with_database(url: &str, name: &str) -> String {
    let (address, query) = url.split_once('?').map_or((url, None), |(address, query)| (address, Some(query)));
    let after_scheme = address.find("://").map_or(0, |at| at + 3);
    let end = address[after_scheme..].find('/').map_or(address.len(), |at| after_scheme + at);
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    format!("{}/{name}{query}", &address[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_database_of_the_same_server() {
        for (url, other) in [
            ("postgres://a:b@h:1/x", "postgres://a:b@h:1/y"),
            ("postgres://a@h", "postgres://a@h/y"),
            ("postgresql://a@h/x?sslmode=require", "postgresql://a@h/y?sslmode=require"),
        ] {
            assert_eq!(with_database(url, "y"), other);
        }
    }
}
