//! The command line: what it takes, and the commands that call a server.

mod agent_identity;
mod agent_list;
mod audit;
mod bench;
mod ca;
mod completions;
pub mod connect;
mod cron;
mod dead_letter;
mod definition_file;
mod execution;
mod execution_view;
pub mod exit;
mod instant;
mod job;
mod job_definition;
mod job_view;
mod key;
mod output;
mod page;
mod queue;
mod role;
mod secret;
mod session;
mod status;
mod tenant;
mod user;
mod wait;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Args, ColorChoice, CommandFactory, FromArgMatches, Parser, Subcommand};

use self::agent_list::AgentCommand;
use self::audit::AuditCommand;
use self::bench::BenchCommand;
use self::ca::CaCommand;
use self::completions::CompletionsArgs;
use self::connect::Client;
use self::cron::CronCommand;
use self::dead_letter::DeadLetterCommand;
use self::execution::ExecutionCommand;
use self::exit::Failure;
use self::job::JobCommand;
use self::output::Output;
use self::queue::QueueCommand;
use self::role::RoleCommand;
use self::secret::SecretCommand;
use self::session::LoginArgs;
use self::tenant::TenantCommand;
use self::user::UserCommand;
use crate::run::admin::AdminCommand;
use crate::run::dev::DevArgs;
use crate::run::key::KeyCommand;
use crate::run::migrate::MigrateArgs;
use crate::run::server::ServerArgs;

const EXIT_CODES: &str = "Exit codes:
  0    done
  1    the server refused, or what was waited for failed or was cancelled
  2    bad usage or invalid input
  3    there is no such thing
  4    conflict: a name taken, a version passed, a state that does not allow it
  5    not authenticated, or not allowed
  6    the server cannot be reached
  130  interrupted

Examples:
  orrery dev
  orrery job create --name hello --every 10s --command echo -- hello
  orrery job trigger hello --wait
  orrery execution list --job hello --json";

/// Orrery: a distributed job scheduler.
#[derive(Debug, Parser)]
#[command(name = "orrery", version, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// The server to call.
    #[arg(long, global = true, env = "ORRERY_SERVER", default_value = "http://127.0.0.1:50051", value_name = "URL")]
    pub server: String,
    /// API key or token to call it with.
    #[arg(long, global = true, env = "ORRERY_API_KEY", hide_env_values = true, value_name = "KEY")]
    pub api_key: Option<String>,
    /// PEM file of the authorities that an https server is known by; without it those of this host.
    #[arg(long, global = true, env = "ORRERY_CA", value_name = "FILE")]
    pub ca: Option<std::path::PathBuf>,
    /// Print the API's JSON instead of text; errors are JSON on stderr.
    #[arg(long, global = true)]
    pub json: bool,
    /// No colours; so does the environment variable NO_COLOR.
    #[arg(long, global = true)]
    pub no_color: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run everything in one process, with SQLite and an agent: nothing else is needed.
    Dev(Box<DevArgs>),
    /// Run a coordinator on a database.
    Server(Box<ServerArgs>),
    /// Run an agent, let agents in and revoke them, or list and drain those that are connected.
    Agent(Box<AgentCommand>),
    /// Bring the database's schema up to date.
    Migrate(Box<MigrateArgs>),
    /// Define, change and run jobs.
    #[command(subcommand, visible_alias = "jobs")]
    Job(Box<JobCommand>),
    /// Look at what has run, runs and waits.
    #[command(subcommand, visible_alias = "executions")]
    Execution(Box<ExecutionCommand>),
    /// Look at queues, and limit them.
    #[command(subcommand, visible_alias = "queues")]
    Queue(Box<QueueCommand>),
    /// Look at what was given up because its agents were lost, and decide over it.
    #[command(subcommand, name = "dead-letter", visible_alias = "dead-letters")]
    DeadLetter(Box<DeadLetterCommand>),
    /// Store secrets that jobs refer to by ${secret:NAME}, and change the keys that they are encrypted under.
    #[command(subcommand, visible_alias = "secrets")]
    Secret(Box<SecretCommand>),
    /// Search the log of who changed what and who was denied what, and prove that it is as it was written.
    #[command(subcommand)]
    Audit(Box<AuditCommand>),
    /// Read cron expressions; needs no server.
    #[command(subcommand)]
    Cron(Box<CronCommand>),
    /// Show the scheduler's state.
    Status,
    /// Make, list and revoke API keys; on the database, or by a server.
    #[command(subcommand, visible_alias = "keys")]
    Key(Box<KeyCommand>),
    /// Make the first administrator; talks to the database.
    #[command(subcommand)]
    Admin(Box<AdminCommand>),
    /// Who shares the deployment: quotas, weights, what bounds each, and suspension.
    #[command(subcommand, visible_alias = "tenants")]
    Tenant(Box<TenantCommand>),
    /// People who sign in with a password.
    #[command(subcommand, visible_alias = "users")]
    User(Box<UserCommand>),
    /// Roles, and who has which.
    #[command(subcommand, visible_alias = "roles")]
    Role(Box<RoleCommand>),
    /// Sign in with a name and a password; commands without --api-key use the session.
    #[command(
        after_help = "The password is asked for on a terminal, and read from standard input elsewhere. The session is kept in
$XDG_CONFIG_HOME/orrery/session.json, or where ORRERY_SESSION_FILE says."
    )]
    Login(LoginArgs),
    /// End the session that login has begun.
    Logout,
    /// Show who the server takes you for.
    Whoami,
    /// Make the certificate authority that agents are known by, and certificates for coordinators; needs no server.
    #[command(subcommand)]
    Ca(Box<CaCommand>),
    /// Measure how fast this machine runs Orrery, on a database of the measurement's own.
    Bench(Box<BenchCommand>),
    /// Print a completion script for a shell.
    #[command(after_help = "Examples:
  orrery completions bash > /etc/bash_completion.d/orrery
  orrery completions zsh > ~/.zfunc/_orrery
  orrery completions fish > ~/.config/fish/completions/orrery.fish")]
    Completions(CompletionsArgs),
}

impl Cli {
    /// The process' arguments. Bad ones, and calls for help, end the process here.
    pub fn from_process() -> Self {
        match Self::read(std::env::args_os()) {
            Ok(cli) => cli,
            Err(error) if error.use_stderr() && has_flag("--json") => {
                Failure::invalid("INVALID_USAGE", error.to_string().trim_end()).report(true);
                std::process::exit(error.exit_code())
            }
            Err(error) => error.exit(),
        }
    }

    fn read(args: impl IntoIterator<Item = std::ffi::OsString>) -> Result<Self, clap::Error> {
        // Help is written before flags are read, so this one is looked for by hand.
        let color = if has_flag("--no-color") { ColorChoice::Never } else { ColorChoice::Auto };
        let mut command = Self::command().color(color);
        let matches = command.try_get_matches_from_mut(args)?;
        let cli = Self::from_arg_matches(&matches)?;
        let is_given = |flag: &str| matches.value_source(flag) == Some(ValueSource::CommandLine);
        match cli.command.misplaced(is_given) {
            Some(message) => Err(command.error(ErrorKind::ArgumentConflict, message)),
            None => Ok(cli),
        }
    }
}

/// Whether a flag stands among the process' arguments, before they are read.
fn has_flag(flag: &str) -> bool {
    std::env::args_os().take_while(|arg| arg != "--").any(|arg| arg == flag)
}

impl Command {
    /// What is wrong with a flag for commands that call a server, where this one calls none: it would have no effect, and whoever gave
    /// it expects one.
    fn misplaced(&self, is_given: impl Fn(&str) -> bool) -> Option<&'static str> {
        match self {
            Self::Agent(agent) if agent.command.is_none() && is_given("server") => {
                Some("--server is for commands that call a server; tell an agent where to work by --coordinator URL")
            }
            Self::Agent(agent) if agent.command.is_none() && is_given("api_key") => {
                Some("--api-key is for commands that call a server; give an agent its key by --token or ORRERY_TOKEN")
            }
            Self::Agent(agent) if agent.command.is_none() && is_given("ca") => Some(
                "--ca is for commands that call a server; tell an agent whom to trust by --coordinator-ca or ORRERY_CA",
            ),
            Self::Dev(_) | Self::Server(_) if is_given("ca") => Some(
                "--ca is for commands that call a server; agents' certificates come from the authority of --ca-cert",
            ),
            Self::Dev(_) | Self::Server(_) if is_given("server") => {
                Some("--server is for commands that call a server; say where to listen by --http, --grpc and --metrics")
            }
            Self::Bench(_) if is_given("server") => {
                Some("--server is for commands that call a server; a measurement starts one of its own")
            }
            Self::Migrate(_) | Self::Admin(_) if is_given("server") => {
                Some("--server is for commands that call a server; this one works on the database, by --database-url")
            }
            Self::Key(key) if is_given("server") && key.database().is_some() => Some(
                "--server asks a server, and --database-url (or DATABASE_URL) works on the database: give one of them",
            ),
            _ => None,
        }
    }
}

/// What commands that call a server work with.
struct Context {
    client: Client,
    out: Output,
}

/// Runs a command that calls a server, or needs none.
///
/// # Errors
/// What it ended with; the exit code is part of it.
pub fn call(global: &Global, command: Command) -> Result<(), Failure> {
    let no_color = global.no_color || std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let out = Output::new(global.json, no_color);
    match command {
        Command::Cron(command) => return command.run(&out),
        Command::Ca(command) => return command.run(&out),
        Command::Completions(args) => return args.run(&out),
        Command::Bench(bench) => return bench.run(&out),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(exit::Exit::Failed, "INTERNAL_ERROR", format!("no event loop: {error}")))?;
    runtime.block_on(async {
        let command = match command {
            Command::Login(args) => {
                return args.run(global, &out).await.map_err(|failure| failure.of_server(&global.server));
            }
            Command::Logout => {
                return session::logout(global, &out).await.map_err(|failure| failure.of_server(&global.server));
            }
            other => other,
        };
        let given = global.api_key.as_deref().map(str::trim).filter(|key| !key.is_empty()).map(str::to_owned);
        let credential = match given {
            Some(key) => Some(key),
            None => session::access_token(global).await.map_err(|failure| failure.of_server(&global.server))?,
        };
        let client = connect::connect(&global.server, credential.as_deref(), global.ca.as_deref())?;
        let context = Context { client, out };
        tokio::select! {
            done = Box::pin(serve(command, global, &context)) => done.map_err(|failure| failure.of_server(&global.server)),
            _ = tokio::signal::ctrl_c() => Err(Failure::interrupted()),
        }
    })
}

async fn serve(command: Command, global: &Global, context: &Context) -> Result<(), Failure> {
    match command {
        Command::Job(command) => command.run(context).await,
        Command::Execution(command) => command.run(context).await,
        Command::DeadLetter(command) => command.run(context).await,
        Command::Queue(command) => command.run(context).await,
        Command::Secret(command) => command.run(context).await,
        Command::Audit(command) => command.run(context).await,
        Command::Status => status::run(context).await,
        Command::User(command) => command.run(context).await,
        Command::Tenant(command) => command.run(context).await,
        Command::Role(command) => command.run(context).await,
        Command::Whoami => session::whoami(context).await,
        Command::Key(command) => key::run(*command, context).await,
        Command::Agent(agent) => match agent.command {
            Some(command) => command.run(global, context).await,
            None => Ok(()),
        },
        // Those that serve are run by the program itself.
        Command::Dev(_) | Command::Server(_) | Command::Migrate(_) | Command::Admin(_) => Ok(()),
        // Those are answered before there is a credential.
        Command::Login(_) | Command::Logout => Ok(()),
        // These are answered without a server.
        Command::Bench(bench) => bench.run(&context.out),
        Command::Cron(command) => command.run(&context.out),
        Command::Ca(command) => command.run(&context.out),
        Command::Completions(args) => args.run(&context.out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_agent_runs_bare_and_has_commands() {
        let agent = |args: &[&str]| match Cli::try_parse_from(args).unwrap().command {
            Command::Agent(agent) => *agent,
            other => panic!("{other:?}"),
        };
        let bare = agent(&["orrery", "agent", "--queue", "a", "--queue", "b", "--label", "zone=eu"]);
        assert!(bare.command.is_none());
        assert_eq!(bare.run.queues, ["a", "b"]);
        assert_eq!(bare.run.labels, [("zone".to_owned(), "eu".to_owned())]);
        assert!(agent(&["orrery", "agent", "list", "--server", "http://x:1"]).command.is_some());
        assert!(agent(&["orrery", "agent", "--server", "http://x:1", "drain", "id"]).command.is_some());
    }

    #[test]
    fn a_flag_that_would_have_no_effect_is_refused() {
        let read = |line: &str| Cli::read(line.split(' ').map(Into::into));
        for (line, way_out) in [
            ("orrery agent --server http://x:1", "--coordinator"),
            ("orrery --server http://x:1 agent --queue a", "--coordinator"),
            ("orrery agent --api-key ork_x", "--token"),
            ("orrery agent --ca x.pem", "--coordinator-ca"),
            ("orrery dev --server http://x:1", "--http"),
            ("orrery migrate --database-url sqlite:x --server http://x:1", "--database-url"),
        ] {
            let error = read(line).unwrap_err().to_string();
            assert!(error.contains(way_out), "{line}: {error}");
        }
        for line in ["orrery agent", "orrery agent --server http://x:1 list", "orrery --ca x agent list"] {
            assert!(read(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn global_flags_stand_anywhere() {
        for args in [["orrery", "--json", "job", "list"], ["orrery", "job", "--json", "list"]] {
            assert!(Cli::try_parse_from(args).unwrap().global.json);
        }
    }
}
