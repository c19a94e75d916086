//! AUDIT_SERVICE_URL: a sibling service that gets a copy of the log.
//!
//! What it has not yet is in the database: the seals beyond `audit_copies`, so that a copy outlives a restart of everybody, and no change waits for a
//! service that is dead. Each seal is one request, `POST {AUDIT_SERVICE_URL}/api/v1/audit/batches`, with its entries and hashes, in order for each
//! tenant, at least once: `Idempotency-Key` is the same each time, `TENANT/SEQUENCE`. What answers with 200 to 299, or 409 for one that it has, has it.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::Seal;
use crate::lock::{self, Locks};
use crate::sibling::Sibling;
use crate::store::{AuditEntry, DynStore, StoreError, Uncopied};
use crate::telemetry::Metrics;

/// Where its batches go.
const PATH: &str = "/api/v1/audit/batches";
/// How often there is a look.
const LOOK: Duration = Duration::from_secs(2);
/// The longest pause after it did not answer.
const MOST: Duration = Duration::from_secs(60);
/// Seals that are read at once.
const A_ROUND: i64 = 10;

/// Copies the log to another service.
pub struct Copier {
    store: DynStore,
    locks: Locks,
    service: Sibling,
    service_token: Option<String>,
    metrics: Metrics,
}

impl Copier {
    /// One that posts to a service, with the token that services share where there is one.
    pub fn new(
        store: DynStore,
        locks: Locks,
        service: Sibling,
        service_token: Option<String>,
        metrics: Metrics,
    ) -> Self {
        Self { store, locks, service, service_token, metrics }
    }

    /// Goes on until the end.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut pause = LOOK;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = match self.look().await {
                Ok(true) => LOOK,
                Ok(false) => (pause * 2).min(MOST),
                Err(error) => {
                    tracing::warn!(%error, "the audit log could not be copied");
                    (pause * 2).min(MOST)
                }
            };
        }
    }

    /// Copies what has not been copied; `false` where the service did not take it.
    ///
    /// # Errors
    /// The store's.
    pub async fn look(&self) -> Result<bool, StoreError> {
        let uncopied = self.store.uncopied().await?;
        self.metrics.audit_copy_lag(uncopied.iter().map(|uncopied| uncopied.age).max().unwrap_or_default());
        if uncopied.is_empty() {
            return Ok(true);
        }
        // One coordinator at a time: two would only send everything twice.
        let Ok(_held) = self.locks.acquire(lock::AUDIT_COPY, Duration::ZERO).await else { return Ok(true) };
        for Uncopied { tenant, copied, .. } in uncopied {
            if !self.copy(tenant, copied).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Copies a round of a tenant's seals.
    async fn copy(&self, tenant: Uuid, copied: i64) -> Result<bool, StoreError> {
        for seal in self.store.audit_seals(tenant, copied, A_ROUND).await? {
            let ids: Vec<Uuid> = seal.entries.iter().map(|(id, _)| *id).collect();
            let entries = self.store.audit_entries_of(tenant, &ids).await?;
            let key = format!("{tenant}/{}", seal.sequence);
            let mut headers = vec![("idempotency-key", key.as_str())];
            headers.extend(self.service_token.as_deref().map(|token| ("x-service-token", token)));
            match self.service.post(PATH, &batch(&seal, entries), &headers).await {
                Ok(answer) if answer.status.is_success() || answer.status == http::StatusCode::CONFLICT => {
                    self.store.copied(tenant, seal.sequence).await?;
                }
                Ok(answer) => {
                    tracing::warn!(status = %answer.status, "the audit service refused a part of the log; it is sent again");
                    return Ok(false);
                }
                Err(_) => return Ok(false),
            }
        }
        Ok(true)
    }
}

/// A seal with its entries, as the service gets it.
fn batch(seal: &Seal, entries: Vec<AuditEntry>) -> Value {
    let mut entries: HashMap<Uuid, AuditEntry> = entries.into_iter().map(|entry| (entry.id, entry)).collect();
    let one = |(id, hash): &(Uuid, [u8; 32])| {
        let Some(AuditEntry { at, author, deed, outcome, .. }) = entries.remove(id) else {
            return json!({ "id": id, "hash": hex(hash), "missing": true });
        };
        let value = |text: Option<String>| text.and_then(|text| serde_json::from_str::<Value>(&text).ok());
        json!({
            "id": id,
            "hash": hex(hash),
            "at": at,
            "actor": { "kind": author.kind, "id": author.id, "name": author.name },
            "action": deed.action,
            "resource": { "type": deed.resource.kind, "id": deed.resource.id, "name": deed.resource.name },
            "origin": { "address": author.address, "requestId": author.request_id },
            "outcome": outcome,
            "before": value(deed.before),
            "after": value(deed.after),
        })
    };
    let entries: Vec<Value> = seal.entries.iter().map(one).collect();
    json!({
        "service": "scheduler-service",
        "tenantId": seal.tenant,
        "sequence": seal.sequence,
        "sealedAt": seal.sealed_at,
        "previousHash": hex(&seal.previous),
        "hash": hex(&seal.hash),
        "entries": entries,
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
