//! How soon `orrery dev` serves, and how large the program is.

use std::path::Path;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::bed::Bed;
use super::child::Child;
use super::deployment::{START, address};
use super::error::{Result, Tried, failed};
use super::figure::{Figure, Goal};
use super::procfs;
use super::progress::say;
use super::report::Case;
use super::samples::median;

/// Starts that are measured, after one that makes the database.
const STARTS: usize = 5;

/// # Errors
/// Where it does not start.
pub(super) async fn measure(bed: &Bed) -> Result<Vec<Case>> {
    say("start: orrery dev");
    let data = bed.fresh_path("dev");
    let (cold, _) = served(bed, &data).await?;
    let (mut seconds, mut memory) = (Vec::new(), f64::NAN);
    for _ in 0..STARTS {
        let (took, resident) = served(bed, &data).await?;
        seconds.push(took.as_secs_f64());
        memory = resident.map_or(f64::NAN, |bytes| bytes as f64 / 1e6);
    }
    let program = std::env::current_exe().tried(|| "finding this program".into())?;
    let size = program.metadata().tried(|| "looking at this program".into())?.len() as f64 / 1e6;
    let figures = vec![
        Figure::new("exec_to_healthy", median(&seconds), "s").goal(Goal::Below(1.0)),
        Figure::new("first_exec_to_healthy", cold.as_secs_f64(), "s"),
        Figure::new("memory_when_healthy", memory, "MB"),
        Figure::new("program_size", size, "MB"),
    ];
    Ok(vec![Case::new("orrery dev", figures).with("starts", STARTS)])
}

/// From the start of the process to its first healthy answer, and its memory then.
async fn served(bed: &Bed, data: &Path) -> Result<(Duration, Option<u64>)> {
    let mut command =
        Child::orrery(&["dev", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0"])?;
    command.arg("--data-dir").arg(data).env("LOG_LEVEL", "warn");
    let began = Instant::now();
    let mut process = Child::start("dev", bed.directory(), command)?;
    let ready = process.line_with("ready ", START).await?;
    let health = format!("{}/health", address(&ready, "http")?);
    let _ = rustls::crypto::ring::default_provider().install_default();
    let http = reqwest::Client::builder().no_proxy().build()?;
    let is_healthy = async || http.get(&health).send().await.is_ok_and(|answer| answer.status().is_success());
    while !is_healthy().await {
        if began.elapsed() > START {
            return Err(failed("orrery dev does not become healthy"));
        }
        sleep(Duration::from_millis(2)).await;
    }
    let (took, memory) = (began.elapsed(), procfs::memory(process.pid()).map(|(now, _)| now));
    process.end_by(rustix::process::Signal::TERM, START).await;
    Ok((took, memory))
}
