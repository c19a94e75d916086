//! Jobs spread over the seconds of a minute: how far from its instant each starts.

use std::time::Duration;

use chrono::{TimeDelta, Timelike as _, Utc};

use super::bed::Bed;
use super::crons::{create, job, second_after};
use super::deployment::Deployment;
use super::error::{Result, failed};
use super::figure::{Figure, Goal, times};
use super::progress::say;
use super::report::Case;
use super::samples::Samples;
use super::settings::Engine;
use super::workers::{Fleet, Workers};

/// Jobs; they fire once a minute each.
const JOBS: u64 = 200;

/// From the making of jobs to their first fire.
const AHEAD: TimeDelta = TimeDelta::seconds(10);

/// # Errors
/// Where it cannot be measured.
pub(super) async fn measure(bed: &Bed) -> Result<Vec<Case>> {
    let seconds = bed.settings.precision_seconds;
    say(format!("precision: {JOBS} jobs on distinct seconds, for {seconds} s"));
    let deployment = Deployment::start(bed, Engine::Postgres).await?;
    let mut workers = Workers::attached(bed, &deployment, Fleet::one(bed.settings.slots)).await?;
    let from = second_after(Utc::now(), AHEAD);
    let made = (0..JOBS).map(|n| job(format!("precise-{n}"), format!("{} * * * * *", n % 60), Some(from)));
    create(&deployment.client, made.collect()).await?;
    let until = from + TimeDelta::seconds(i64::from(seconds));
    let left = until.signed_duration_since(Utc::now()).to_std().unwrap_or_default();
    // Half a second more, so that what is late is seen, and what fires next is not.
    tokio::time::sleep(left.saturating_sub(Duration::from_millis(500))).await;
    let starts = workers.take().await?;
    workers.stop().await;
    deployment.stop().await;

    let lags = Samples::of(starts.iter().map(super::workers::Start::lag));
    let expected = fires(u64::from(from.second()), seconds);
    if lags.len() as u64 != expected {
        return Err(failed(format!("{} of {expected} fires have started", lags.len())));
    }
    let mut figures = times("lag", &lags, [None, Some(5.0)]);
    figures.push(Figure::new("earliest_start", lags.min(), "ms").goal(Goal::AtLeast(0.0)));
    Ok(vec![Case::new(format!("{JOBS} jobs"), figures).with("fires", lags.len()).with("seconds", seconds)])
}

/// How often the jobs fire in so many seconds, of which the first is this one of a minute.
fn fires(first: u64, seconds: u32) -> u64 {
    let of_second = |second: u64| (0..JOBS).filter(|n| n % 60 == second % 60).count() as u64;
    (0..u64::from(seconds)).map(|second| of_second(first + second)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fires_are_counted_second_by_second() {
        assert_eq!(fires(17, 120), 2 * JOBS);
        // 200 jobs on 60 seconds: four on each of the first 20, three on the others.
        assert_eq!((fires(0, 1), fires(19, 1), fires(20, 1), fires(59, 2)), (4, 4, 3, 7));
        assert_eq!(fires(5, 0), 0);
    }
}
