//! Whatever somebody writes for an expression is read or refused, and what is read fires in order.

use chrono::{DateTime, Utc};
use proptest::prelude::*;

use super::super::{DstPolicy, Schedule};

/// What expressions are made of, and what they are not.
const PIECES: [&str; 32] = [
    "*", "/", ",", "-", "?", "L", "W", "#", " ", " ", " ", "0", "1", "5", "9", "15", "29", "31", "59", "60", "2028",
    "99999", "MON", "sun", "FEB", "@daily", "@reboot", "L-3", "\t", "\0", "\u{e9}", "+",
];
const ZONES: [&str; 4] = ["UTC", "Europe/Berlin", "America/Sao_Paulo", "Nowhere/Atlantis"];

#[test]
fn any_expression_is_read_or_refused() {
    proptest!(ProptestConfig::with_cases(2_000), |(pieces: Vec<u8>, zone: u8, seconds: i64)| {
        let piece = |byte: &u8| PIECES[usize::from(*byte) % PIECES.len()];
        let text: String = pieces.iter().take(24).map(piece).collect();
        let zone = ZONES[usize::from(zone) % ZONES.len()];
        let Ok(schedule) = Schedule::cron(&text, zone, DstPolicy::default()) else { return Ok(()) };
        let from = DateTime::<Utc>::from_timestamp(seconds % 100_000_000_000, 0).unwrap_or_default();
        let mut last = from;
        for at in std::iter::successors(schedule.next_after(from), |at| schedule.next_after(*at)).take(3) {
            assert!(at > last, "{text:?} in {zone}: {at} after {last}");
            last = at;
        }
    });
}

#[test]
fn any_text_is_read_or_refused() {
    proptest!(ProptestConfig::with_cases(2_000), |(text: String, zone: String)| {
        let _ = Schedule::cron(&text, &zone, DstPolicy::default());
    });
}
