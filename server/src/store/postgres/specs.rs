//! Definitions in memory. A definition never changes under its (job, version), so what was read once stays right.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::rows;
use crate::job::JobSpec;
use crate::store::{Result, StoreError};

/// Definitions kept.
const CAPACITY: usize = 10_000;

/// Definitions by (job, version), committed ones only.
#[derive(Default)]
pub(super) struct Specs {
    known: Mutex<HashMap<(Uuid, i64), Arc<JobSpec>>>,
}

impl Specs {
    fn get(&self, key: (Uuid, i64)) -> Option<Arc<JobSpec>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned()
    }

    fn put(&self, key: (Uuid, i64), spec: Arc<JobSpec>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= CAPACITY {
            // Which ones are needed again nobody knows; a fresh start costs one read each.
            known.clear();
        }
        known.insert(key, spec);
    }

    /// The definition of a row that carries its text.
    pub(super) fn parse(&self, job: Uuid, version: i64, text: &str) -> Result<Arc<JobSpec>> {
        if let Some(spec) = self.get((job, version)) {
            return Ok(spec);
        }
        let spec: JobSpec = serde_json::from_str(text).map_err(|error| StoreError::Corrupt {
            table: "job_versions",
            reason: format!("job {job}, version {version}: {error}"),
        })?;
        let spec = Arc::new(spec);
        self.put((job, version), spec.clone());
        Ok(spec)
    }

    /// The definitions of versions; those that are not in memory are read at once. One that cannot be read is left out, and said: it is not to
    /// hold up the others.
    pub(super) async fn load(
        &self,
        connection: &mut PgConnection,
        wanted: impl IntoIterator<Item = (Uuid, i64)>,
    ) -> Result<HashMap<(Uuid, i64), Arc<JobSpec>>> {
        let mut found = HashMap::new();
        let mut missing = (Vec::new(), Vec::new());
        for key in wanted {
            if found.contains_key(&key) {
                continue;
            }
            match self.get(key) {
                Some(spec) => {
                    found.insert(key, spec);
                }
                None => {
                    missing.0.push(key.0);
                    missing.1.push(key.1);
                }
            }
        }
        if missing.0.is_empty() {
            return Ok(found);
        }
        let read = sqlx::query(
            "select v.job_id, v.version, v.spec from job_versions v
             join (select distinct * from unnest($1::uuid[], $2::bigint[]) as u(job_id, version)) w
               on w.job_id = v.job_id and w.version = v.version",
        )
        .bind(&missing.0)
        .bind(&missing.1)
        .fetch_all(connection)
        .await?;
        for row in read {
            let key = (row.try_get("job_id")?, row.try_get("version")?);
            match self.parse(key.0, key.1, rows::text(&row, "spec")?) {
                Ok(spec) => {
                    found.insert(key, spec);
                }
                Err(error) => tracing::error!(%error, "a definition cannot be read; what runs by it waits"),
            }
        }
        Ok(found)
    }
}
