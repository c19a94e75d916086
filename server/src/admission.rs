//! Who may run now. One function decides, for claims and for explanations; the stores count what runs, from live leases only: there is no
//! counter that a crash could leave too high. Pure.

use std::collections::BTreeMap;
use std::fmt;

use uuid::Uuid;

use crate::execution::Execution;

/// What can be limited. An execution passes several gates, and takes a place at each that has a limit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Gate {
    Tenant(Uuid),
    /// A queue of a tenant.
    Queue(Uuid, String),
    /// A concurrency key of a tenant.
    Key(Uuid, String),
    /// A job of a tenant.
    Job(Uuid, Uuid),
}

impl Gate {
    /// The tenant whose gate it is.
    pub fn tenant(&self) -> Uuid {
        match self {
            Self::Tenant(tenant) | Self::Queue(tenant, _) | Self::Key(tenant, _) | Self::Job(tenant, _) => *tenant,
        }
    }
}

/// How much room there is behind a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    pub limit: i64,
    /// Leases that live.
    pub running: i64,
}

/// A gate without a free place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Full {
    pub gate: Gate,
    pub room: Room,
}

/// The rooms behind gates that have a limit. A gate that is not known has none.
#[derive(Clone, Debug, Default)]
pub struct Admission {
    rooms: BTreeMap<Gate, Room>,
}

impl Gate {
    /// The gates that an execution passes.
    pub fn of(execution: &Execution) -> Vec<Self> {
        let tenant = execution.tenant_id;
        let key = execution.concurrency.as_ref().map(|concurrency| Self::Key(tenant, concurrency.key.clone()));
        let gates = [Self::Tenant(tenant), Self::Queue(tenant, execution.queue.clone())];
        gates.into_iter().chain(key).chain([Self::Job(tenant, execution.job_id)]).collect()
    }

    /// A stable name of the reason, where it is full.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Tenant(_) => "TENANT_LIMIT",
            Self::Queue(..) => "QUEUE_LIMIT",
            Self::Key(..) => "KEY_LIMIT",
            Self::Job(..) => "CONCURRENCY_LIMIT",
        }
    }
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Room { limit, running } = self.room;
        match &self.gate {
            Gate::Tenant(_) => write!(f, "the tenant is at its limit {limit} ({running} running)"),
            Gate::Queue(_, name) => write!(f, "the queue {name} is at its limit {limit} ({running} running)"),
            Gate::Key(_, key) => write!(f, "the concurrency key {key:?} is at its limit {limit} ({running} running)"),
            Gate::Job(..) => write!(f, "the job is at its maxConcurrent {limit} ({running} running)"),
        }
    }
}

impl Room {
    fn is_full(self) -> bool {
        self.running >= self.limit
    }
}

impl Admission {
    /// What is known of these gates.
    pub fn new(rooms: impl IntoIterator<Item = (Gate, Room)>) -> Self {
        Self { rooms: rooms.into_iter().collect() }
    }

    /// Learns of further gates. One that is known stays as it is: places have been taken there.
    pub fn learn(&mut self, rooms: impl IntoIterator<Item = (Gate, Room)>) {
        for (gate, room) in rooms {
            self.rooms.entry(gate).or_insert(room);
        }
    }

    /// The limit of a gate that is known.
    pub fn limit(&self, gate: &Gate) -> Option<i64> {
        self.rooms.get(gate).map(|room| room.limit)
    }

    /// Lowers the limit of a gate that is known; it is never raised.
    pub fn lower(&mut self, gate: &Gate, limit: i64) {
        if let Some(room) = self.rooms.get_mut(gate) {
            room.limit = room.limit.min(limit);
        }
    }

    /// All gates among these that have no place.
    pub fn full(&self, gates: &[Gate]) -> Vec<Full> {
        let full = |gate: &Gate| {
            let room = *self.rooms.get(gate).filter(|room| room.is_full())?;
            Some(Full { gate: gate.clone(), room })
        };
        gates.iter().filter_map(full).collect()
    }

    /// Free places for what passes all of these gates; `None` where none of them has a limit.
    pub fn places(&self, gates: &[Gate]) -> Option<i64> {
        let free = |room: &Room| (room.limit - room.running).max(0);
        gates.iter().filter_map(|gate| self.rooms.get(gate)).map(free).min()
    }

    /// Takes a place at each of these gates, or at none: `false` where one is full.
    pub fn admit(&mut self, gates: &[Gate]) -> bool {
        if !self.full(gates).is_empty() {
            return false;
        }
        for gate in gates {
            if let Some(room) = self.rooms.get_mut(gate) {
                room.running += 1;
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENANT: Uuid = Uuid::from_u128(1);

    fn gates(job: u128) -> [Gate; 3] {
        [Gate::Tenant(TENANT), Gate::Queue(TENANT, "mail".into()), Gate::Job(TENANT, Uuid::from_u128(job))]
    }

    fn room(limit: i64, running: i64) -> Room {
        Room { limit, running }
    }

    #[test]
    fn a_place_is_taken_at_each_gate_or_at_none() {
        let [tenant, queue, job] = gates(1);
        assert_eq!(Admission::default().places(&gates(1)), None);
        let mut admission = Admission::new([(tenant, room(10, 0)), (queue.clone(), room(5, 3)), (job, room(1, 0))]);
        assert!(admission.admit(&gates(1)));
        assert!(!admission.admit(&gates(1)), "the job is full");
        assert_eq!((admission.places(&gates(1)), admission.places(&gates(2))), (Some(0), Some(1)));
        assert!(admission.admit(&gates(2)), "a refusal takes no place elsewhere");
        assert!(!admission.admit(&gates(3)), "the queue is full");
        assert_eq!(admission.full(&gates(3)), [Full { gate: queue, room: room(5, 5) }]);
    }

    #[test]
    fn what_is_full_is_said() {
        let [tenant, queue, job] = gates(1);
        let key = Gate::Key(TENANT, "customer-7".into());
        let rooms = [(tenant, room(9, 9)), (queue, room(5, 6)), (key.clone(), room(1, 1)), (job, room(2, 2))];
        let admission = Admission::new(rooms);
        let all: Vec<Gate> = gates(1).into_iter().chain([key]).collect();
        let said: Vec<String> = admission.full(&all).iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "the tenant is at its limit 9 (9 running)",
                "the queue mail is at its limit 5 (6 running)",
                "the job is at its maxConcurrent 2 (2 running)",
                "the concurrency key \"customer-7\" is at its limit 1 (1 running)",
            ]
        );
    }

    #[test]
    fn what_is_known_is_not_learned_again() {
        let [_, _, job] = gates(1);
        let mut admission = Admission::new([(job.clone(), room(1, 0))]);
        assert!(admission.admit(&gates(1)));
        admission.learn([(job, room(1, 0))]);
        assert!(!admission.admit(&gates(1)));
    }
}
