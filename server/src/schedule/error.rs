//! What can be wrong with a schedule.

use chrono::{DateTime, Utc};

/// Why a schedule was refused. Every message names the part at fault and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleError {
    /// Nothing but white space was given.
    #[error(
        "the cron expression is empty: give five to seven fields, such as `0 9 * * 1-5`, or a macro such as `@daily`"
    )]
    Empty,
    /// The expression has more characters than are stored.
    #[error("the cron expression has {length} characters: at most {limit} are allowed")]
    TooLong {
        /// Characters given.
        length: usize,
        /// Characters allowed.
        limit: usize,
    },
    /// An `@` word that is not known.
    #[error("`{name}` is not a known macro: use one of {known}")]
    UnknownMacro {
        /// The word as given.
        name: String,
        /// The words that exist.
        known: String,
    },
    /// Fewer than five or more than seven fields.
    #[error(
        "the cron expression has {found} field(s): give five (minute hour day month weekday), six (seconds first) or seven (year last)"
    )]
    FieldCount {
        /// Fields found.
        found: usize,
    },
    /// One field cannot be read.
    #[error("the {field} field `{value}` is not valid: {reason}; allowed are {allowed}")]
    BadField {
        /// The field's name, such as `day of week`.
        field: &'static str,
        /// The field as given.
        value: String,
        /// What is wrong with it.
        reason: String,
        /// What the field takes.
        allowed: &'static str,
    },
    /// A zone that is not in the IANA database.
    #[error("`{zone}` is not a known time zone: give an IANA name such as `Europe/Berlin` or `UTC`")]
    UnknownZone {
        /// The name as given.
        zone: String,
    },
    /// No instant after `after` matches.
    #[error(
        "`{expression}` never fires after {after}: no date matches its day, month and year; change one of these fields"
    )]
    NeverFires {
        /// The schedule as given.
        expression: String,
        /// The instant after which nothing was found.
        after: DateTime<Utc>,
    },
    /// A fixed interval below the least allowed.
    #[error("the interval of {millis} ms is too short: give at least {least} ms")]
    IntervalTooShort {
        /// Interval given, in milliseconds.
        millis: u128,
        /// Least interval, in milliseconds.
        least: u128,
    },
}
