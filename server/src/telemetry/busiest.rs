//! Which tenants have a label of their own. Labels are bounded, however many tenants there are: the busiest have one, the rest share one.

use std::collections::HashMap;
use std::hash::Hash;

/// Sightings after which every count is halved, so that "busiest" means of late and not since the start.
const HALF_LIFE: u64 = 100_000;

/// How much busier than the quietest named key another must be to take its place; keeps two that are alike from changing places for ever.
const MARGIN: u64 = 16;

/// The busiest keys of a stream, in bounded memory and, on average, constant time a sighting.
///
/// The keys that have no name are counted as Misra and Gries do: where there is no room for another, all counts fall by one. A count is thus
/// never too high, and a key that is truly busy is found.
#[derive(Debug)]
pub(super) struct Busiest<K> {
    capacity: usize,
    named: HashMap<K, u64>,
    waiting: HashMap<K, u64>,
    /// No named key has a smaller count. They only grow between halvings, so that it need not be exact.
    least: u64,
    until_halving: u64,
}

/// What became of a sighting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen<K> {
    /// Whether the key has a name now.
    pub(super) named: bool,
    /// The key that lost its name to this one: its series are to be dropped.
    pub(super) evicted: Option<K>,
}

impl<K: Copy + Eq + Hash> Busiest<K> {
    /// Names at most `capacity` keys.
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, named: HashMap::new(), waiting: HashMap::new(), least: 0, until_halving: HALF_LIFE }
    }

    /// Counts one sighting of `key`.
    pub(super) fn observe(&mut self, key: K) -> Seen<K> {
        self.until_halving -= 1;
        if self.until_halving == 0 {
            self.halve();
        }
        if let Some(count) = self.named.get_mut(&key) {
            *count += 1;
            return Seen { named: true, evicted: None };
        }
        if self.named.len() < self.capacity {
            let count = self.waiting.remove(&key).unwrap_or(0) + 1;
            self.named.insert(key, count);
            self.least = self.least.min(count);
            return Seen { named: true, evicted: None };
        }
        let count = self.wait(key);
        match self.quietest_below(count) {
            Some(quietest) => {
                let its_count = self.named.remove(&quietest).unwrap_or(0);
                self.waiting.remove(&key);
                self.waiting.insert(quietest, its_count);
                self.named.insert(key, count);
                Seen { named: true, evicted: Some(quietest) }
            }
            None => Seen { named: false, evicted: None },
        }
    }

    /// Counts `n` sightings of `key`, from 1.
    pub(super) fn observe_many(&mut self, key: K, n: u64) -> Seen<K> {
        let mut seen = self.observe(key);
        let mut left = n.saturating_sub(1);
        while left > 0 {
            if seen.named
                && left < self.until_halving
                && let Some(count) = self.named.get_mut(&key)
            {
                *count += left;
                self.until_halving -= left;
                break;
            }
            let next = self.observe(key);
            seen = Seen { named: next.named, evicted: seen.evicted.or(next.evicted) };
            left -= 1;
        }
        seen
    }

    /// Counts a key that has no name; 0 where there is no room to count it.
    fn wait(&mut self, key: K) -> u64 {
        if let Some(count) = self.waiting.get_mut(&key) {
            *count += 1;
            return *count;
        }
        if self.waiting.len() < self.capacity * 4 {
            self.waiting.insert(key, 1);
            return 1;
        }
        self.waiting.retain(|_, count| {
            *count -= 1;
            *count > 0
        });
        0
    }

    /// The named key with the smallest count, where `count` is enough to take its place.
    fn quietest_below(&mut self, count: u64) -> Option<K> {
        let enough = |least: u64| count > least.saturating_mul(2).saturating_add(MARGIN);
        if !enough(self.least) {
            return None;
        }
        let (&key, &least) = self.named.iter().min_by_key(|(_, count)| **count)?;
        self.least = least;
        enough(least).then_some(key)
    }

    fn halve(&mut self) {
        self.until_halving = HALF_LIFE;
        self.least /= 2;
        self.named.values_mut().for_each(|count| *count /= 2);
        self.waiting.retain(|_, count| {
            *count /= 2;
            *count > 0
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_keys_are_named_and_the_rest_are_not() {
        let mut busiest = Busiest::new(2);
        assert!(busiest.observe(1).named);
        assert!(busiest.observe(2).named);
        assert_eq!(busiest.observe(3), Seen { named: false, evicted: None });
        assert!(busiest.observe(1).named);
    }

    #[test]
    fn a_busier_key_takes_the_place_of_the_quietest() {
        let mut busiest = Busiest::new(2);
        (0..100).for_each(|_| _ = busiest.observe("steady"));
        busiest.observe("quiet");
        let evicted: Vec<_> = (0..100).filter_map(|_| busiest.observe("loud").evicted).collect();
        assert_eq!(evicted, ["quiet"]);
        assert!(busiest.observe("loud").named);
        assert!(busiest.observe("steady").named);
        assert!(!busiest.observe("quiet").named);
    }

    #[test]
    fn many_sightings_count_like_one_after_the_other() {
        let (mut together, mut singly) = (Busiest::new(2), Busiest::new(2));
        for (key, n) in [("a", 5), ("b", 1), ("c", 60), ("a", HALF_LIFE - 50), ("b", 40), ("c", 3 * HALF_LIFE)] {
            let seen: Vec<_> = (0..n).map(|_| singly.observe(key)).collect();
            let named = seen.last().is_some_and(|last| last.named);
            let expected = Seen { named, evicted: seen.iter().find_map(|seen| seen.evicted) };
            assert_eq!(together.observe_many(key, n), expected, "{key}");
            assert_eq!((&together.named, &together.waiting), (&singly.named, &singly.waiting), "{key}");
            assert_eq!((together.least, together.until_halving), (singly.least, singly.until_halving), "{key}");
        }
    }

    #[test]
    fn keys_alike_do_not_change_places() {
        let mut busiest = Busiest::new(1);
        let evictions = (0..10_000).filter(|n| busiest.observe(n % 2).evicted.is_some()).count();
        assert_eq!(evictions, 0);
    }

    #[test]
    fn a_key_that_has_fallen_silent_gives_way() {
        let mut busiest = Busiest::new(1);
        (0..HALF_LIFE / 2).for_each(|_| _ = busiest.observe("old"));
        let took_over = (0..HALF_LIFE * 2).position(|_| busiest.observe("new").evicted == Some("old"));
        assert!(took_over.is_some());
    }

    #[test]
    fn memory_is_bounded_and_a_busy_key_is_found_among_many() {
        let mut busiest = Busiest::new(4);
        for n in 0..50_000_u32 {
            busiest.observe(n + 10);
            if n % 4 == 0 {
                busiest.observe(1);
            }
            assert!(busiest.named.len() <= 4 && busiest.waiting.len() <= 17);
        }
        assert!(busiest.named.contains_key(&1), "{busiest:?}");
    }

    #[test]
    fn nothing_is_named_where_there_is_no_room() {
        let mut busiest = Busiest::new(0);
        assert!((0..100).all(|_| busiest.observe(1) == Seen { named: false, evicted: None }));
    }
}
