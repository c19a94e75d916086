//! `orrery-chaos`: see `orrery-chaos --help`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use orrery_chaos::error::{Result, Tried, world};
use orrery_chaos::faults::{self, Fault};
use orrery_chaos::scenario::{self, Options};
use orrery_chaos::table::{Row, table};
use orrery_chaos::world::Programs;
use orrery_chaos::{ledger, mutants};

/// What a scenario takes beside the time that its jobs fire: to start a world, to come to rest, and to look at what is left.
const BESIDE: Duration = Duration::from_secs(20);

/// Breaks a whole Orrery in every way, and checks what must hold all the same.
#[derive(Debug, Parser)]
#[command(name = "orrery-chaos")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run faults, each against a world of its own.
    Run(RunArgs),
    /// Plant known bugs in a copy of the tree, and see that the faults show them.
    Mutants(MutantsArgs),
}

#[derive(Debug, Args)]
struct MutantsArgs {
    /// The tree
    #[arg(long, default_value = ".")]
    root: PathBuf,
    /// Only these bugs
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Where the copy is made; it stays there and is used again. A temporary directory where it is not given
    #[arg(long)]
    directory: Option<PathBuf>,
    /// Only look whether each bug's text stands exactly once where it is to stand
    #[arg(long)]
    check: bool,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// Seed of all choices; timing stays the machine's. Another one each time where it is not given
    #[arg(long)]
    seed: Option<u64>,
    /// About how long all of it may take
    #[arg(long, default_value_t = 8)]
    minutes: u64,
    /// How long each scenario's jobs fire, instead of a share of the minutes
    #[arg(long)]
    seconds: Option<u64>,
    /// Only these faults
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// How long an agent's session lives; short, so that scenarios are
    #[arg(long, default_value_t = 4000)]
    ttl_ms: u64,
    /// Sessions live as long as they do by default: 15 s
    #[arg(long)]
    default_ttl: bool,
    /// A figure that misses its goal is reported, and is no violation
    #[arg(long)]
    lenient: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Where `orrery` and `orrery-agent` are
    #[arg(long, default_value = "target/debug")]
    programs: PathBuf,
}

fn main() -> ExitCode {
    // First, and without anything else: jobs start it often.
    if std::env::args_os().nth(1).is_some_and(|first| first == "ledger") {
        return ledger::work(std::env::args_os().skip(1));
    }
    let Cli { command } = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("no event loop: {error}");
            return ExitCode::from(2);
        }
    };
    let done = runtime.block_on(async {
        match command {
            Command::Run(args) => Box::pin(run(args)).await,
            Command::Mutants(args) => Box::pin(plant(args)).await,
        }
    });
    done.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::from(2)
    })
}

async fn run(args: RunArgs) -> Result<ExitCode> {
    let faults = chosen(&args.only)?;
    let seed = args.seed.unwrap_or_else(|| rand::random_range(1..1_000_000));
    let share = Duration::from_secs(args.minutes * 60) / u32::try_from(faults.len().max(1)).unwrap_or(1);
    let lasting = args.seconds.map_or(share.saturating_sub(BESIDE).max(Duration::from_secs(15)), Duration::from_secs);
    let directory =
        tempfile::Builder::new().prefix("orrery-chaos-").tempdir_in("/tmp").tried(|| "a directory".into())?;
    open_to_all(directory.path())?;
    let options = Options {
        programs: programs(&args.programs)?,
        seed,
        lasting,
        ttl: Duration::from_millis(if args.default_ttl { 15_000 } else { args.ttl_ms }),
        directory: directory.path().to_owned(),
        strict: !args.lenient,
    };
    eprintln!("seed {seed}; {} faults, {} s of fires each", faults.len(), lasting.as_secs());
    let mut rows = Vec::new();
    for fault in &faults {
        eprintln!("{} ...", fault.name());
        let row = tokio::select! {
            row = Box::pin(scenario::run(fault.as_ref(), &options)) => row,
            _ = tokio::signal::ctrl_c() => return Err(world("interrupted")),
        };
        report(&row);
        rows.push(row);
    }
    if args.json {
        let text = serde_json::to_string_pretty(&serde_json::json!({"seed": seed, "rows": rows}));
        println!("{}", text.map_err(|error| world(error.to_string()))?);
    } else {
        println!("\n{}", table(&rows));
    }
    if rows.iter().all(Row::is_good) {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("again with: SEED={seed} (what is random is the same; timing is the machine's)");
    eprintln!("kept: {}", directory.keep().display());
    Ok(ExitCode::FAILURE)
}

async fn plant(args: MutantsArgs) -> Result<ExitCode> {
    let root = args.root.canonicalize().tried(|| "finding the tree".into())?;
    if args.check {
        let wrong = mutants::misplaced(&root)?;
        wrong.iter().for_each(|text| println!("{text}"));
        return Ok(if wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let directory =
        tempfile::Builder::new().prefix("orrery-mutants-").tempdir_in("/tmp").tried(|| "a directory".into())?;
    let directory = args.directory.as_deref().unwrap_or(directory.path());
    std::fs::create_dir_all(directory).tried(|| format!("creating {}", directory.display()))?;
    open_to_all(directory)?;
    let chaos = std::env::current_exe().tried(|| "finding this program".into())?;
    let all_caught = tokio::select! {
        done = Box::pin(mutants::run(&root, directory, &args.only, &chaos)) => done?,
        _ = tokio::signal::ctrl_c() => return Err(world("interrupted")),
    };
    Ok(if all_caught { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// PostgreSQL runs as somebody else and must come to its data.
fn open_to_all(directory: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o755)).tried(|| "opening a directory".into())
}

fn report(row: &Row) {
    eprintln!("{}", table(std::slice::from_ref(row)).lines().nth(1).unwrap_or_default());
    if let Some(broken) = &row.broken {
        eprintln!("  the harness could not go on: {broken}");
    }
    for violation in row.violations.iter().take(10) {
        eprintln!("  {:?}: {}", violation.invariant, violation.text);
    }
    if row.violations.len() > 10 {
        eprintln!("  and {} more: see {}", row.violations.len() - 10, row.kept.clone().unwrap_or_default().display());
    }
}

fn chosen(only: &[String]) -> Result<Vec<Box<dyn Fault>>> {
    let all = faults::all();
    let names: Vec<&str> = all.iter().map(|fault| fault.name()).collect();
    if let Some(unknown) = only.iter().find(|name| !names.contains(&name.as_str())) {
        return Err(world(format!("there is no fault {unknown:?}; there are: {}", names.join(", "))));
    }
    Ok(all.into_iter().filter(|fault| only.is_empty() || only.iter().any(|name| name == fault.name())).collect())
}

fn programs(directory: &Path) -> Result<Programs> {
    let find = |name: &str| {
        let program = directory.join(name);
        program
            .canonicalize()
            .map_err(|_| world(format!("{} is missing: cargo build --workspace --bins", program.display())))
    };
    let chaos = std::env::current_exe().tried(|| "finding this program".into())?;
    Ok(Programs { orrery: find("orrery")?, agent: find("orrery-agent")?, chaos })
}
