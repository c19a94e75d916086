use std::collections::HashMap;
use std::sync::Arc;

use orrery_proto::v1::LeaseBatch;
use orrery_proto::v1::coordinator_message::Kind;
use uuid::Uuid;

use super::frames::frames;
use super::{Dispatch, Intake, Reservations, Taken, Word};
use crate::clock::DatabaseClock;
use crate::execution::{Event, Execution};
use crate::store::{DynStore, Grant};

/// Sends leases to the agents that they were granted to, whoever granted them.
#[derive(Clone)]
pub struct HandOver {
    pub store: DynStore,
    pub dispatch: Arc<Dispatch>,
    pub intake: Intake,
    pub clock: Arc<DatabaseClock>,
}

impl HandOver {
    /// Sends leases to their agents; what cannot be sent is given back. Uses up the credits that were reserved for them; those of `reserved`
    /// that no lease used go back to their agents.
    pub async fn give(&self, grants: Vec<Grant>, reserved: Reservations) {
        let changed: Vec<Uuid> = grants.iter().map(|grant| grant.execution.id).collect();
        let mut batches: HashMap<Taken, Vec<Grant>> = HashMap::new();
        for grant in grants {
            if let Some(lease) = grant.execution.lease() {
                batches.entry((lease.session_id, grant.attachment)).or_default().push(grant);
            }
        }
        for (whose, batch) in batches {
            let unsent = self.send(whose, batch, &reserved);
            for (execution, epoch) in unsent {
                let event = Event::Released { session_id: whose.0, epoch };
                self.intake.say(Word { session: whose.0, execution, event }).await;
            }
        }
        // At once, and not after the hints: others may be waiting for these credits.
        drop(reserved);
        self.store.changed(&changed);
    }

    /// Sends leases of one attachment. Answers with them where they cannot be sent.
    fn send(&self, whose: Taken, batch: Vec<Grant>, reserved: &Reservations) -> Vec<(Uuid, i64)> {
        let frames = frames(&batch, &self.clock);
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
