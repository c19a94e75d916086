//! `orrery bench`: measures this machine, and shows each figure beside its goal.

use clap::{Args, Subcommand, ValueEnum as _};

use super::exit::{Exit, Failure};
use super::output::Output;
use crate::bench::worker::WorkerArgs;
use crate::bench::{self, BenchError, COLUMNS, Engine, Report, Scenario, Settings};

#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:
  orrery bench --quick
  orrery bench throughput latency --json > bench.json
  orrery bench throughput --agents 1,2,4 --runs 5
  orrery bench --database-url postgres://user:password@host/postgres"
)]
pub struct BenchCommand {
    #[command(subcommand)]
    command: Option<BenchSubcommand>,
    #[command(flatten)]
    args: BenchArgs,
}

#[derive(Debug, Subcommand)]
enum BenchSubcommand {
    /// Run workers that a measurement tells what to do.
    #[command(hide = true)]
    Worker(WorkerArgs),
}

/// What is measured. Absent sizes are those of a full run, or with --quick of a short one.
#[derive(Debug, Args)]
struct BenchArgs {
    /// What to measure; everything where absent.
    #[arg(value_enum)]
    scenarios: Vec<Scenario>,
    /// Small sizes, one run each: all of it in minutes.
    #[arg(long)]
    quick: bool,
    /// postgres://USER:PASSWORD@HOST:PORT/DATABASE of a user who may create databases and roles; a private one is started where absent.
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// Engines that throughput is measured on; both where absent.
    #[arg(long, value_enum, value_delimiter = ',')]
    engine: Vec<Engine>,
    /// Runs of throughput, whose median is shown.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=100))]
    runs: Option<u16>,
    /// Executions that throughput drains; a tenth of it on SQLite.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    executions: Option<u64>,
    /// Numbers of agents that throughput is measured with.
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=64))]
    agents: Vec<u16>,
    /// Slots of all agents together.
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    slots: u32,
    /// Triggers of latency.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    triggers: Option<u32>,
    /// Seconds for each way of queueing.
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u32).range(1..=3600))]
    enqueue_seconds: Option<u32>,
    /// Numbers of cron jobs that are due in the same second.
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    herd: Vec<u64>,
    /// Seconds of precision.
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u32).range(1..=3600))]
    precision_seconds: Option<u32>,
    /// Executions that run at the same time.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000))]
    concurrent: Option<u64>,
    /// Lengths of queues, the smallest first.
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1000..=100_000_000))]
    pending: Vec<u64>,
    /// Lengths of histories.
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = clap::value_parser!(u64).range(1000..=100_000_000))]
    history: Vec<u64>,
    /// Executions that one tenant has waiting while another one triggers.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    fairness: Option<u64>,
    /// Numbers of agents' streams.
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=100_000))]
    streams: Vec<u32>,
    /// Seconds of calls beside running executions.
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u32).range(1..=3600))]
    api_seconds: Option<u32>,
    /// Seconds at a steady rate.
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    soak_seconds: Option<u32>,
}

/// What was given, or else what fits the run.
fn sizes<T: Copy>(given: Vec<T>, is_quick: bool, short: &[T], full: &[T]) -> Vec<T> {
    match (given.is_empty(), is_quick) {
        (false, _) => given,
        (true, true) => short.to_vec(),
        (true, false) => full.to_vec(),
    }
}

impl BenchCommand {
    /// Measures and shows, or runs workers.
    pub(super) fn run(self, out: &Output) -> Result<(), Failure> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime =
            runtime.map_err(|e| Failure::new(Exit::Failed, "INTERNAL_ERROR", format!("no event loop: {e}")))?;
        match self.command {
            Some(BenchSubcommand::Worker(worker)) => Ok(runtime.block_on(Box::pin(bench::worker::run(worker)))?),
            None => show(&runtime.block_on(Box::pin(bench::run(self.args.settings())))?, out),
        }
    }
}

impl BenchArgs {
    fn settings(self) -> Settings {
        let quick = self.quick;
        let size = |short: u32, full: u32| if quick { short } else { full };
        let executions = self.executions.unwrap_or(size(50_000, 300_000).into());
        let scenarios = match self.scenarios.is_empty() {
            true => Scenario::value_variants().to_vec(),
            false => self.scenarios,
        };
        let agents = sizes(self.agents, quick, &[1], &[1, 2, 4]);
        let streams = sizes(self.streams, quick, &[100, 1000], &[100, 1000, 5000]);
        Settings {
            scenarios,
            database_url: self.database_url,
            engines: sizes(
                self.engine,
                quick,
                &[Engine::Postgres, Engine::Sqlite],
                &[Engine::Postgres, Engine::Sqlite],
            ),
            is_quick: quick,
            runs: self.runs.map_or(if quick { 1 } else { 3 }, usize::from),
            executions,
            sqlite_executions: (executions / 10).max(1),
            agents: agents.into_iter().map(usize::from).collect(),
            slots: self.slots,
            triggers: self.triggers.unwrap_or(size(300, 1000)),
            enqueue_seconds: self.enqueue_seconds.unwrap_or(size(2, 10)),
            herd: sizes(self.herd, quick, &[1000, 10_000], &[1000, 10_000, 100_000]),
            precision_seconds: self.precision_seconds.unwrap_or(size(30, 120)),
            concurrent: self.concurrent.unwrap_or(size(5000, 20_000).into()),
            hold_seconds: size(5, 30),
            pending: sizes(self.pending, quick, &[10_000, 100_000], &[10_000, 1_000_000, 10_000_000]),
            history: sizes(self.history, quick, &[100_000], &[1_000_000, 10_000_000]),
            reads: size(100, 300),
            fairness: self.fairness.unwrap_or(size(50_000, 100_000).into()),
            streams: streams.into_iter().filter_map(|n| usize::try_from(n).ok()).collect(),
            api_seconds: self.api_seconds.unwrap_or(size(10, 60)),
            soak_seconds: self.soak_seconds.unwrap_or(size(40, 1200)),
        }
    }
}

fn show(report: &Report, out: &Output) -> Result<(), Failure> {
    if out.json {
        out.json(&report.json())?;
    } else {
        out.table(&COLUMNS, &report.rows())?;
        if cfg!(debug_assertions) {
            out.note("This is a debug build: its figures say nothing of a release build's.");
        }
    }
    if report.was_interrupted() {
        return Err(Failure::interrupted());
    }
    match report.broken().as_slice() {
        [] => Ok(()),
        broken => Err(Failure::new(Exit::Failed, "NOT_MEASURED", broken.join("; "))),
    }
}

impl From<BenchError> for Failure {
    fn from(error: BenchError) -> Self {
        match error {
            BenchError::Interrupted => Self::interrupted(),
            BenchError::Setting(message) => Self::invalid("INVALID_SETTING", message),
            other => Self::new(Exit::Failed, "NOT_MEASURED", other.to_string()),
        }
    }
}
