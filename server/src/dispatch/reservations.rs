use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Dispatch, Taken, taken};
use crate::store::Assignment;

/// Credits that are taken for leases on their way, so that nobody else gives them away meanwhile. What has not been handed over by
/// [`HandOver::give`](super::HandOver::give) when this is dropped is given back.
pub struct Reservations {
    dispatch: Arc<Dispatch>,
    taken: Mutex<HashMap<Taken, usize>>,
}

impl Reservations {
    pub(super) fn new(dispatch: Arc<Dispatch>) -> Self {
        Self { dispatch, taken: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Taken, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a credit of the agent that is to get the next execution of a lane: the least loaded one, or the next in turn. `None` where nobody
    /// who serves the lane is free.
    pub fn reserve(&self, lane: i64) -> Option<Assignment> {
        self.reserve_all([lane]).pop()?
    }

    /// Takes credits for executions of these lanes, in their order; as many answers as lanes.
    pub fn reserve_all(&self, lanes: impl IntoIterator<Item = i64>) -> Vec<Option<Assignment>> {
        let (mut mine, mut registry) = (self.lock(), self.dispatch.lock());
        let mut reserve = |lane: i64| {
            let assignment = registry.reserve(lane)?;
            *mine.entry(taken(&assignment)).or_default() += 1;
            Some(assignment)
        };
        lanes.into_iter().map(&mut reserve).collect()
    }

    /// The same for what is not due yet, of which nobody is to be given more than it has to spare.
    pub(super) fn reserve_spare(&self, lanes: impl IntoIterator<Item = i64>) -> Vec<Option<Assignment>> {
        let (mut mine, mut registry) = (self.lock(), self.dispatch.lock());
        let mut reserve = |lane: i64| {
            let assignment = registry.reserve_spare(lane)?;
            *mine.entry(taken(&assignment)).or_default() += 1;
            Some(assignment)
        };
        lanes.into_iter().map(&mut reserve).collect()
    }

    /// Gives everything back, to begin anew.
    pub fn release(&self) {
        let taken = std::mem::take(&mut *self.lock());
        if !taken.is_empty() {
            self.dispatch.give_back(taken);
        }
    }

    /// Credits are used up by leases that are handed over. Answers with how many of them were among these.
    pub(super) fn spend(&self, taken: Taken, leases: usize) -> usize {
        let mut mine = self.lock();
        let Some(reserved) = mine.get_mut(&taken) else { return 0 };
        let spent = leases.min(*reserved);
        *reserved -= spent;
        spent
    }
}

impl Drop for Reservations {
    fn drop(&mut self) {
        self.release();
    }
}
