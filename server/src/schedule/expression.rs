//! A cron expression: from text to matches on a clock that never jumps.

use std::sync::Arc;

use chrono::NaiveDateTime;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

use super::error::ScheduleError;
use super::field;

/// Most characters of an expression; the database column is that wide.
const MAX_LENGTH: usize = 100;

const MACROS: [(&str, &str); 9] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
    ("@minutely", "* * * * *"),
    ("@secondly", "* * * * * *"),
];

/// A parsed expression.
#[derive(Debug, Clone)]
pub(super) struct Expression {
    text: String,
    cron: Arc<Cron>,
    /// Seconds first, year last, as given.
    fields: Vec<String>,
}

impl Expression {
    /// Reads an expression of five to seven fields, or a macro.
    pub(super) fn parse(text: &str) -> Result<Self, ScheduleError> {
        let length = text.chars().count();
        if length > MAX_LENGTH {
            return Err(ScheduleError::TooLong { length, limit: MAX_LENGTH });
        }
        let fields = split(expand_macro(text.trim())?)?;
        for (index, value) in fields.iter().enumerate() {
            field::check(index, value, parser())?;
        }
        let cron = parser().parse(&fields.join(" ")).map_err(|error| {
            // Each field has been read alone, so this is croner's word on the whole.
            ScheduleError::BadField {
                field: "whole",
                value: text.to_owned(),
                reason: error.to_string(),
                allowed: "five to seven fields",
            }
        })?;
        Ok(Self { text: text.to_owned(), cron: Arc::new(cron), fields })
    }

    /// The expression as given.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The seven fields, seconds first, names and numbers as given.
    pub(super) fn fields(&self) -> &[String] {
        &self.fields
    }

    /// What croner made of it.
    pub(super) fn pattern(&self) -> &croner::CronPattern {
        &self.cron.pattern
    }

    /// Whether seconds, minutes and hours hold nothing but numbers and lists of numbers.
    pub(super) fn is_fixed_time(&self) -> bool {
        let plain = |value: &String| value.chars().all(|c| c.is_ascii_digit() || c == ',');
        self.fields.iter().take(3).all(plain)
    }

    /// The first match strictly after `wall`.
    pub(super) fn next_after(&self, wall: NaiveDateTime) -> Option<NaiveDateTime> {
        self.cron.find_next_occurrence(&wall, false).ok()
    }

    /// The last match strictly before `wall`, which must be a whole second.
    pub(super) fn previous_before(&self, wall: NaiveDateTime) -> Option<NaiveDateTime> {
        self.cron.find_previous_occurrence(&wall, false).ok()
    }
}

/// Weekdays are Unix, day-of-month and day-of-week join by OR, `0/30` is allowed.
pub(super) fn parser() -> CronParser {
    CronParser::builder().seconds(Seconds::Optional).year(Year::Optional).sloppy_ranges(true).build()
}

fn expand_macro(text: &str) -> Result<&str, ScheduleError> {
    if !text.starts_with('@') {
        return Ok(text);
    }
    let known = MACROS.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
    match known {
        Some((_, fields)) => Ok(fields),
        None => {
            Err(ScheduleError::UnknownMacro { name: text.to_owned(), known: MACROS.map(|(name, _)| name).join(", ") })
        }
    }
}

fn split(text: &str) -> Result<Vec<String>, ScheduleError> {
    let mut fields: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    match fields.len() {
        0 => return Err(ScheduleError::Empty),
        5..=7 => {}
        found => return Err(ScheduleError::FieldCount { found }),
    }
    if fields.len() == 5 {
        fields.insert(0, "0".to_owned());
    }
    if fields.len() == 6 {
        fields.push("*".to_owned());
    }
    Ok(fields)
}
