//! Ids of executions. They are ordered by time, so that a month's partition is a range of ids.

use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Datelike, TimeDelta, TimeZone, Utc};
use sha2::{Digest, Sha256};
use uuid::{ContextV7, Timestamp, Uuid};

/// A clock that goes back by more than this was set; by less, two calls have only crossed.
const SET_BACK: TimeDelta = TimeDelta::minutes(1);

/// What the ids of this process rise by.
struct Rising {
    context: ContextV7,
    latest: DateTime<Utc>,
}

impl Rising {
    const fn new() -> Self {
        Self { context: ContextV7::new(), latest: DateTime::UNIX_EPOCH }
    }

    fn next(&mut self, now: DateTime<Utc>) -> Uuid {
        if self.latest.signed_duration_since(now) > SET_BACK {
            *self = Self::new();
        }
        self.latest = self.latest.max(now);
        let seconds = u64::try_from(now.timestamp()).unwrap_or(0);
        Uuid::new_v7(Timestamp::from_unix(&self.context, seconds, now.timestamp_subsec_nanos()))
    }
}

/// The id of a fire: UUIDv8 (RFC 9562, 5.8) of 48 bits of the scheduled instant in milliseconds, then a hash of (tenant, job, instant).
/// The same fire has the same id whoever makes it, so the primary key refuses a second one.
pub fn fire_id(tenant: Uuid, job: Uuid, at: DateTime<Utc>) -> Uuid {
    let mut hash = Sha256::new();
    hash.update(tenant.as_bytes());
    hash.update(job.as_bytes());
    hash.update(at.timestamp_micros().to_be_bytes());
    let digest = hash.finalize();
    let mut bytes = [0_u8; 16];
    bytes.copy_from_slice(&digest[..16]);
    bytes[..6].copy_from_slice(&milliseconds(at));
    Uuid::new_v8(bytes)
}

/// The id of an execution that somebody asked for: UUIDv7 of `now`. It is greater than those that this process made before it, within the
/// same millisecond too, so that lists by id are in the order of making. Only a clock that is set back is followed.
pub fn manual_id(now: DateTime<Utc>) -> Uuid {
    static RISING: Mutex<Rising> = Mutex::new(Rising::new());
    RISING.lock().unwrap_or_else(PoisonError::into_inner).next(now)
}

/// The instant in an id, to the millisecond.
pub fn instant_of(id: Uuid) -> DateTime<Utc> {
    let mut bytes = [0_u8; 8];
    bytes[2..].copy_from_slice(&id.as_bytes()[..6]);
    DateTime::from_timestamp_millis(i64::from_be_bytes(bytes)).unwrap_or(DateTime::UNIX_EPOCH)
}

/// The ids of a month: from the first of it, inclusive, to the first of the next, exclusive.
pub fn month_bounds(at: DateTime<Utc>) -> (Uuid, Uuid) {
    let first = month_start(at.year(), at.month());
    let (year, month) = if at.month() == 12 { (at.year() + 1, 1) } else { (at.year(), at.month() + 1) };
    (lowest(first), lowest(month_start(year, month)))
}

fn month_start(year: i32, month: u32) -> DateTime<Utc> {
    Utc.with_ymd_and_hms(year, month, 1, 0, 0, 0).single().unwrap_or(DateTime::UNIX_EPOCH)
}

/// The lowest id of an instant.
fn lowest(at: DateTime<Utc>) -> Uuid {
    let mut bytes = [0_u8; 16];
    bytes[..6].copy_from_slice(&milliseconds(at));
    Uuid::from_bytes(bytes)
}

fn milliseconds(at: DateTime<Utc>) -> [u8; 6] {
    let bytes = at.timestamp_millis().max(0).to_be_bytes();
    let mut low = [0_u8; 6];
    low.copy_from_slice(&bytes[2..]);
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fire_has_one_id_and_another_fire_another() {
        let (tenant, job) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let at = Utc.with_ymd_and_hms(2026, 3, 1, 9, 0, 0).unwrap();
        let id = fire_id(tenant, job, at);
        assert_eq!(id, fire_id(tenant, job, at));
        assert_eq!(id.get_version_num(), 8);
        assert_eq!(instant_of(id), at);
        assert_ne!(id, fire_id(Uuid::from_u128(3), job, at));
        assert_ne!(id, fire_id(tenant, Uuid::from_u128(4), at));
        assert_ne!(id, fire_id(tenant, job, at + chrono::Duration::microseconds(1)));
    }

    #[test]
    fn ids_rise_within_a_millisecond_and_follow_a_clock_that_is_set_back() {
        let now = Utc.with_ymd_and_hms(2026, 3, 1, 9, 0, 0).unwrap();
        let mut rising = Rising::new();
        let ids: Vec<Uuid> = (0..1000).map(|n| rising.next(now - TimeDelta::milliseconds(n % 2))).collect();
        assert!(ids.is_sorted_by(|a, b| a < b));
        let earlier = now - TimeDelta::hours(1);
        assert_eq!(instant_of(rising.next(earlier)), earlier);
    }

    #[test]
    fn a_month_is_a_range_of_ids() {
        let last = Utc.with_ymd_and_hms(2026, 12, 31, 23, 59, 59).unwrap() + chrono::Duration::milliseconds(999);
        let (from, to) = month_bounds(last);
        for id in [fire_id(Uuid::nil(), Uuid::max(), last), manual_id(last)] {
            assert!(from <= id && id < to);
        }
        let next = fire_id(Uuid::nil(), Uuid::nil(), last + chrono::Duration::milliseconds(1));
        assert!(next >= to);
    }
}
