//! From pending executions to agents and back: the sessions of this coordinator's agents, who gets what, and what agents say.
//!
//! [`Dispatch`] is the registry of attached sessions. The loops around it own no state of their own: the dispatcher grants, the intake
//! writes what agents say, renewals keep sessions alive, cancels tell agents to stop. Everything that decides anything is in the store.

mod cancels;
mod dispatcher;
mod heartbeat;
mod intake;
mod logs;
pub mod matching;
mod renewals;
mod service;
mod session;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use orrery_proto::v1::coordinator_message::Kind;
use orrery_proto::v1::{CoordinatorMessage, DrainRequest, HeldLease, JobType, Revoke};
use tokio::sync::Semaphore;
use uuid::Uuid;

pub use cancels::Cancels;
pub use dispatcher::Dispatcher;
pub use intake::{Intake, Word};
pub use renewals::Renewals;
pub use service::AgentApi;
pub use session::Attached;

use crate::execution::{Execution, State};
use crate::store::{Held, Lane};
use crate::telemetry::Metrics;

/// The sessions attached to this coordinator.
pub struct Dispatch {
    attached: Mutex<BTreeMap<Uuid, Attached>>,
    /// The lanes that are known here. They never change, so they are only added to.
    lanes: Mutex<BTreeMap<i64, Lane>>,
    /// Agents that are let in at the same time.
    admission: Semaphore,
    metrics: Metrics,
}

/// How many sessions are opened or resumed at once. Where hundreds of agents come back together, the others wait for a moment, and the
/// database's connections stay free for heartbeats and work.
const ADMISSIONS: usize = 4;

impl Dispatch {
    /// A registry without sessions.
    pub fn new(metrics: Metrics) -> Self {
        Self { attached: Mutex::default(), lanes: Mutex::default(), admission: Semaphore::new(ADMISSIONS), metrics }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Uuid, Attached>> {
        self.attached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many agents are attached.
    pub fn sessions(&self) -> usize {
        self.lock().len()
    }

    /// Leases that attached agents hold.
    pub fn running(&self) -> usize {
        self.lock().values().map(|attached| attached.held.len()).sum()
    }

    /// Attaches a session. Of two attachments of one session the newer one stays, and the other is cut off.
    pub(crate) fn attach(&self, session: Attached) {
        let mut sessions = self.lock();
        match sessions.get(&session.id) {
            Some(newer) if newer.attachment > session.attachment => session.cut.cancel(),
            _ => {
                if let Some(old) = sessions.insert(session.id, session) {
                    old.cut.cancel();
                }
            }
        }
    }

    /// Detaches a session, if it is still this attachment of it.
    pub(crate) fn detach(&self, id: Uuid, attachment: i64) {
        let mut sessions = self.lock();
        if sessions.get(&id).is_some_and(|attached| attached.attachment == attachment) {
            sessions.remove(&id);
        }
    }

    /// Cuts a session off: it has expired, and its agent must begin anew.
    pub fn expel(&self, id: Uuid) {
        if let Some(attached) = self.lock().remove(&id) {
            attached.cut.cancel();
        }
    }

    /// Cuts off all sessions, telling their agents to go elsewhere.
    pub fn send_away(&self) {
        for attached in self.lock().values_mut() {
            // Nothing more is granted to a stream that is about to end.
            attached.draining = true;
            attached.send(Kind::Drain(DrainRequest { reconnect: true }));
        }
    }

    /// Tells an agent that a lease is its own no more.
    pub fn revoke(&self, held: Held) {
        if let Some(attached) = self.lock().get_mut(&held.session_id) {
            attached.forget(held.execution_id, held.epoch);
            let lease = HeldLease { execution_id: held.execution_id.to_string(), epoch: held.epoch };
            attached.send(Kind::Revoke(Revoke { leases: vec![lease] }));
        }
    }

    /// Tells an agent to take no further work. `false` where it is not attached here.
    pub fn drain(&self, id: Uuid) -> bool {
        let mut sessions = self.lock();
        let Some(attached) = sessions.get_mut(&id) else { return false };
        attached.draining = true;
        attached.send(Kind::Drain(DrainRequest { reconnect: false }));
        true
    }

    /// Changes an attached session.
    pub(crate) fn with<T>(&self, id: Uuid, change: impl FnOnce(&mut Attached) -> T) -> Option<T> {
        self.lock().get_mut(&id).map(change)
    }

    /// Changes a session, if it is still on this attachment: what was said on an older stream is not about the newer one.
    pub(crate) fn on<T>(&self, id: Uuid, attachment: i64, change: impl FnOnce(&mut Attached) -> T) -> Option<T> {
        self.lock().get_mut(&id).filter(|attached| attached.attachment == attachment).map(change)
    }

    /// Cuts an attachment off whose session is over.
    pub(crate) fn expel_from(&self, id: Uuid, attachment: i64) {
        if self.on(id, attachment, |attached| attached.cut.cancel()).is_some() {
            self.detach(id, attachment);
        }
    }

    /// Ids of the attached sessions.
    pub(crate) fn ids(&self) -> Vec<Uuid> {
        self.lock().keys().copied().collect()
    }

    /// Counts what was claimed at once.
    pub(crate) fn claimed(&self, executions: usize) {
        self.metrics.dispatched(executions);
    }

    /// Counts an execution that has just changed.
    pub fn observe(&self, execution: &Execution) {
        let State::Done(outcome) = &execution.state else { return };
        let lanes = self.lanes();
        let job_type = lanes
            .get(&execution.lane_id)
            .and_then(|lane| JobType::from_json_str(lane.executor.split(':').next().unwrap_or_default()))
            .unwrap_or_default();
        let duration = outcome.duration_ms.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis);
        self.metrics.execution_ended(job_type, outcome.status, execution.tenant_id, duration);
        if let Some(reason) = execution.quarantine() {
            self.metrics.quarantined(reason);
        }
    }

    /// The lanes that are known here.
    pub(crate) fn lanes(&self) -> MutexGuard<'_, BTreeMap<i64, Lane>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn offers(&self) -> Vec<matching::Offer> {
        self.lock().values().filter_map(Attached::offer).collect()
    }
}

/// A message of ours.
pub(crate) fn message(kind: Kind) -> CoordinatorMessage {
    CoordinatorMessage { kind: Some(kind) }
}

/// The leases of a session, by execution.
pub(crate) type Leases = HashMap<Uuid, i64>;

/// The leases that an agent names. An id that is no UUID names nothing.
pub(crate) fn leases(named: &[HeldLease]) -> Leases {
    named.iter().filter_map(|lease| Some((lease.execution_id.parse().ok()?, lease.epoch))).collect()
}

/// Whether this very lease is among `leases`.
pub(crate) fn knows(leases: &Leases, lease: &HeldLease) -> bool {
    lease.execution_id.parse().is_ok_and(|execution: Uuid| leases.get(&execution) == Some(&lease.epoch))
}
