//! What the figures were measured on.

use serde_json::{Value, json};
use sqlx::PgPool;

use super::error::Result;
use super::procfs;

/// Processor, cores and memory.
pub(super) fn machine() -> Value {
    let cores = std::thread::available_parallelism().map(usize::from).ok();
    json!({"cpu": procfs::cpu_model(), "cores": cores, "memory_bytes": procfs::total_memory()})
}

/// Of what took part.
pub(super) fn versions(postgres: Option<String>) -> Value {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok();
    json!({
        "orrery": env!("CARGO_PKG_VERSION"),
        "build": if cfg!(debug_assertions) { "debug" } else { "release" },
        "postgres": postgres,
        "kernel": kernel.map(|text| text.trim().to_owned()),
    })
}

/// The settings of PostgreSQL that its speed and its durability depend on.
///
/// # Errors
/// Where it cannot be asked.
pub(super) async fn postgres_settings(pool: &PgPool) -> Result<Value> {
    let rows: Vec<(String, String)> = sqlx::query_as(
        "select name, current_setting(name) from pg_settings where name in ('fsync', 'synchronous_commit', 'full_page_writes',
            'shared_buffers', 'max_wal_size', 'wal_level', 'wal_compression', 'checkpoint_timeout', 'autovacuum', 'jit') order by name",
    )
    .fetch_all(pool)
    .await?;
    Ok(Value::Object(rows.into_iter().map(|(name, value)| (name, value.into())).collect()))
}
