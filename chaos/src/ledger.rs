//! What the jobs of the harness run: it writes down that it began, works for a while, and writes down that it has ended. Every line is
//! on disk before it goes on.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Parser;
use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{Result, Tried, path};

/// One word of one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Entry {
    pub execution: Uuid,
    pub job: Uuid,
    pub epoch: i64,
    pub attempt: i64,
    /// Whether it is the beginning; else it is the end.
    pub begins: bool,
    /// Milliseconds of the host's monotonic clock.
    pub monotonic_ms: i64,
    /// Milliseconds since 1970, of a clock that no fault touches.
    pub wall_ms: i64,
    pub scheduled_at: String,
    pub pid: u32,
}

/// `orrery-chaos ledger`, as jobs run it.
#[derive(Debug, Parser)]
#[command(name = "ledger")]
pub struct LedgerArgs {
    /// Where to write.
    #[arg(long)]
    file: PathBuf,
    /// The shortest work, in milliseconds.
    #[arg(long, default_value_t = 0)]
    least_ms: u64,
    /// The longest.
    #[arg(long, default_value_t = 0)]
    most_ms: u64,
    /// Attempts up to this number fail.
    #[arg(long, default_value_t = 0)]
    failing: i64,
    /// Kill the agent.
    #[arg(long)]
    poison: bool,
}

/// Does one job's work. `args` begin with the subcommand's name.
pub fn work(args: impl IntoIterator<Item = std::ffi::OsString>) -> ExitCode {
    let args = LedgerArgs::parse_from(args);
    match write_and_work(&args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ledger: {error}");
            ExitCode::from(70)
        }
    }
}

fn write_and_work(args: &LedgerArgs) -> Result<ExitCode> {
    let mut entry = Entry {
        execution: told("ORRERY_EXECUTION_ID").parse().unwrap_or_default(),
        job: told("ORRERY_JOB_ID").parse().unwrap_or_default(),
        epoch: told("ORRERY_EPOCH").parse().unwrap_or_default(),
        attempt: told("ORRERY_ATTEMPT").parse().unwrap_or_default(),
        begins: true,
        monotonic_ms: monotonic_ms(),
        wall_ms: wall_ms(),
        scheduled_at: told("ORRERY_SCHEDULED_AT"),
        pid: std::process::id(),
    };
    append(&args.file, &entry)?;
    if args.poison {
        kill_agent();
    }
    wait(duration(args, &entry));
    entry.begins = false;
    entry.monotonic_ms = monotonic_ms();
    entry.wall_ms = wall_ms();
    append(&args.file, &entry)?;
    println!("epoch={}", entry.epoch);
    Ok(if entry.attempt <= args.failing { ExitCode::from(3) } else { ExitCode::SUCCESS })
}

fn told(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

/// The same for every attempt of an execution, so that a run can be repeated.
fn duration(args: &LedgerArgs, entry: &Entry) -> Duration {
    let spread = args.most_ms.saturating_sub(args.least_ms) + 1;
    let (high, low) = entry.execution.as_u64_pair();
    Duration::from_millis(args.least_ms + (high ^ low) % spread)
}

/// Holds this process up: it has nothing else to do.
fn wait(duration: Duration) {
    let (_kept, nothing) = mpsc::channel::<()>();
    let _ = nothing.recv_timeout(duration);
}

fn append(file: &Path, entry: &Entry) -> Result<()> {
    let mut line = serde_json::to_vec(entry).map_err(std::io::Error::from).tried(|| "writing a line".into())?;
    line.push(b'\n');
    let appended = || -> std::io::Result<()> {
        let mut file: File = OpenOptions::new().create(true).append(true).open(file)?;
        // One call, so that lines of several processes do not mix.
        file.write_all(&line)?;
        file.sync_data()
    };
    appended().tried(path("appending to", file))
}

/// Kills the process that started the supervisor that started this one.
fn kill_agent() {
    let parent = |pid: i32| -> Option<i32> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
    };
    let supervisor = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    let agent = supervisor.and_then(parent).filter(|pid| *pid > 1).and_then(Pid::from_raw);
    if let Some(agent) = agent {
        let _ = kill_process(agent, Signal::KILL);
    }
    // It dies with its agent; where it does not, it is seen.
    wait(Duration::from_secs(30));
}

/// All that was written.
///
/// # Errors
/// Where the file cannot be read, or holds what is no line of it.
pub fn read(file: &Path) -> Result<Vec<Entry>> {
    if !file.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(file).tried(path("reading", file))?;
    let entry = |line: &str| serde_json::from_str(line).map_err(std::io::Error::from).tried(path("a line of", file));
    text.lines().map(entry).collect()
}

/// Milliseconds since the host started.
pub fn monotonic_ms() -> i64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec * 1000 + now.tv_nsec / 1_000_000
}

fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
