//! Claims from a long queue.

use std::time::Duration;

use super::bed::Bed;
use super::deployment::{Deployment, START};
use super::error::Result;
use super::figure::{Figure, Goal, times};
use super::fill;
use super::progress::say;
use super::report::Case;
use super::samples::Samples;
use super::settings::Engine;
use super::worker::{MODULE, NOOP};
use super::workers::{Fleet, Start, Workers};

/// Claims of one execution each, one after the other.
const CLAIMS: u64 = 500;

/// The most executions over which a rate is measured.
const MOST: u64 = 100_000;

/// How long so many may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// The share of the smallest backlog's rate that a longer one keeps at least.
const KEPT: f64 = 0.8;

/// # Errors
/// Where it cannot be measured.
pub(super) async fn measure(bed: &Bed) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    let mut of_smallest = None;
    for rows in bed.settings.pending.clone() {
        say(format!("pending: {rows} executions wait"));
        let (rate, claims) = backlog(bed, rows).await?;
        bed.drop_databases().await;
        let smallest = *of_smallest.get_or_insert(rate);
        let mut figures = vec![Figure::new("dispatched_per_second", rate, "/s")];
        figures.push(Figure::new("of_smallest_backlog", rate / smallest, "").goal(Goal::AtLeast(KEPT)));
        figures.extend(times("claim_cycle", &claims, [None, None]));
        cases.push(Case::new(format!("{rows} rows"), figures).with("rows", rows));
    }
    Ok(cases)
}

/// The rate of a worker with many slots, and how long a worker with one slot waits from one start to the next.
async fn backlog(bed: &Bed, rows: u64) -> Result<(f64, Samples)> {
    let deployment = Deployment::start(bed, Engine::Postgres).await?;
    let pool = deployment.database.pool()?.clone();
    let job = deployment.asked_job(&deployment.client, NOOP, NOOP).await?;
    deployment.trigger(&deployment.client, &job, 1).await?;
    let lane = fill::lane_of(&pool, &format!("function:{MODULE}#{NOOP}")).await?;
    fill::pending(&pool, &job, lane, rows).await?;
    fill::settled(&pool).await?;
    let claims = one_by_one(bed, &deployment).await?;
    let starts = started(bed, &deployment, bed.settings.slots, (rows * 8 / 10).min(MOST)).await?;
    deployment.stop().await;
    Ok((rate(&starts), claims))
}

async fn one_by_one(bed: &Bed, deployment: &Deployment) -> Result<Samples> {
    let starts = started(bed, deployment, 1, CLAIMS).await?;
    deployment.has_agents(0, START).await?;
    let gaps = starts.windows(2).map(|pair| super::workers::lag(pair[0].at, pair[1].at));
    Ok(Samples::of(gaps))
}

/// The starts of at least so many executions, in their order.
async fn started(bed: &Bed, deployment: &Deployment, slots: u32, count: u64) -> Result<Vec<Start>> {
    let mut workers = Workers::start(bed, deployment, Fleet::one(slots)).await?;
    workers.go().await?;
    workers.have_started(count, PATIENCE).await?;
    let mut starts = workers.take().await?;
    workers.stop().await;
    starts.sort_by_key(|start| start.at);
    Ok(starts)
}

/// Starts a second, without the first tenth, in which everything begins.
fn rate(starts: &[Start]) -> f64 {
    let counted = &starts[starts.len() / 10..];
    match (counted.first(), counted.last()) {
        (Some(first), Some(last)) => (counted.len() - 1) as f64 / super::workers::lag(first.at, last.at) * 1e3,
        _ => f64::NAN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_leaves_the_beginning_out() {
        let start = |at: u128| Start { execution: uuid::Uuid::nil(), at };
        // One that waited for a second, then 20, a millisecond apart.
        let starts: Vec<Start> =
            [0].into_iter().chain((0..20).map(|n| 1_000_000_000 + n * 1_000_000)).map(start).collect();
        assert!((rate(&starts) - 1000.0).abs() < 1e-6);
        assert!(rate(&[]).is_nan());
    }
}
