use std::cmp::{Ordering, Reverse};

use uuid::Uuid;

use crate::config::Strategy;

/// What a free agent runs, and what it takes beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) slots: usize,
    /// What it runs, or is about to.
    pub(crate) running: usize,
    pub(crate) credits: usize,
}

/// Where a free agent stands among those of its kind. The least is chosen first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    running: usize,
    slots: usize,
    credits: Reverse<usize>,
    id: Uuid,
}

impl Place {
    pub(super) fn of(strategy: Strategy, id: Uuid, load: Load) -> Self {
        match strategy {
            Strategy::LeastLoaded => {
                Self { running: load.running, slots: load.slots.max(1), credits: Reverse(load.credits), id }
            }
            // By id alone, so that the next in turn is the next of the set.
            Strategy::RoundRobin => Self { running: 0, slots: 1, credits: Reverse(0), id },
        }
    }

    /// The first place behind an agent, where turns are taken.
    pub(super) fn after(id: Uuid) -> Self {
        Self { running: 0, slots: 1, credits: Reverse(0), id: Uuid::from_u128(id.as_u128().saturating_add(1)) }
    }

    pub(super) fn id(&self) -> Uuid {
        self.id
    }
}

impl Ord for Place {
    /// By the share of slots in use, compared without fractions, then by free slots. The id makes places of different agents differ.
    fn cmp(&self, other: &Self) -> Ordering {
        (self.running * other.slots)
            .cmp(&(other.running * self.slots))
            .then_with(|| self.credits.cmp(&other.credits))
            .then_with(|| self.id.cmp(&other.id))
    }
}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Place {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Place {}
