use std::time::Duration;

use crate::store::Places;

/// The least pause after a round with something late in it.
const PAUSE: Duration = Duration::from_millis(10);

/// The most, however long the round took.
const LONGEST: Duration = Duration::from_secs(1);

/// How long a round may take. Its rows are locked meanwhile, and what is on time of the same jobs waits for the next one.
const A_ROUND: Duration = Duration::from_millis(250);

/// How much of what is late each round gets, so that a backlog comes as a ramp and the database serves what is on time. Where it is slow,
/// rounds get smaller, and nobody asks it for more in half of the time.
#[derive(Debug)]
pub(crate) struct Ramp {
    all: usize,
    late: usize,
}

impl Ramp {
    /// Of rounds of so many rows.
    pub(crate) fn new(all: usize) -> Self {
        Self { all, late: Places::of(all).late }
    }

    /// Those of the next round.
    pub(crate) fn places(&self) -> Places {
        Places { all: self.all, late: self.late }
    }

    /// The pause after a round that took so long and had something late in it.
    pub(crate) fn after(&mut self, took: Duration) -> Duration {
        let (most, step) = (Places::of(self.all).late, (self.all / 16).max(1));
        self.late = if took > A_ROUND { (self.late / 2).max(step) } else { (self.late + step).min(most) };
        took.clamp(PAUSE, LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quick_database_gives_half_of_each_round_to_what_is_late() {
        let mut ramp = Ramp::new(250);
        assert_eq!(ramp.places(), Places { all: 250, late: 125 });
        assert_eq!(ramp.after(Duration::from_millis(4)), Duration::from_millis(10));
        assert_eq!(ramp.places(), Places { all: 250, late: 125 });
    }

    #[test]
    fn a_slow_one_has_smaller_rounds_and_longer_pauses_until_it_is_quicker() {
        let mut ramp = Ramp::new(250);
        assert_eq!(ramp.after(Duration::from_millis(400)), Duration::from_millis(400));
        assert_eq!(ramp.places().late, 62);
        assert_eq!(ramp.after(Duration::from_secs(30)), Duration::from_secs(1));
        ramp.after(Duration::from_secs(30));
        assert_eq!(ramp.places().late, 15, "something is always done");
        assert_eq!(ramp.after(Duration::from_millis(100)), Duration::from_millis(100));
        assert_eq!(ramp.places().late, 30);
        for _ in 0..7 {
            ramp.after(Duration::from_millis(100));
        }
        assert_eq!(ramp.places().late, 125);
    }

    #[test]
    fn the_smallest_rounds_do_something() {
        let mut ramp = Ramp::new(1);
        ramp.after(Duration::from_secs(30));
        assert_eq!(ramp.places(), Places { all: 1, late: 1 });
    }
}
