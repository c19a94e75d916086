//! Instants and durations as people write them.

use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveTime, TimeDelta, Utc};

/// An argument that is an instant: RFC 3339, a date (midnight UTC), `now`, `now+15m` or `now-2h`.
pub(super) fn parse_instant(text: &str) -> Result<DateTime<Utc>, String> {
    let text = text.trim();
    if let Some(offset) = text.strip_prefix("now") {
        return relative(offset).ok_or_else(|| bad_instant(text));
    }
    if let Ok(date) = NaiveDate::parse_from_str(text, "%Y-%m-%d") {
        return Ok(date.and_time(NaiveTime::MIN).and_utc());
    }
    DateTime::parse_from_rfc3339(text).map(|at| at.with_timezone(&Utc)).map_err(|_| bad_instant(text))
}

fn bad_instant(text: &str) -> String {
    format!("`{text}` is no instant; write one such as 2026-01-31T09:00:00Z, 2026-01-31, now, now+15m or now-2h")
}

fn relative(offset: &str) -> Option<DateTime<Utc>> {
    let now = Utc::now();
    if offset.is_empty() {
        return Some(now);
    }
    let length = |text: &str| parse_duration(text).ok().and_then(|length| TimeDelta::from_std(length).ok());
    match offset.split_at_checked(1)? {
        ("+", text) => now.checked_add_signed(length(text)?),
        ("-", text) => now.checked_sub_signed(length(text)?),
        _ => None,
    }
}

/// An argument that is a duration: a whole number with its unit, such as `500ms`, `30s`, `5m`, `2h`, `1d`, or several of them.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("`{text}` is no duration; write one such as 500ms, 30s, 5m, 2h, 1d or 1h30m");
    let mut rest = text.trim();
    let mut millis: u64 = 0;
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.bytes().take_while(u8::is_ascii_digit).count());
        let unit_end = after.bytes().take_while(u8::is_ascii_alphabetic).count();
        let (unit, after) = after.split_at(unit_end);
        let factor = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return Err(bad()),
        };
        let number: u64 = number.parse().map_err(|_| bad())?;
        millis = number.checked_mul(factor).and_then(|part| millis.checked_add(part)).ok_or_else(bad)?;
        rest = after;
    }
    Ok(Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_read_in_utc() {
        let at = |text| parse_instant(text).map(|at| at.to_rfc3339());
        assert_eq!(at("2026-01-31T09:00:00Z"), Ok("2026-01-31T09:00:00+00:00".into()));
        assert_eq!(at("2026-01-31T10:00:00+01:00"), Ok("2026-01-31T09:00:00+00:00".into()));
        assert_eq!(at("2026-01-31"), Ok("2026-01-31T00:00:00+00:00".into()));
        for bad in ["", "soon", "2026-02-30", "2026-01-31T09:00:00", "now+", "now*2h", "now+5", "nowß"] {
            assert!(at(bad).is_err(), "{bad}");
        }
        let before = parse_instant("now-2h").unwrap();
        assert_eq!((Utc::now() - before).num_minutes(), 120);
    }

    #[test]
    fn durations_need_their_unit() {
        assert_eq!(parse_duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        for bad in ["", "5", "s", "-5s", "5 s", "1.5h", "5y", "99999999999999999999d", "18446744073709551615d"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
