//! From pending executions to agents and back: the sessions of this coordinator's agents, who gets what, and what agents say.
//!
//! [`Dispatch`] is the registry of attached sessions. The loops around it own no state of their own: the dispatcher grants, the intake
//! writes what agents say, renewals keep sessions alive, cancels tell agents to stop. Everything that decides anything is in the store.

mod answers;
mod armer;
mod cancels;
mod dispatcher;
mod egress;
mod enrolled;
mod frames;
mod handover;
mod heartbeat;
mod intake;
mod logs;
mod looked;
pub mod matching;
mod pool;
mod registry;
mod renewals;
mod reservations;
mod secrets;
mod service;
mod session;
mod words;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use orrery_proto::v1::coordinator_message::Kind;
use orrery_proto::v1::{CoordinatorMessage, DrainRequest, HeldLease, Revoke};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use uuid::Uuid;

pub use armer::Armer;
pub use cancels::Cancels;
pub use dispatcher::Dispatcher;
pub use egress::Egress;
pub use enrolled::Streams;
pub use handover::HandOver;
pub use intake::{Intake, Word};
pub(crate) use looked::Looked;
pub use renewals::Renewals;
pub use reservations::Reservations;
pub use service::AgentApi;
pub use session::Attached;

use self::registry::Registry;
use crate::config::Limits;
use crate::execution::Execution;
use crate::store::{Assignment, Held, Lane};
use crate::telemetry::{Ended, Metrics};

/// The sessions attached to this coordinator.
pub struct Dispatch {
    registry: Mutex<Registry>,
    looked: Mutex<Looked>,
    /// Agents that are let in at the same time.
    admission: Semaphore,
    /// Sessions that are compared with the store at the same time.
    audits: Semaphore,
    metrics: Metrics,
}

/// How many sessions are opened or resumed at once. Where hundreds of agents come back together, the others wait for a moment, and the
/// database's connections stay free for heartbeats and work.
const ADMISSIONS: usize = 4;

/// How many sessions are compared with the store at once.
const AUDITS: usize = 2;

impl Dispatch {
    /// A registry without sessions. Of the limits it keeps how agents are chosen, and how many executions they hold at once.
    pub fn new(metrics: Metrics, limits: &Limits) -> Self {
        let registry = Registry::new(limits.strategy, limits.max_concurrent_jobs);
        Self {
            registry: Mutex::new(registry),
            looked: Mutex::default(),
            admission: Semaphore::new(ADMISSIONS),
            audits: Semaphore::new(AUDITS),
            metrics,
        }
    }

    /// All sessions, for a change of several at once.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many agents are attached.
    pub fn sessions(&self) -> usize {
        self.lock().sessions().len()
    }

    /// Leases that attached agents hold, those on their way included.
    pub fn running(&self) -> usize {
        self.lock().running()
    }

    /// How many executions the attached agents would take now.
    #[cfg(test)]
    pub(crate) fn free(&self) -> usize {
        self.lock().free()
    }

    /// How many executions the attached agents would take now, and how many of those a claim leaves to what goes out as it is made.
    pub(crate) fn free_and_kept(&self) -> (usize, usize) {
        let registry = self.lock();
        (registry.free(), registry.kept())
    }

    /// How many of those may be what is not due yet: none while there is a backlog.
    pub(crate) fn spare(&self) -> usize {
        self.lock().spare()
    }

    /// Whether more waits than could be given away.
    pub(crate) fn set_backlog(&self, is_backlog: bool) {
        self.lock().has_backlog = is_backlog;
    }

    /// The lanes that somebody free serves, by id.
    pub(crate) fn open_lanes(&self) -> Vec<i64> {
        self.lock().pool.open_lanes()
    }

    /// A way to take credits for leases that are about to be granted.
    pub fn reservations(self: &Arc<Self>) -> Reservations {
        Reservations::new(self.clone())
    }

    /// Takes lanes in: what waits in them can be given away from now on. Whether any of them was not known.
    pub fn learn(&self, lanes: impl IntoIterator<Item = Lane>) -> bool {
        let mut registry = self.lock();
        lanes.into_iter().fold(false, |news, lane| registry.pool.learn(lane) | news)
    }

    /// Whether somebody has named a lane that is not known here.
    fn misses_lane(&self) -> bool {
        self.lock().lane_missed
    }

    /// Attaches a session. Of two attachments of one session the newer one stays, and the other is cut off.
    pub(crate) fn attach(&self, session: Attached) {
        let mut registry = self.lock();
        match registry.get(session.id) {
            Some(newer) if newer.attachment > session.attachment => session.cut.cancel(),
            _ => {
                if let Some(old) = registry.insert(session) {
                    old.cut.cancel();
                }
            }
        }
    }

    /// Detaches a session, if it is still this attachment of it.
    pub(crate) fn detach(&self, id: Uuid, attachment: i64) {
        let mut registry = self.lock();
        if registry.get(id).is_some_and(|attached| attached.attachment == attachment) {
            registry.remove(id);
        }
    }

    /// Cuts a session off: it has expired, and its agent must begin anew.
    pub fn expel(&self, id: Uuid) {
        if let Some(attached) = self.lock().remove(id) {
            attached.cut.cancel();
        }
    }

    /// Cuts off all sessions, telling their agents to go elsewhere.
    pub fn send_away(&self) {
        let mut registry = self.lock();
        let ids: Vec<Uuid> = registry.sessions().keys().copied().collect();
        for id in ids {
            registry.change(id, |attached| {
                // Nothing more is granted to a stream that is about to end.
                attached.draining = true;
                attached.send(Kind::Drain(DrainRequest { reconnect: true }));
            });
        }
    }

    /// Tells an agent that a lease is its own no more.
    pub fn revoke(&self, held: Held) {
        self.with(held.session_id, |attached| {
            attached.forget(held.execution_id, held.epoch);
            let lease = HeldLease { execution_id: held.execution_id.to_string(), epoch: held.epoch };
            attached.send(Kind::Revoke(Revoke { leases: vec![lease] }));
        });
    }

    /// Tells an agent to take no further work. `false` where it is not attached here.
    pub fn drain(&self, id: Uuid) -> bool {
        let drained = self.with(id, |attached| {
            attached.draining = true;
            attached.send(Kind::Drain(DrainRequest { reconnect: false }));
        });
        drained.is_some()
    }

    /// Changes an attached session.
    pub(crate) fn with<T>(&self, id: Uuid, change: impl FnOnce(&mut Attached) -> T) -> Option<T> {
        self.lock().change(id, change)
    }

    /// Changes a session, if it is still on this attachment: what was said on an older stream is not about the newer one.
    pub(crate) fn on<T>(&self, id: Uuid, attachment: i64, change: impl FnOnce(&mut Attached) -> T) -> Option<T> {
        self.lock().change_on(id, attachment, change)
    }

    /// Cuts an attachment off whose session is over.
    pub(crate) fn expel_from(&self, id: Uuid, attachment: i64) {
        if self.on(id, attachment, |attached| attached.cut.cancel()).is_some() {
            self.detach(id, attachment);
        }
    }

    /// Ids of the attached sessions.
    pub(crate) fn ids(&self) -> Vec<Uuid> {
        self.lock().sessions().keys().copied().collect()
    }

    /// Takes note of what the newest claim has seen.
    pub(crate) fn looked(&self, looked: Looked) {
        *self.last_look() = looked;
    }

    /// Takes note that nobody is free.
    pub(crate) fn nobody_is_free(&self) {
        self.last_look().nobody_is_free(Instant::now());
    }

    /// Whether an execution that is being made may be given away with it, as far as is known here: nothing that waits is to go before it.
    pub fn is_next(&self, execution: &Execution) -> bool {
        self.last_look().is_next(execution, Instant::now())
    }

    /// Takes note that something waits in a lane which no claim has seen yet.
    pub fn waits(&self, lane: i64) {
        self.last_look().waits(lane);
    }

    /// Whether anything may wait for a place that has become free. Where every lane that somebody serves was found empty, nothing does: what
    /// comes new is announced.
    pub(crate) fn may_wait(&self) -> bool {
        let open = self.open_lanes();
        let looked = self.last_look();
        looked.left || open.is_empty() || open.iter().any(|lane| !looked.drained.contains(lane))
    }

    fn last_look(&self) -> MutexGuard<'_, Looked> {
        self.looked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts what was claimed at once.
    pub(crate) fn claimed(&self, executions: usize) {
        self.metrics.dispatched(executions);
    }

    /// Counts an execution that has just changed.
    pub fn observe(&self, execution: &Execution) {
        let Some(ended) = Ended::of(execution) else { return };
        let job_type = self.lock().job_type(execution.lane_id);
        self.metrics.executions_ended(vec![Ended { job_type, ..ended }]);
    }

    /// Gives back credits whose leases were not granted, or have been handed over.
    fn give_back(&self, taken: impl IntoIterator<Item = (Taken, usize)>) {
        let mut registry = self.lock();
        for ((session, attachment), credits) in taken {
            registry.change_on(session, attachment, |attached| attached.give_back(credits));
        }
    }
}

/// Whose credit was taken: a session, on an attachment.
type Taken = (Uuid, i64);

fn taken(assignment: &Assignment) -> Taken {
    (assignment.session_id, assignment.attachment)
}

/// A message of ours.
pub(crate) fn message(kind: Kind) -> CoordinatorMessage {
    CoordinatorMessage { kind: Some(kind) }
}

/// The leases of a session, by execution.
pub(crate) type Leases = HashMap<Uuid, i64>;

/// An id as text. Without the formatter, which costs as much as all else about a frame.
pub(crate) fn text(id: Uuid) -> String {
    id.hyphenated().encode_lower(&mut Uuid::encode_buffer()).to_owned()
}

/// The leases that an agent names. An id that is no UUID names nothing.
pub(crate) fn leases(named: &[HeldLease]) -> Leases {
    named.iter().filter_map(|lease| Some((lease.execution_id.parse().ok()?, lease.epoch))).collect()
}

/// Whether this very lease is among `leases`.
pub(crate) fn knows(leases: &Leases, lease: &HeldLease) -> bool {
    lease.execution_id.parse().is_ok_and(|execution: Uuid| leases.get(&execution) == Some(&lease.epoch))
}

#[cfg(test)]
mod tests;
