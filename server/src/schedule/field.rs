//! The fields of a cron expression: their names, what they take, and what is wrong with one.

use croner::errors::CronError;
use croner::parser::CronParser;

use super::error::ScheduleError;

/// One of the seven fields, seconds first.
pub(super) struct Field {
    name: &'static str,
    allowed: &'static str,
    /// Words the field takes besides numbers.
    words: &'static [&'static str],
    /// The number of the first word.
    first: u32,
}

const MONTHS: [&str; 12] = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];

/// All fields, in the order of a seven-field expression.
pub(super) const FIELDS: [Field; 7] = [
    Field::numeric("second", "0-59 and `* , - /`"),
    Field::numeric("minute", "0-59 and `* , - /`"),
    Field::numeric("hour", "0-23 and `* , - /`"),
    Field::numeric("day of month", "1-31 and `* ? , - / L W`"),
    Field { name: "month", allowed: "1-12, JAN-DEC and `* , - /`", words: &MONTHS, first: 1 },
    Field {
        name: "day of week",
        allowed: "0-7 (0 and 7 are Sunday), SUN-SAT and `* ? , - / L #`",
        words: &WEEKDAYS,
        first: 0,
    },
    Field::numeric("year", "1-5000 and `* , - /`"),
];

/// Index of the day-of-month field.
const DAY_OF_MONTH: usize = 3;
/// Index of the day-of-week field.
const DAY_OF_WEEK: usize = 5;

impl Field {
    const fn numeric(name: &'static str, allowed: &'static str) -> Self {
        Self { name, allowed, words: &[], first: 0 }
    }

    fn error(&self, value: &str, reason: impl Into<String>) -> ScheduleError {
        ScheduleError::BadField {
            field: self.name,
            value: value.to_owned(),
            reason: reason.into(),
            allowed: self.allowed,
        }
    }

    /// The number that a name or a numeral stands for.
    fn number(&self, token: &str) -> Option<u32> {
        let token = token.to_ascii_uppercase();
        let word = (self.first..).zip(self.words).find(|(_, word)| **word == token);
        word.map(|(number, _)| number).or_else(|| token.parse().ok())
    }
}

/// Checks the field at `index`, counted seconds first.
pub(super) fn check(index: usize, value: &str, parser: CronParser) -> Result<(), ScheduleError> {
    let Some(field) = FIELDS.get(index) else {
        return Ok(());
    };
    for item in value.split(',') {
        if let Some(reason) = odd_item(index, field, item) {
            return Err(field.error(value, reason));
        }
    }
    let mut probe = ["*"; FIELDS.len()];
    probe[index] = value;
    match parser.parse(&probe.join(" ")) {
        Ok(_) => Ok(()),
        Err(error) => Err(field.error(value, reason(error))),
    }
}

/// What croner would let pass, or would refuse in words that help nobody.
fn odd_item(index: usize, field: &Field, item: &str) -> Option<String> {
    if item.is_empty() {
        return Some("an item of the list is empty".to_owned());
    }
    for word in item.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty()) {
        let word = word.to_uppercase();
        let known = match index {
            DAY_OF_MONTH => ["L", "W", "LW"].contains(&word.as_str()),
            DAY_OF_WEEK => {
                let name = word.strip_suffix('L').unwrap_or(&word);
                name.is_empty() || field.words.contains(&name)
            }
            _ => field.words.contains(&word.as_str()),
        };
        if !known {
            return Some(format!("`{word}` is not a name that this field takes"));
        }
    }
    if index == DAY_OF_MONTH && item.contains(['w', 'W']) && !item.ends_with(['w', 'W']) {
        return Some("`W` stands after a day, such as `15W`".to_owned());
    }
    if index == DAY_OF_WEEK && item.eq_ignore_ascii_case("L") {
        return Some("`L` needs a weekday before it, such as `5L` for the last Friday".to_owned());
    }
    backward_range(index, field, item)
}

fn backward_range(index: usize, field: &Field, item: &str) -> Option<String> {
    let range = item.split(['/', '#']).next()?;
    let (from, to) = range.split_once('-')?;
    let (low, mut high) = (field.number(from)?, field.number(to)?);
    if index == DAY_OF_WEEK && to.eq_ignore_ascii_case("SUN") {
        high = 7;
    }
    (low > high).then(|| format!("the range `{range}` runs backwards: list its two parts instead"))
}

fn reason(error: CronError) -> String {
    let text = match error {
        CronError::ComponentError(text) | CronError::InvalidPattern(text) | CronError::IllegalCharacters(text) => text,
        other => other.to_string(),
    };
    let mut letters = text.trim_end_matches('.').chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => "it cannot be read".to_owned(),
    }
}
