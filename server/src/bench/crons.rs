//! Jobs that fire by themselves.

use chrono::{DateTime, Datelike as _, TimeDelta, Timelike as _, Utc};
use orrery_sdk::Client;
use orrery_sdk::v1::{BatchCreateJobsRequest, CreateJobRequest};

use super::deployment::function_job;
use super::error::Result;
use super::worker::NOOP;

/// Jobs of one call.
const BATCH: usize = 1000;

/// Makes jobs, a thousand a call.
///
/// # Errors
/// Where a call fails.
pub(super) async fn create(client: &Client, jobs: Vec<CreateJobRequest>) -> Result<()> {
    let mut left = jobs.into_iter().peekable();
    while left.peek().is_some() {
        let jobs = left.by_ref().take(BATCH).collect();
        client.batch_create_jobs(BatchCreateJobsRequest { jobs }).await?;
    }
    Ok(())
}

/// A job that fires by an expression of six fields, in UTC, from an instant on.
pub(super) fn job(name: String, expression: String, from: Option<DateTime<Utc>>) -> CreateJobRequest {
    CreateJobRequest { cron_expression: expression, start_date: from.map(Into::into), ..function_job(&name, NOOP) }
}

/// The expression of one second in a year.
pub(super) fn once_a_year(at: DateTime<Utc>) -> String {
    format!("{} {} {} {} {} *", at.second(), at.minute(), at.hour(), at.day(), at.month())
}

/// The first whole second that is so far away.
pub(super) fn second_after(now: DateTime<Utc>, ahead: TimeDelta) -> DateTime<Utc> {
    let later = now + ahead + TimeDelta::seconds(1);
    later.with_nanosecond(0).unwrap_or(later)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_has_an_expression() {
        let now: DateTime<Utc> = "2026-12-31T23:59:58.25Z".parse().unwrap();
        assert_eq!(once_a_year(now), "58 59 23 31 12 *");
        let soon = second_after(now, TimeDelta::milliseconds(500));
        assert_eq!(soon, "2026-12-31T23:59:59Z".parse::<DateTime<Utc>>().unwrap());
        assert_eq!(once_a_year(second_after(now, TimeDelta::seconds(1))), "0 0 0 1 1 *");
    }
}
