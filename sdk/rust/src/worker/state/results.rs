//! The results that no coordinator has acknowledged.

use std::collections::BTreeMap;
use std::time::Duration;

use orrery_proto::v1::{Finished, HeldLease};
use tokio::time::Instant;

use crate::worker::lease::{ExecutionId, LeaseKey};

/// Bytes of results from which on nothing new is taken.
const MOST_BYTES: usize = 64 * 1024 * 1024;

#[derive(Debug, Default)]
pub(super) struct Results {
    kept: BTreeMap<LeaseKey, Kept>,
    bytes: usize,
}

#[derive(Debug)]
struct Kept {
    finished: Finished,
    /// Whether its lease belongs to the session of now. One of an earlier session is still told, but not claimed as held.
    of_session: bool,
    /// Whether this process has begun the work.
    begun: bool,
    /// When it was last sent on this stream.
    sent_at: Option<Instant>,
}

impl Kept {
    /// What of it can be large.
    fn bytes(&self) -> usize {
        let Finished { result, error_message, error_stack, .. } = &self.finished;
        result.as_ref().map_or(0, |json| json.text.len()) + error_message.len() + error_stack.len()
    }
}

impl FromIterator<Finished> for Results {
    fn from_iter<I: IntoIterator<Item = Finished>>(results: I) -> Self {
        let mut all = Self::default();
        for finished in results {
            all.insert(LeaseKey::from(&finished), finished, false);
        }
        all
    }
}

impl Results {
    /// Keeps a result under the session of now, of work that has `begun` here or not.
    pub(super) fn insert(&mut self, key: LeaseKey, finished: Finished, begun: bool) {
        let kept = Kept { finished, of_session: true, begun, sent_at: None };
        self.bytes += kept.bytes();
        if let Some(old) = self.kept.insert(key, kept) {
            self.bytes -= old.bytes();
        }
    }

    /// Whether it was there.
    pub(super) fn remove(&mut self, key: &LeaseKey) -> bool {
        let kept = self.kept.remove(key);
        self.bytes -= kept.as_ref().map_or(0, Kept::bytes);
        kept.is_some()
    }

    pub(super) fn contains(&self, key: &LeaseKey) -> bool {
        self.kept.contains_key(key)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// Whether so many wait for their acknowledgement that no more are to come.
    pub(super) fn is_full(&self, most: usize) -> bool {
        self.kept.len() > most || self.bytes > MOST_BYTES
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &LeaseKey> {
        self.kept.keys()
    }

    /// Those of one execution.
    pub(super) fn of(&self, execution_id: &ExecutionId) -> impl Iterator<Item = &LeaseKey> {
        self.kept.range(LeaseKey::all_of(execution_id)).map(|(key, _)| key)
    }

    /// Those whose leases belong to the session of now.
    pub(super) fn held(&self) -> impl Iterator<Item = HeldLease> {
        self.kept.iter().filter(|(_, kept)| kept.of_session).map(|(key, _)| key.held())
    }

    pub(super) fn are_of_session(&self) -> bool {
        self.kept.values().any(|kept| kept.of_session)
    }

    /// The session that they belong to is over.
    pub(super) fn disown(&mut self) {
        for kept in self.kept.values_mut() {
            kept.of_session = false;
        }
    }

    /// What was sent may be lost with its stream, the beginnings that were told apart too; those that come twice do no harm.
    pub(super) fn begin_anew(&mut self) {
        for kept in self.kept.values_mut() {
            kept.sent_at = None;
            kept.finished.started |= kept.begun;
        }
    }

    /// A copy to send now.
    pub(super) fn sent(&mut self, key: &LeaseKey, now: Instant) -> Option<Finished> {
        let kept = self.kept.get_mut(key)?;
        kept.sent_at = Some(now);
        Some(kept.finished.clone())
    }

    /// Those that were sent so long ago that they may be lost, or not at all.
    pub(super) fn unheard(&self, now: Instant, after: Duration) -> Vec<LeaseKey> {
        let late = |kept: &Kept| kept.sent_at.is_none_or(|sent| now >= sent + after);
        self.kept.iter().filter(|(_, kept)| late(kept)).map(|(key, _)| key.clone()).collect()
    }
}
