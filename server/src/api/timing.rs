//! From a stored schedule to its fires. Pure.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use orrery_proto::v1;

use crate::error::FieldProblem;
use crate::job::{Job, JobSpec, ScheduleKind};
use crate::schedule::{DstNote, FireRange, Preview, Schedule, ScheduleError, fires_between};

/// The most fires that an omission counts.
const COUNT_LIMIT: u64 = 100_000;

/// The code and the field that an error of a schedule is about.
pub(crate) fn blame(error: &ScheduleError) -> (&'static str, &'static str) {
    match error {
        ScheduleError::UnknownZone { .. } => ("INVALID_TIMEZONE", "timezone"),
        ScheduleError::IntervalTooShort { .. } => ("INVALID_SCHEDULE", "intervalMs"),
        _ => ("INVALID_CRON_EXPRESSION", "cronExpression"),
    }
}

/// The first fire after `now` within the job's dates.
pub(crate) fn next_fire(spec: &JobSpec, schedule: &Schedule, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    schedule.next_after(not_before_start(spec, now)).filter(|at| spec.end_date.is_none_or(|end| *at <= end))
}

/// The fire that a job starts with: `None` for one that only fires when triggered.
///
/// # Errors
/// The field at fault, where there is no fire left.
pub(crate) fn first_fire(
    spec: &JobSpec,
    created_at: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<Option<DateTime<Utc>>, FieldProblem> {
    let problem = |code, field: &str, message| FieldProblem { field: field.to_owned(), code, message };
    let schedule = spec.schedule(created_at).map_err(|error| {
        let (code, field) = blame(&error);
        problem(code, field, error.to_string())
    })?;
    let Some(schedule) = schedule else { return Ok(None) };
    if let Some(at) = next_fire(spec, &schedule, now) {
        return Ok(Some(at));
    }
    Err(match (schedule.next_after(not_before_start(spec, now)), &spec.schedule.kind) {
        (Some(first), _) => problem(
            "INVALID_DATE_RANGE",
            "endDate",
            format!("lies before the first fire, {}; give a later one", shown(first)),
        ),
        (None, ScheduleKind::Once(at)) if spec.start_date.is_some_and(|start| *at < start) => {
            problem("INVALID_SCHEDULE", "runAt", "lies before startDate; give a later one".to_owned())
        }
        (None, ScheduleKind::Once(_)) => {
            problem("INVALID_SCHEDULE", "runAt", format!("lies in the past; give an instant after {}", shown(now)))
        }
        (None, ScheduleKind::Every(_)) => {
            problem("INVALID_SCHEDULE", "intervalMs", "never fires; give a shorter interval".to_owned())
        }
        (None, _) => {
            let message = format!("never fires after {}; change its day, month or year", shown(now));
            problem("INVALID_CRON_EXPRESSION", "cronExpression", message)
        }
    })
}

/// An instant as callers write it.
fn shown(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// The fires that did not happen since `from`, up to `now` and within the job's dates.
pub(crate) fn missed(job: &Job, from: DateTime<Utc>, now: DateTime<Utc>) -> Option<FireRange> {
    let schedule = job.spec.schedule(job.created_at).ok().flatten()?;
    let to = job.spec.end_date.map_or(now, |end| end.min(now));
    fires_between(&schedule, not_before_start(&job.spec, from), to, COUNT_LIMIT)
}

/// The coming fires within the job's dates, for people.
pub(crate) fn preview(
    spec: &JobSpec,
    created_at: DateTime<Utc>,
    after: DateTime<Utc>,
    count: usize,
) -> Result<Vec<v1::Fire>, ScheduleError> {
    let Some(schedule) = spec.schedule(created_at)? else { return Ok(Vec::new()) };
    let fires = schedule.preview(not_before_start(spec, after), count);
    Ok(fires.into_iter().filter(|fire| spec.end_date.is_none_or(|end| fire.at <= end)).map(fire).collect())
}

/// The latest fires before `before`, the newest first.
pub(crate) fn preview_back(schedule: &Schedule, before: DateTime<Utc>, count: usize) -> Vec<v1::Fire> {
    std::iter::successors(schedule.previous_before(before), |at| schedule.previous_before(*at))
        .take(count)
        .filter_map(|at| schedule.preview(just_before(at), 1).into_iter().next())
        .map(fire)
        .collect()
}

/// A fire as the API shows it.
pub(crate) fn fire(preview: Preview) -> v1::Fire {
    let note = match preview.note {
        None => "",
        Some(DstNote::MovedToGapEnd) => "moved to the end of the hour that daylight saving time skips",
        Some(DstNote::FirstPassOnly) => "the clock shows this time twice; fires on the first pass only",
        Some(DstNote::SecondPassOnly) => "the clock shows this time twice; fires on the second pass only",
        Some(DstNote::FirstOfBothPasses) => "the clock shows this time twice; this is the first of both passes",
        Some(DstNote::SecondOfBothPasses) => "the clock shows this time twice; this is the second of both passes",
    };
    v1::Fire { at: Some(preview.at.into()), local: preview.local, note: note.to_owned() }
}

/// Fires strictly after the answer are after `at` and not before the job's start.
fn not_before_start(spec: &JobSpec, at: DateTime<Utc>) -> DateTime<Utc> {
    spec.start_date.map_or(at, |start| at.max(just_before(start)))
}

fn just_before(at: DateTime<Utc>) -> DateTime<Utc> {
    at.checked_sub_signed(TimeDelta::microseconds(1)).unwrap_or(at)
}
