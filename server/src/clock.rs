//! The database's clock, as far as this process can tell. It is only used to sleep until an instant: what is due or expired, the database
//! itself decides, so that an error here costs a little time and never a wrong decision.

use std::sync::Mutex;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

/// By how much two clocks may drift apart: a sample's error grows so with its age (100 parts in a million).
const DRIFT: u32 = 10_000;

/// Maps instants of the database to the monotonic clock of this process. The wall clock of this process has no part in it.
#[derive(Debug, Default)]
pub struct DatabaseClock {
    sample: Mutex<Option<Sample>>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    local: Instant,
    database: DateTime<Utc>,
    /// Half of the time the reading took: the most by which it can be wrong.
    error: Duration,
}

impl Sample {
    /// By how much it may be wrong at a later moment.
    fn error_at(&self, now: Instant) -> Duration {
        self.error + now.saturating_duration_since(self.local) / DRIFT
    }

    /// Whether this later sample is the better one, or shows that one of the two clocks has been set.
    fn replaces(&self, old: &Self) -> bool {
        let age = self.local.saturating_duration_since(old.local);
        let old_error = old.error_at(self.local);
        let told = self.database - old.database;
        let off = (told - chrono::Duration::from_std(age).unwrap_or_default()).abs().to_std().unwrap_or_default();
        self.error <= old_error || off > self.error + old_error
    }
}

impl DatabaseClock {
    /// Takes a reading that was asked for at `asked` and has just come in.
    pub fn observe(&self, asked: Instant, database: DateTime<Utc>) {
        let now = Instant::now();
        let error = (now - asked) / 2;
        let sample = Sample { local: asked + error, database, error };
        let mut held = self.sample.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if held.is_none_or(|old| sample.replaces(&old)) {
            *held = Some(sample);
        }
    }

    /// When an instant of the database comes here. At once, where nothing has been read yet.
    pub fn local(&self, at: DateTime<Utc>) -> Instant {
        let held = *self.sample.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some(sample) = held else { return Instant::now() };
        match (at - sample.database).to_std() {
            Ok(ahead) => sample.local + ahead.min(Duration::from_secs(86_400)),
            Err(_) => {
                sample.local.checked_sub((sample.database - at).to_std().unwrap_or_default()).unwrap_or(sample.local)
            }
        }
    }

    /// How far off [`DatabaseClock::local`] may be; `None` where nothing has been read yet.
    pub fn error(&self) -> Option<Duration> {
        let held = *self.sample.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        held.map(|sample| sample.error_at(Instant::now()))
    }

    /// How long from now until an instant of the database has come for certain, whatever the error of what is known here, on a clock that runs
    /// by itself for so long. `None` where nothing has been read yet.
    pub fn certainly_in(&self, at: DateTime<Utc>) -> Option<Duration> {
        let latest = self.local(at) + self.error()?;
        let wait = latest.saturating_duration_since(Instant::now());
        Some(wait + wait / DRIFT)
    }

    /// The database's time now, as far as it is known.
    pub fn now(&self) -> Option<DateTime<Utc>> {
        let held = *self.sample.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        held.and_then(|sample| chrono::Duration::from_std(sample.local.elapsed()).ok().map(|d| sample.database + d))
    }

    /// This process's wall clock minus the database's, in milliseconds, for people to see.
    pub fn offset_ms(&self) -> f64 {
        self.now().map_or(0.0, |database| (Utc::now() - database).num_microseconds().unwrap_or(0) as f64 / 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(local: Instant, database_ms: i64, error_ms: u64) -> Sample {
        let database = DateTime::UNIX_EPOCH + chrono::Duration::milliseconds(database_ms);
        Sample { local, database, error: Duration::from_millis(error_ms) }
    }

    #[test]
    fn a_worse_sample_does_not_replace_a_good_one_unless_a_clock_was_set() {
        let then = Instant::now();
        let now = then + Duration::from_secs(60);
        let good = sample(then, 0, 1);
        assert!(sample(now, 60_000, 1).replaces(&good));
        assert!(!sample(now, 60_300, 400).replaces(&good), "a slow reading");
        assert!(sample(now, 3_660_000, 400).replaces(&good), "the database's clock was set");
        // An old sample has become as uncertain as a new slow one: 400 ms at 100 ppm take about 67 minutes.
        assert!(sample(then + Duration::from_secs(8000), 8_000_000, 400).replaces(&good));
    }
}
