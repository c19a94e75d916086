use std::collections::HashMap;
use std::sync::Arc;

use orrery_proto::v1::LeaseBatch;
use orrery_proto::v1::coordinator_message::Kind;
use uuid::Uuid;

use super::egress::Bounds;
use super::frames::frames;
use super::secrets::{self, Secrets};
use super::{Dispatch, Egress, Intake, Reservations, Taken, Word};
use crate::clock::DatabaseClock;
use crate::execution::{Event, Execution};
use crate::secret::Vault;
use crate::store::{DynStore, Grant};
use crate::tenant::Directory;

/// Sends leases to the agents that they were granted to, whoever granted them.
#[derive(Clone)]
pub struct HandOver {
    pub store: DynStore,
    pub dispatch: Arc<Dispatch>,
    pub intake: Intake,
    pub clock: Arc<DatabaseClock>,
    pub vault: Vault,
    pub egress: Egress,
    pub tenants: Directory,
}

impl HandOver {
    /// Sends leases to their agents; what cannot be sent is given back. Uses up the credits that were reserved for them; those of `reserved`
    /// that no lease used go back to their agents.
    pub async fn give(&self, grants: Vec<Grant>, reserved: Reservations) {
        let changed: Vec<Uuid> = grants.iter().map(|grant| grant.execution.id).collect();
        match self.egress.bounds(&self.tenants, &grants).await {
            Ok(bounds) => {
                let (secretive, plain): (Vec<Grant>, Vec<Grant>) = match grants.iter().any(secrets::needs_any) {
                    true => grants.into_iter().partition(secrets::needs_any),
                    false => (Vec::new(), grants),
                };
                self.send_all(plain, &Secrets::default(), (&bounds, &reserved)).await;
                if !secretive.is_empty() {
                    self.send_with_secrets(secretive, (&bounds, &reserved)).await;
                }
            }
            Err(error) => {
                tracing::warn!(%error, leases = grants.len(), "it cannot be read what bounds these leases; they go back");
                self.release(grants).await;
            }
        }
        // At once, and not after the hints: others may be waiting for these credits.
        drop(reserved);
        self.store.changed(&changed);
    }

    /// Sends leases with the secrets that they need. An attempt for which there is one missing fails, in so many words. Where the database does not
    /// tell, leases go back.
    async fn send_with_secrets(&self, grants: Vec<Grant>, how: (&Bounds, &Reservations)) {
        let secrets = match Secrets::of(&self.vault, &grants).await {
            Ok(secrets) => secrets,
            Err(error) => {
                tracing::warn!(%error, leases = grants.len(), "secrets cannot be read; leases that need them go back");
                return self.release(grants).await;
            }
        };
        let mut ready = Vec::with_capacity(grants.len());
        for grant in grants {
            match secrets.failure(&grant) {
                None => ready.push(grant),
                Some(report) => {
                    let finished = |session_id, epoch| Event::Finished { session_id, epoch, report: Box::new(report) };
                    self.say(&grant, finished).await;
                }
            }
        }
        self.send_all(ready, &secrets, how).await;
    }

    /// Gives leases back that are not sent.
    async fn release(&self, grants: Vec<Grant>) {
        for grant in grants {
            let released = |session_id, epoch| Event::Released { session_id, epoch };
            self.say(&grant, released).await;
        }
    }

    /// Says in the place of the agent what becomes of a lease that it is not sent.
    async fn say(&self, grant: &Grant, event: impl FnOnce(Uuid, i64) -> Event) {
        if let Some(lease) = grant.execution.lease() {
            let session = lease.session_id;
            let event = event(session, grant.execution.epoch);
            self.intake.say(Word { session, execution: grant.execution.id, event }).await;
        }
    }

    async fn send_all(&self, grants: Vec<Grant>, secrets: &Secrets, how: (&Bounds, &Reservations)) {
        let mut batches: HashMap<Taken, Vec<Grant>> = HashMap::new();
        for grant in grants {
            if let Some(lease) = grant.execution.lease() {
                batches.entry((lease.session_id, grant.attachment)).or_default().push(grant);
            }
        }
        for (whose, batch) in batches {
            let unsent = self.send(whose, batch, secrets, how);
            for (execution, epoch) in unsent {
                let event = Event::Released { session_id: whose.0, epoch };
                self.intake.say(Word { session: whose.0, execution, event }).await;
            }
        }
    }

    /// Sends leases of one attachment. Answers with them where they cannot be sent.
    fn send(
        &self,
        whose: Taken,
        batch: Vec<Grant>,
        secrets: &Secrets,
        (bounds, reserved): (&Bounds, &Reservations),
    ) -> Vec<(Uuid, i64)> {
        let frames = frames(&batch, secrets, bounds, &self.clock);
        let leases: Vec<(Uuid, i64)> = batch.iter().map(|g| (g.execution.id, g.execution.epoch)).collect();
        let known: Vec<Arc<Execution>> = batch.into_iter().map(|grant| Arc::new(grant.execution)).collect();
        let spent = reserved.spend(whose, known.len());
        // The session may have moved to another stream meanwhile, which does not know of these leases.
        let sent = self.dispatch.on(whose.0, whose.1, |attached| {
            attached.take(known, spent);
            let send = |batch: LeaseBatch| attached.send(Kind::Leases(batch));
            frames.into_iter().all(send)
        });
        if sent == Some(true) { Vec::new() } else { leases }
    }
}
