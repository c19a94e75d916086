use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::RunError;
use crate::store::postgres::{PgOptions, PgStore};
use crate::store::sqlite::SqliteStore;
use crate::store::{DynStore, StoreError};

/// How long a database that is down at the start is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Opens the store of a database's address and migrates it. A PostgreSQL that cannot be reached yet is waited for, with messages.
///
/// # Errors
/// Where the address is of no known kind, the database cannot be reached in time, or it cannot be migrated.
pub(super) async fn open(url: &str, read_url: Option<&str>, connections: u32) -> Result<DynStore, RunError> {
    if let Some(wrong) = read_url.filter(|read| !is_postgres(read) || !is_postgres(url)) {
        let kind = if is_postgres(wrong) {
            "SQLite has no replicas"
        } else {
            "must be postgres://USER:PASSWORD@HOST:PORT/DATABASE"
        };
        return Err(RunError::Setting(format!("DATABASE_READ_URL: {kind}")));
    }
    if let Some(path) = url.strip_prefix("sqlite://").or_else(|| url.strip_prefix("sqlite:")) {
        let store = SqliteStore::open(path).await;
        return store
            .map(|s| Arc::new(s) as DynStore)
            .map_err(|source| failed(format!("{path} cannot be opened"), source));
    }
    if !is_postgres(url) {
        let kinds = "postgres://USER:PASSWORD@HOST:PORT/DATABASE or sqlite:PATH";
        return Err(RunError::Setting(format!("DATABASE_URL: must be {kinds}")));
    }
    let end = Instant::now() + PATIENCE;
    let mut pause = Duration::from_millis(250);
    loop {
        let options = PgOptions {
            max_connections: connections,
            read_url: read_url.map(ToOwned::to_owned),
            ..PgOptions::new(url)
        };
        let error = match connected(options).await {
            Ok(store) => return Ok(store),
            Err(error @ StoreError::Unavailable(_)) if Instant::now() + pause < end => error,
            Err(error) => return Err(failed("the database of DATABASE_URL cannot be used".into(), error)),
        };
        tracing::warn!(error = %source_of(&error), "the database cannot be reached yet; trying again in {pause:?}");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}

fn is_postgres(url: &str) -> bool {
    url.starts_with("postgres://") || url.starts_with("postgresql://")
}

async fn connected(options: PgOptions) -> Result<DynStore, StoreError> {
    let store = PgStore::connect(options).await?;
    store.migrate().await?;
    Ok(Arc::new(store))
}

fn failed(context: String, source: StoreError) -> RunError {
    // Not every error has a cause that its own text leaves out.
    let context = match std::error::Error::source(&source) {
        Some(cause) => format!("{context} ({cause})"),
        None => context,
    };
    RunError::Store { context, source }
}

fn source_of(error: &StoreError) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_postgres_has_replicas() {
        for (url, read) in [("sqlite:x.db", "postgres://a@b/c"), ("postgres://a@b/c", "sqlite:x.db")] {
            let message = open(url, Some(read), 1).await.err().unwrap().to_string();
            assert!(message.starts_with("DATABASE_READ_URL: "), "{message}");
        }
    }

    #[tokio::test]
    async fn a_file_that_is_in_use_is_said_once() {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", dir.path().join("orrery.db").display());
        let _first = open(&url, None, 1).await.unwrap();
        let message = open(&url, None, 1).await.err().unwrap().to_string();
        assert_eq!(message.matches("in use").count(), 1, "{message}");
    }
}
