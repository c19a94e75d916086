//! What was found out lately, so that it need not be asked again for each call. Bounded in time and number.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The most that is remembered.
const MOST: usize = 10_000;

/// Answers by what was asked.
#[derive(Debug)]
pub(super) struct Recent<K, V> {
    kept: Mutex<HashMap<K, (Instant, V)>>,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self { kept: Mutex::default() }
    }
}

impl<K: Eq + Hash, V: Clone> Recent<K, V> {
    pub(super) fn get(&self, key: &K) -> Option<V> {
        self.kept().get(key).filter(|(until, _)| Instant::now() < *until).map(|(_, value)| value.clone())
    }

    /// Remembers an answer for a while. Where there is no room nothing is: that costs time, never truth.
    pub(super) fn put(&self, key: K, value: V, life: Duration) {
        let now = Instant::now();
        let mut kept = self.kept();
        if kept.len() >= MOST {
            kept.retain(|_, (until, _)| now < *until);
        }
        if kept.len() < MOST {
            kept.insert(key, (now + life, value));
        }
    }

    /// Forgets what `is_over` says.
    pub(super) fn forget(&self, is_over: impl Fn(&K, &V) -> bool) {
        self.kept().retain(|key, (_, value)| !is_over(key, value));
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<K, (Instant, V)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.kept().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_in_time_and_number() {
        let recent = Recent::default();
        recent.put(1, "a", Duration::from_secs(60));
        recent.put(2, "b", Duration::ZERO);
        assert_eq!((recent.get(&1), recent.get(&2), recent.get(&3)), (Some("a"), None, None));
        recent.forget(|_, value| *value == "a");
        assert_eq!(recent.get(&1), None);
        for key in 0..2 * MOST {
            recent.put(key, "c", Duration::from_secs(60));
        }
        assert_eq!(recent.len(), MOST);
    }
}
