//! `orrery bench`: how fast this machine runs Orrery. It starts real processes, a coordinator and workers, on a database of their own, measures
//! them from outside, and sets each figure beside its goal.

mod authority;
mod bed;
mod calls;
mod child;
mod commits;
mod concurrent;
mod crons;
mod database;
mod deployment;
mod enqueue;
mod error;
mod fairness;
mod figure;
mod fill;
mod herd;
mod history;
mod latency;
mod layouts;
mod load;
mod machine;
mod past;
mod pending;
mod postgres;
mod precision;
mod procfs;
mod progress;
mod raw;
mod report;
mod rest;
mod samples;
mod scenario;
mod settings;
mod soak;
mod start;
mod streams;
mod throughput;
mod wait;
pub mod worker;
mod workers;

use serde_json::Value;
use tokio::time::Instant;

pub use self::error::BenchError;
pub use self::report::{COLUMNS, Report};
pub use self::scenario::Scenario;
pub use self::settings::{Engine, Settings};

use self::bed::Bed;
use self::error::Result;
use self::report::{Case, Outcome};
use crate::run::on_signals;

/// Measures, until SIGINT or SIGTERM; what was measured until then is in the report.
///
/// # Errors
/// Where nothing can be measured: a database that is not to be had, above all.
pub async fn run(settings: Settings) -> Result<Report> {
    let stop = on_signals()?;
    let needs_postgres = settings.scenarios.iter().any(|scenario| uses_postgres(*scenario, &settings));
    let bed = Bed::prepared(settings, needs_postgres).await?;
    let mut report = begun(&bed).await?;
    for scenario in bed.settings.scenarios.clone() {
        let began = Instant::now();
        let measured = tokio::select! {
            biased;
            () = stop.cancelled() => Err(BenchError::Interrupted),
            measured = Box::pin(measure(scenario, &bed)) => measured,
        };
        bed.drop_databases().await;
        report.interrupted = matches!(measured, Err(BenchError::Interrupted));
        let (cases, error) = match measured {
            Ok(cases) => (cases, None),
            Err(error) => (Vec::new(), Some(error.to_string())),
        };
        report.outcomes.push(Outcome { scenario, seconds: began.elapsed().as_secs_f64(), cases, error });
        if report.interrupted {
            break;
        }
    }
    bed.close().await;
    Ok(report)
}

fn uses_postgres(scenario: Scenario, settings: &Settings) -> bool {
    match scenario {
        Scenario::Throughput => settings.engines.contains(&Engine::Postgres),
        Scenario::Start => false,
        _ => true,
    }
}

async fn begun(bed: &Bed) -> Result<Report> {
    let mut settings = bed.settings.json();
    let mut version = None;
    if let Some(pool) = bed.server() {
        version = Some(sqlx::query_scalar("show server_version").fetch_one(pool).await?);
        if let Value::Object(all) = &mut settings {
            all.insert("postgres".into(), machine::postgres_settings(pool).await?);
        }
    }
    Ok(Report {
        machine: machine::machine(),
        versions: machine::versions(version),
        settings,
        outcomes: Vec::new(),
        interrupted: false,
    })
}

async fn measure(scenario: Scenario, bed: &Bed) -> Result<Vec<Case>> {
    match scenario {
        Scenario::Throughput => throughput::measure(bed).await,
        Scenario::Latency => latency::measure(bed).await,
        Scenario::Enqueue => enqueue::measure(bed).await,
        Scenario::Herd => herd::measure(bed).await,
        Scenario::Precision => precision::measure(bed).await,
        Scenario::Concurrent => concurrent::measure(bed).await,
        Scenario::Pending => pending::measure(bed).await,
        Scenario::History => history::measure(bed).await,
        Scenario::Fairness => fairness::measure(bed).await,
        Scenario::Agents => streams::measure(bed).await,
        Scenario::Api => calls::measure(bed).await,
        Scenario::Soak => soak::measure(bed).await,
        Scenario::Start => start::measure(bed).await,
        Scenario::Layouts => layouts::measure(bed).await,
    }
}
