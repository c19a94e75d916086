use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Backoff, Pace};
use crate::audit::{Place, Seal, Signer};
use crate::store::{DropAudit, DynStore, StoreError, Unsealed};
use crate::telemetry::Metrics;

/// How often old entries are looked for.
const RETENTION: Duration = Duration::from_secs(3600);

/// Seals what was written to the audit log, tenant by tenant. Any number of coordinators may do it: each chain is one's at a time.
#[derive(Clone)]
pub struct Sealer {
    pub store: DynStore,
    pub signer: Signer,
    pub metrics: Metrics,
}

impl Sealer {
    /// Goes on until the end.
    pub async fn run(self, shutdown: CancellationToken) {
        let (mut pace, mut backoff) = (Pace::default(), Backoff::default());
        loop {
            let pause = match self.look().await {
                Ok(found) => {
                    backoff.reset();
                    pace.after(found)
                }
                Err(error) => {
                    tracing::warn!(%error, "the audit log could not be sealed");
                    backoff.next()
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Drops what is old, until the end.
    pub async fn keep(self, drop: DropAudit, shutdown: CancellationToken) {
        loop {
            if let Err(error) = self.drop_old(&drop).await {
                tracing::warn!(%error, "old audit entries could not be dropped; it is tried again in an hour");
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(RETENTION) => {}
            }
        }
    }

    /// Drops what is old now; answers with how many seals went.
    ///
    /// # Errors
    /// The store's.
    pub async fn drop_old(&self, drop: &DropAudit) -> Result<usize, StoreError> {
        let mut dropped = 0;
        for tenant in self.store.audited_tenants().await? {
            let checkpoint = |link, at| self.signer.sign(Place::Checkpoint, tenant, link, at);
            loop {
                let some = self.store.drop_audit(tenant, drop, &checkpoint).await?;
                dropped += some;
                if some == 0 {
                    break;
                }
            }
        }
        Ok(dropped)
    }

    /// Seals what waits now; answers with whether there was anything.
    ///
    /// # Errors
    /// The store's.
    pub async fn look(&self) -> Result<bool, StoreError> {
        let waiting = self.store.unsealed().await?;
        let oldest = waiting.iter().map(|unsealed| unsealed.age).max().unwrap_or_default();
        self.metrics.audit_unsealed(waiting.iter().map(|unsealed| unsealed.entries).sum(), oldest);
        for Unsealed { tenant, .. } in &waiting {
            self.seal(*tenant).await?;
        }
        Ok(!waiting.is_empty())
    }

    async fn seal(&self, tenant: Uuid) -> Result<(), StoreError> {
        let seal = |after, entries: &[_], now| {
            let seal = Seal::of(tenant, after, entries, now);
            let head = self.signer.sign(Place::Head, tenant, seal.link(after), now);
            (seal, head)
        };
        // As many as waited: what comes meanwhile is not to keep other tenants from their turn for ever.
        for _ in 0..AT_ONCE {
            match self.store.seal_audit(tenant, &seal).await? {
                Some(sealed) => {
                    self.metrics.audit_sealed(sealed.changed, sealed.denied);
                    if !sealed.more {
                        return Ok(());
                    }
                }
                None => return Ok(()),
            }
        }
        Ok(())
    }
}

/// Seals of one tenant in a row.
const AT_ONCE: usize = 80;
