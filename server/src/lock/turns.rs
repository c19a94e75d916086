//! One at a time within this process, by key, in the order of coming.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Mutex as Line, OwnedMutexGuard};

/// The lines before keys. A key that nobody is at has none.
#[derive(Default)]
pub(super) struct Turns {
    lines: Mutex<HashMap<String, Arc<Line<()>>>>,
}

/// The first place in the line of a key.
pub(super) struct Turn {
    turns: Arc<Turns>,
    key: String,
    place: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits until nobody else is at the key.
    pub(super) async fn take(self: &Arc<Self>, key: &str) -> Turn {
        let line = Arc::clone(self.lines().entry(key.to_owned()).or_default());
        let place = line.lock_owned().await;
        Turn { turns: Arc::clone(self), key: key.to_owned(), place: Some(place) }
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<String, Arc<Line<()>>>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.place = None;
        let mut lines = self.turns.lines();
        // The map's own is the only one left where nobody waits; whoever comes takes it under the map's lock.
        if lines.get(&self.key).is_some_and(|line| Arc::strong_count(line) == 1) {
            lines.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn one_at_a_time_and_nothing_is_left() {
        let turns = Arc::new(Turns::default());
        let first = turns.take("a").await;
        let other = turns.take("b").await;
        let waits = tokio::time::timeout(Duration::from_millis(10), turns.take("a")).await;
        assert!(waits.is_err(), "two had the same turn");
        drop(first);
        let second = turns.take("a").await;
        drop((second, other));
        assert!(turns.lines().is_empty());
    }
}
