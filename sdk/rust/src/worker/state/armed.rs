//! Leases that were granted ahead of their instant. They wait here for it, and begin by this worker's own monotonic clock, with or without
//! a coordinator: the delay that a lease names is counted from its arrival, so that it begins late by the way of its frame, and never
//! early. Until then nothing of the work is done, and it can be given back as if it had never come.

use std::collections::BTreeMap;
use std::time::Duration;

use orrery_proto::v1::{HeldLease, Lease, Release, agent_message::Kind};
use tokio::time::Instant;

use super::{Mode, State};
use crate::worker::lease::LeaseKey;

/// Leases by the instant at which they may begin.
#[derive(Debug, Default)]
pub(super) struct Armed {
    by_instant: BTreeMap<(Instant, LeaseKey), Lease>,
    instants: BTreeMap<LeaseKey, Instant>,
}

impl Armed {
    pub(super) fn len(&self) -> usize {
        self.by_instant.len()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &LeaseKey> {
        self.instants.keys()
    }

    /// The grants of one execution.
    pub(super) fn of<'a>(&'a self, execution: &'a LeaseKey) -> impl Iterator<Item = &'a LeaseKey> {
        self.instants.range(LeaseKey::all_of(&execution.execution_id)).map(|(key, _)| key)
    }

    /// When the next one may begin.
    pub(super) fn next(&self) -> Option<Instant> {
        self.by_instant.first_key_value().map(|((at, _), _)| *at)
    }

    fn insert(&mut self, at: Instant, lease: Lease) {
        let key = LeaseKey::from(&lease);
        self.instants.insert(key.clone(), at);
        self.by_instant.insert((at, key), lease);
    }

    pub(super) fn remove(&mut self, key: &LeaseKey) -> Option<Lease> {
        let at = self.instants.remove(key)?;
        self.by_instant.remove(&(at, key.clone()))
    }

    /// The next one that may begin now.
    fn pop(&mut self, now: Instant) -> Option<Lease> {
        let first = self.by_instant.first_entry().filter(|entry| entry.key().0 <= now)?;
        let ((_, key), lease) = first.remove_entry();
        self.instants.remove(&key);
        Some(lease)
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

impl State {
    /// How long a lease that has just come has to wait, if it has.
    pub(super) fn delay(lease: &Lease) -> Option<Duration> {
        u64::try_from(lease.start_in_us).ok().filter(|us| *us > 0).map(Duration::from_micros)
    }

    /// Keeps a lease until its instant.
    pub(super) fn arm(&mut self, lease: Lease, delay: Duration, now: Instant) {
        self.armed.insert(now + delay, lease);
    }

    /// Begins what may begin now. A worker that takes no further work begins none: it has given them back, or will once it has a stream.
    pub(super) fn tick_armed(&mut self, now: Instant) {
        if self.mode != Mode::Serving {
            return;
        }
        while let Some(lease) = self.armed.pop(now) {
            let key = LeaseKey::from(&lease);
            // An older grant that was lost is still being stopped: the work is not to be done twice at once.
            let is_running = self.tasks.range(LeaseKey::all_of(&key.execution_id)).next().is_some();
            if is_running { self.waiting.push(lease) } else { self.start(lease, now) }
        }
    }

    /// What has not begun and is wanted back; what has begun goes on.
    pub(super) fn recall(&mut self, key: &LeaseKey) {
        if self.armed.remove(key).is_some() {
            self.send(Kind::Release(Release { leases: vec![key.held()] }));
        }
    }

    /// All that waits for its instant, given up.
    pub(super) fn disarm_all(&mut self) -> Vec<HeldLease> {
        let held = self.armed.keys().map(LeaseKey::held).collect();
        self.armed.clear();
        held
    }
}
