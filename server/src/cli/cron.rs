//! `orrery cron`: reads cron expressions, without a server.

use chrono::{DateTime, TimeDelta, Utc};
use clap::{Args, Subcommand};
use orrery_proto::v1::{ExplainCronResponse, Fire, PreviewResponse};

use super::exit::Failure;
use super::instant::parse_instant;
use super::output::{Output, exact};
use crate::schedule::{DstNote, DstPolicy, Preview, Schedule, ScheduleError, explain};

#[derive(Debug, Subcommand)]
pub enum CronCommand {
    /// Print the next (or previous) instants of an expression, one a line, in UTC.
    #[command(after_help = "Examples:
  orrery cron next '0 9 * * 1-5' --tz Europe/Berlin
  orrery cron next '*/15 * * * * *' --count 3
  orrery cron next '30 2 * * *' --tz America/New_York --after 2026-03-07 --notes
  orrery cron next '@monthly' --previous

Five fields (minute hour day month weekday), six (seconds first) or seven (year last), or a macro. Weekdays: 0 and 7 are Sunday.
Exits with 2 where the expression is not valid or never fires.")]
    Next(NextArgs),
    /// Say in words when an expression fires.
    #[command(after_help = "Examples:
  orrery cron explain '0 0 9 * * 1-5'
  orrery cron explain '0 12 L * ?'")]
    Explain(ExplainArgs),
}

#[derive(Debug, Args)]
pub struct NextArgs {
    /// The cron expression; its fields may also be given as separate words.
    #[arg(value_name = "EXPR", required = true)]
    expression: Vec<String>,
    /// IANA time zone on whose wall clock the expression is read.
    #[arg(long, visible_alias = "timezone", value_name = "ZONE", default_value = "UTC")]
    tz: String,
    /// Print what is after (with --previous: before) this instant; now where absent.
    #[arg(long, value_name = "INSTANT", value_parser = parse_instant)]
    after: Option<DateTime<Utc>>,
    /// How many.
    #[arg(long, short = 'n', default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    count: u32,
    /// Go back in time instead.
    #[arg(long)]
    previous: bool,
    /// Also print the local time, and what daylight saving time does to an instant, separated by tabs.
    #[arg(long)]
    notes: bool,
}

#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The cron expression; its fields may also be given as separate words.
    #[arg(value_name = "EXPR", required = true)]
    expression: Vec<String>,
}

impl CronCommand {
    /// Runs it.
    pub(super) fn run(self, out: &Output) -> Result<(), Failure> {
        match self {
            Self::Next(args) => next(&args, out),
            Self::Explain(args) => {
                let description = explain(&args.expression.join(" ")).map_err(refused)?;
                if out.json {
                    return Ok(out.json(&ExplainCronResponse { description })?);
                }
                Ok(out.line(description)?)
            }
        }
    }
}

fn next(args: &NextArgs, out: &Output) -> Result<(), Failure> {
    let expression = args.expression.join(" ");
    let schedule = Schedule::cron(&expression, &args.tz, DstPolicy::default()).map_err(refused)?;
    let after = args.after.unwrap_or_else(Utc::now);
    let count = usize::try_from(args.count).unwrap_or(usize::MAX);
    let fires = if args.previous { before(&schedule, after, count) } else { schedule.preview(after, count) };
    if fires.is_empty() {
        let side = if args.previous { "before" } else { "after" };
        let message = format!("`{expression}` has no fire {side} {}", exact(after));
        return Err(Failure::invalid("INVALID_CRON_EXPRESSION", message));
    }
    let fires = fires.into_iter().map(|fire| Fire {
        at: Some(fire.at.into()),
        local: fire.local,
        note: fire.note.map(note).unwrap_or_default().to_owned(),
    });
    print_fires(&PreviewResponse { fires: fires.collect() }, args.notes, out)
}

/// The last `count` fires before an instant, the latest first.
fn before(schedule: &Schedule, at: DateTime<Utc>, count: usize) -> Vec<Preview> {
    std::iter::successors(schedule.previous_before(at), |at| schedule.previous_before(*at))
        .take(count)
        .flat_map(|at| schedule.preview(at - TimeDelta::nanoseconds(1), 1))
        .collect()
}

/// Prints fires, one instant a line.
pub(super) fn print_fires(response: &PreviewResponse, notes: bool, out: &Output) -> Result<(), Failure> {
    if out.json {
        return Ok(out.json(response)?);
    }
    let mut lines = Vec::with_capacity(response.fires.len());
    for fire in &response.fires {
        let at = fire.at.and_then(|at| at.instant()).map(exact).unwrap_or_default();
        lines.push(if notes { format!("{at}\t{}\t{}", fire.local, fire.note).trim_end().to_owned() } else { at });
    }
    Ok(out.line(lines.join("\n"))?)
}

fn refused(error: ScheduleError) -> Failure {
    let code = match error {
        ScheduleError::UnknownZone { .. } => "INVALID_TIMEZONE",
        _ => "INVALID_CRON_EXPRESSION",
    };
    Failure::invalid(code, error.to_string())
}

fn note(note: DstNote) -> &'static str {
    match note {
        DstNote::MovedToGapEnd => "moved to the end of the hour that daylight saving time skips",
        DstNote::FirstPassOnly => "this local time comes twice; fires on the first pass only",
        DstNote::SecondPassOnly => "this local time comes twice; fires on the second pass only",
        DstNote::FirstOfBothPasses => "this local time comes twice and fires twice; the first",
        DstNote::SecondOfBothPasses => "this local time comes twice and fires twice; the second",
    }
}
