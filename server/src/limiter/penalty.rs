//! How long those wait who have failed: longer each time. Pure.

use std::time::Duration;

/// What is forgiven, and what is not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Penalty {
    /// Failures without a wait.
    pub(super) free: u32,
    /// The first wait; each further one is twice as long.
    pub(super) first: Duration,
    /// The longest wait. It must be shorter than `forgotten`, or waiting would be enough to begin anew.
    pub(super) longest: Duration,
    /// After so long without a failure nothing is known of those before.
    pub(super) forgotten: Duration,
}

impl Penalty {
    /// How long to wait after so many failures.
    pub(super) fn wait(&self, failures: u32) -> Duration {
        match failures.saturating_sub(self.free) {
            0 => Duration::ZERO,
            over => self.first.saturating_mul(1 << (over - 1).min(30)).min(self.longest),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_the_longest() {
        let seconds = Duration::from_secs;
        let penalty = Penalty { free: 3, first: seconds(1), longest: seconds(60), forgotten: seconds(900) };
        let waits: Vec<u64> = (0..=11).map(|failures| penalty.wait(failures).as_secs()).collect();
        assert_eq!(waits, [0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(penalty.wait(u32::MAX), seconds(60));
        // In an hour an account that everybody guesses at is guessed at so often.
        let (mut guesses, mut now) = (0, Duration::ZERO);
        while now < seconds(3600) {
            guesses += 1;
            now += penalty.wait(guesses).max(Duration::from_millis(1));
        }
        assert!(guesses < 75, "{guesses}");
    }
}
