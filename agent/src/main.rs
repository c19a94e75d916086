//! The agent's program.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use orrery_agent::config::AgentArgs;
use orrery_agent::install::InstallArgs;

/// Runs jobs of an Orrery coordinator on this host.
#[derive(Parser)]
#[command(name = "orrery-agent", version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    agent: AgentArgs,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Make this program a systemd service of this host
    Install(InstallArgs),
}

/// A million executions a day are ten million small allocations; the system's allocator took a quarter of the time of both programs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    // Before anything else is read: the agent starts itself so for each process it runs, and its own options mean nothing there.
    if args.next().is_some_and(|first| first == "supervise") {
        return orrery_agent::executor::supervise(args);
    }
    let cli = Cli::parse();
    match cli.command {
        None => orrery_agent::run_program(cli.agent),
        Some(Command::Install(install)) => match install.run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("orrery-agent: {error}");
                ExitCode::FAILURE
            }
        },
    }
}
