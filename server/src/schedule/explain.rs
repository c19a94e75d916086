//! A cron expression in English.

use super::error::ScheduleError;
use super::expression::{Expression, parser};

/// Index of the year field.
const YEAR: usize = 6;

/// Says in English when a cron expression fires, such as `At 09:00, on Monday to Friday`.
///
/// # Errors
///
/// When the expression cannot be read. One that never fires is explained all the same.
pub fn explain(expression: &str) -> Result<String, ScheduleError> {
    let expression = Expression::parse(expression)?;
    let description = match parser().parse(&with_plain_steps(&expression)) {
        Ok(cron) => cron.describe(),
        Err(_) => expression.pattern().describe(),
    };
    let working_days = "Monday, Tuesday, Wednesday, Thursday, and Friday";
    let mut text = description.trim_end_matches('.').replace(working_days, "Monday to Friday");
    if let Some(years) = expression.fields().get(YEAR).filter(|field| field.contains('/')) {
        text.push_str(", in the years ");
        text.push_str(years);
    }
    Ok(text)
}

/// The expression with all steps but `*/n` written as lists, as croner calls `0-10/5` and `*/5,7` both "every 5", and
/// without stepped years, which would be a list of thousands.
fn with_plain_steps(expression: &Expression) -> String {
    let pattern = expression.pattern();
    let parts = [
        &pattern.seconds,
        &pattern.minutes,
        &pattern.hours,
        &pattern.days,
        &pattern.months,
        &pattern.days_of_week,
        &pattern.years,
    ];
    let plain = expression.fields().iter().zip(parts).enumerate().map(|(index, (field, part))| {
        let from_start = field.strip_prefix("*/").or_else(|| field.strip_prefix("0/"));
        let simple = from_start.filter(|step| step.bytes().all(|b| b.is_ascii_digit()));
        match simple {
            _ if !field.contains('/') || part.has_modifiers() => field.clone(),
            _ if index == YEAR => "*".to_owned(),
            Some(step) => format!("*/{step}"),
            None => part.values().iter().map(u16::to_string).collect::<Vec<_>>().join(","),
        }
    });
    plain.collect::<Vec<_>>().join(" ")
}
