//! `orrery`: coordinator, development mode and command line in one binary.

use std::process::ExitCode;

use orrery_server::cli::exit::Exit;
use orrery_server::cli::{self, Cli, Command};
use orrery_server::run::{self, admin, dev, key, migrate, server};

/// A million executions a day are ten million small allocations; the system's allocator took a quarter of the time of both programs.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    // Before anything else is read: the agent inside starts this program so for each process it runs.
    if args.next().is_some_and(|first| first == "supervise") {
        return orrery_agent::executor::supervise(args);
    }
    let cli = Cli::from_process();
    match cli.command {
        Command::Dev(args) => run::block_on(&args.log.clone(), dev::run(*args)),
        Command::Server(args) => run::block_on(&args.log.clone(), server::run(*args)),
        Command::Migrate(args) => run::block_on(&args.log.clone(), migrate::run(*args)),
        Command::Key(command) => match command.database() {
            Some((url, log)) => run::block_on(log, key::run((*command).clone(), url)),
            None => exit_code(cli::call(&cli.global, Command::Key(command)), cli.global.json),
        },
        Command::Admin(command) => match *command {
            admin::AdminCommand::Create(args) => run::block_on(&args.log.clone(), admin::create(args)),
        },
        Command::Agent(agent) if agent.command.is_none() => orrery_agent::run_program(agent.run),
        command => exit_code(cli::call(&cli.global, command), cli.global.json),
    }
}

fn exit_code(done: Result<(), cli::exit::Failure>, json: bool) -> ExitCode {
    match done {
        Ok(()) => Exit::Ok.into(),
        Err(failure) => {
            failure.report(json);
            failure.exit.into()
        }
    }
}
