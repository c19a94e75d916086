//! Many agents: what each costs its coordinator, and what they add to the latency of work.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::bed::Bed;
use super::deployment::Deployment;
use super::error::Result;
use super::figure::{Figure, Goal, times};
use super::latency::probe;
use super::procfs;
use super::progress::say;
use super::report::Case;
use super::settings::Engine;
use super::worker::NOOP;
use super::workers::{Fleet, Workers};

/// Files beside those of the streams.
const SPARE: u64 = 500;

/// How long they may take to connect.
const CONNECT: Duration = Duration::from_secs(300);

/// Triggers whose latency is measured.
const TRIGGERS: u32 = 300;

/// # Errors
/// Where it cannot be measured.
pub(super) async fn measure(bed: &Bed) -> Result<Vec<Case>> {
    let most = open_files();
    let mut cases = Vec::new();
    for streams in bed.settings.streams.clone() {
        let possible = streams.min(usize::try_from(most.saturating_sub(SPARE)).unwrap_or(usize::MAX));
        if possible < streams {
            say(format!(
                "agents: {streams} streams need more open files than the {most} that are allowed; measuring {possible}"
            ));
        }
        say(format!("agents: {possible} streams"));
        cases.push(streams_of(bed, possible).await?.with("asked_for", streams).with("open_files", most));
        bed.drop_databases().await;
    }
    Ok(cases)
}

/// Raises the limit of open files, for what is started from now on, as far as it goes; answers with it.
fn open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let limit = if setrlimit(Resource::Nofile, raised).is_ok() { raised } else { limit };
    limit.current.unwrap_or(u64::MAX)
}

async fn streams_of(bed: &Bed, streams: usize) -> Result<Case> {
    let deployment = Deployment::start(bed, Engine::Postgres).await?;
    let job = deployment.asked_job(&deployment.client, NOOP, NOOP).await?;
    let mut first = Workers::attached(bed, &deployment, Fleet::one(100)).await?;
    probe(&deployment.client, &job, &mut first, 100).await?;
    let idle = probe(&deployment.client, &job, &mut first, TRIGGERS).await?;
    let before = procfs::memory(deployment.pid()).map_or(f64::NAN, |(now, _)| now as f64);
    let cpu_idle = cpu_share(bed, &deployment).await;

    let fleet = Fleet { processes: 1, each: streams, slots: 1, has_journal: false };
    let mut many = Workers::start(bed, &deployment, fleet).await?;
    many.go().await?;
    deployment.has_agents(streams + 1, CONNECT).await?;
    let cpu = cpu_share(bed, &deployment).await;
    let after = procfs::memory(deployment.pid()).map_or(f64::NAN, |(now, _)| now as f64);
    first.stop().await;
    let beside = probe(&deployment.client, &job, &mut many, TRIGGERS).await?;
    many.stop().await;
    deployment.stop().await;

    let each = streams as f64;
    let memory = Figure::new("coordinator_memory_per_agent", (after - before) / each / 1024.0, "KiB");
    let mut figures = vec![
        memory.goal(Goal::Below(40.0)),
        Figure::new("coordinator_cpu_per_agent", (cpu - cpu_idle) / each * 1e6, "us/s"),
        Figure::new("coordinator_cpu", cpu * 100.0, "%"),
    ];
    figures.extend(times("idle_dispatch", &idle.to_start, [None, None]));
    figures.extend(times("dispatch", &beside.to_start, [None, Some(2.0 * idle.to_start.percentile(99.0))]));
    Ok(Case::new(format!("{streams} streams"), figures).with("streams", streams).with("journal", "off"))
}

/// CPU seconds that the coordinator uses in a second, where nothing but heartbeats happens.
async fn cpu_share(bed: &Bed, deployment: &Deployment) -> f64 {
    let before = procfs::cpu(deployment.pid()).unwrap_or(f64::NAN);
    let window = if bed.settings.is_quick { 5 } else { 20 };
    tokio::time::sleep(Duration::from_secs(window)).await;
    (procfs::cpu(deployment.pid()).unwrap_or(f64::NAN) - before) / Duration::from_secs(window).as_secs_f64()
}
