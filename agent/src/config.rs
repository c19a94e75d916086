//! What an agent is told, by whoever embeds it or on the command line and in the environment.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use clap::{Args, ValueEnum};
use orrery_sdk::{Channel, FunctionRegistry};

use crate::egress::{Policy, Rules};
use crate::executor::ExecutorSettings;
pub use crate::sandbox::SandboxArgs;

/// Where a package puts the agent's data; used where it is there.
const SYSTEM_DATA: &str = "/var/lib/orrery-agent";
/// Where data goes otherwise.
const LOCAL_DATA: &str = "./orrery-agent-data";

/// How an agent runs.
#[derive(Clone)]
pub struct AgentOptions {
    /// Addresses of coordinators, such as `http://127.0.0.1:50051`; gone round until one answers.
    pub coordinators: Vec<String>,
    /// Goes round them in this order, and not in one of the agent's own.
    pub keep_order: bool,
    /// Used instead of the addresses, where given.
    pub channel: Option<Channel>,
    /// The API key or token.
    pub token: Option<String>,
    /// PEM file of the authorities that coordinators are known by; those of this host where absent.
    pub ca: Option<PathBuf>,
    /// Lets this agent in, once: it gets a certificate, which is what it shows from then on.
    pub join_token: Option<String>,
    /// A name for people.
    pub name: String,
    /// Labels that jobs can select it by.
    pub labels: Vec<(String, String)>,
    /// The queues it serves; "default" where empty.
    pub queues: Vec<String>,
    /// How many executions it runs at once.
    pub slots: u32,
    /// No attempt may take longer, whatever its job says.
    pub timeout_cap: Option<Duration>,
    /// How long what runs may go on after a shutdown began.
    pub drain_timeout: Duration,
    /// How the built-in executors behave.
    pub executors: ExecutorSettings,
    /// The only executors it offers; all where empty.
    pub only: Vec<String>,
    /// Functions of the embedding program's own.
    pub functions: Option<FunctionRegistry>,
    /// Where results wait until they are acknowledged; in memory only where absent.
    pub data_dir: Option<PathBuf>,
}

impl Default for AgentOptions {
    fn default() -> Self {
        Self {
            coordinators: Vec::new(),
            keep_order: false,
            channel: None,
            token: None,
            ca: None,
            join_token: None,
            name: hostname(),
            labels: Vec::new(),
            queues: Vec::new(),
            slots: 10,
            timeout_cap: Some(Duration::from_secs(300)),
            drain_timeout: Duration::from_secs(30),
            executors: ExecutorSettings::default(),
            only: Vec::new(),
            functions: None,
            data_dir: None,
        }
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The command line of `orrery-agent`.
#[derive(Clone, Debug, Args)]
pub struct AgentArgs {
    /// Address of a coordinator; repeat it, or separate several by commas
    #[arg(
        long = "coordinator",
        value_name = "URL",
        env = "ORRERY_COORDINATOR",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:50051"
    )]
    pub coordinators: Vec<String>,
    /// Go round the coordinators in the order given; without it each agent has an order of its own, so that agents spread
    #[arg(long, env = "ORRERY_KEEP_ORDER")]
    pub keep_order: bool,
    /// API key or token; better given by the environment or a file, since others can see a command line
    #[arg(long, env = "ORRERY_TOKEN", hide_env_values = true, conflicts_with = "token_file")]
    pub token: Option<Secret>,
    /// File that holds the API key or token
    #[arg(long, value_name = "FILE", env = "ORRERY_TOKEN_FILE")]
    pub token_file: Option<PathBuf>,
    /// Join token of `orrery agent token`, for a certificate of the agent's own; means nothing once it has been used
    #[arg(
        long,
        env = "ORRERY_JOIN_TOKEN",
        hide_env_values = true,
        value_name = "TOKEN",
        conflicts_with = "join_token_file"
    )]
    pub join_token: Option<Secret>,
    /// File that holds the join token
    #[arg(long, value_name = "FILE", env = "ORRERY_JOIN_TOKEN_FILE")]
    pub join_token_file: Option<PathBuf>,
    /// PEM file of the authorities that https coordinators are known by [default: those of this host]
    #[arg(long, value_name = "FILE", env = "ORRERY_CA")]
    pub coordinator_ca: Option<PathBuf>,
    /// Name for people [default: the host's]
    #[arg(long, env = "ORRERY_AGENT_NAME")]
    pub name: Option<String>,
    /// Queue to serve, "default" where none is given; repeatable
    #[arg(long = "queue", value_name = "NAME", env = "ORRERY_QUEUE", value_delimiter = ',')]
    pub queues: Vec<String>,
    /// Label that jobs can select the agent by; repeatable
    #[arg(long = "label", value_name = "KEY=VALUE", env = "ORRERY_LABEL", value_delimiter = ',', value_parser = label)]
    pub labels: Vec<(String, String)>,
    /// How many executions to run at once
    #[arg(long, env = "WORKER_CONCURRENCY", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub slots: u32,
    /// Longest time of an attempt in milliseconds, whatever its job says; 0 is no limit
    #[arg(long, value_name = "MS", env = "JOB_TIMEOUT", default_value_t = 300_000)]
    pub job_timeout_ms: u64,
    /// What http jobs may call beside public addresses, separated by commas: networks (10.0.0.0/8), addresses, hosts (db.internal,
    /// *.svc.internal), each with :PORT where only that one
    #[arg(long, value_name = "RULES", env = "ORRERY_EGRESS_ALLOW", default_value = "", hide_default_value = true)]
    pub egress_allow: Rules,
    /// What the coordinator may open beside, for all tenants or for one, written alike; nothing without it
    #[arg(long, value_name = "RULES", env = "ORRERY_EGRESS_DELEGATE", default_value = "", hide_default_value = true)]
    pub egress_delegate: Rules,
    /// Directory of Python and Node modules whose functions may be run; none are where no directory is given; repeatable
    #[arg(long = "function-dir", value_name = "DIR", env = "ORRERY_FUNCTION_DIR", value_delimiter = ':')]
    pub function_dirs: Vec<PathBuf>,
    /// Only offer this executor (http, command, shell, python, function); repeatable
    #[arg(long = "executor", value_name = "NAME", env = "ORRERY_EXECUTOR", value_delimiter = ',')]
    pub executors: Vec<String>,
    /// From SIGTERM to SIGKILL, where a process is cancelled or out of time; 8 s at most, since coordinators wait no longer for its end
    #[arg(long, value_name = "S", env = "ORRERY_GRACE_SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(..=8))]
    pub grace_seconds: u64,
    /// How long what runs may go on after SIGTERM to the agent, before it is stopped, to begin anew elsewhere
    #[arg(long, value_name = "S", env = "ORRERY_DRAIN_SECONDS", default_value_t = 30)]
    pub drain_seconds: u64,
    #[command(flatten)]
    pub sandbox: SandboxArgs,
    /// Where results wait until a coordinator has them [default: /var/lib/orrery-agent where that is, else ./orrery-agent-data]
    #[arg(long, value_name = "DIR", env = "ORRERY_AGENT_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// How to write log lines
    #[arg(long, value_enum, env = "LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// error, warn, info, debug, trace, or a filter such as `orrery_sdk=debug,info`
    #[arg(long, value_name = "LEVEL", env = "LOG_LEVEL", default_value = "info")]
    pub log_level: String,
}

/// A setting that is shown to nobody.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    pub(crate) fn text(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl AgentArgs {
    /// The options that the command line stands for. `supervisor` is the program that comes to [`crate::executor::supervise`].
    ///
    /// # Errors
    /// Where a token's file cannot be read.
    pub fn options(self, supervisor: Option<Vec<String>>) -> io::Result<AgentOptions> {
        let token = match &self.token_file {
            Some(file) => Some(read_token(file)?),
            None => self.token.map(|secret| secret.0),
        };
        let join_token = match &self.join_token_file {
            Some(file) => Some(read_token(file)?),
            None => self.join_token.map(|secret| secret.0),
        };
        Ok(AgentOptions {
            coordinators: given(self.coordinators),
            keep_order: self.keep_order,
            token,
            ca: self.coordinator_ca.filter(|file| !file.as_os_str().is_empty()),
            join_token: join_token.filter(|token| !token.trim().is_empty()),
            name: self.name.filter(|name| !name.is_empty()).unwrap_or_else(hostname),
            labels: self.labels,
            queues: given(self.queues),
            slots: self.slots,
            timeout_cap: Some(self.job_timeout_ms).filter(|ms| *ms > 0).map(Duration::from_millis),
            drain_timeout: Duration::from_secs(self.drain_seconds),
            executors: ExecutorSettings {
                grace: Duration::from_secs(self.grace_seconds),
                function_dirs: self.function_dirs,
                supervisor,
                egress: Policy { allow: self.egress_allow, delegate: self.egress_delegate },
                sandbox: self.sandbox.settings([self.token_file, self.join_token_file]),
                ..ExecutorSettings::default()
            },
            only: given(self.executors),
            data_dir: Some(self.data_dir.unwrap_or_else(default_data_dir)),
            ..AgentOptions::default()
        })
    }
}

/// An empty environment variable gives one empty item; it means none.
fn given(items: Vec<String>) -> Vec<String> {
    items.into_iter().map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect()
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err(format!("{text:?} is no label; write one as zone=a")),
    }
}

fn read_token(file: &Path) -> io::Result<String> {
    let text = fs::read_to_string(file)
        .map_err(|e| io::Error::new(e.kind(), format!("the token's file {}: {e}", file.display())))?;
    Ok(text.trim().to_owned())
}

fn default_data_dir() -> PathBuf {
    let system = Path::new(SYSTEM_DATA);
    if system.is_dir() { system.into() } else { LOCAL_DATA.into() }
}

fn hostname() -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let name = kernel.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty());
    name.or_else(|| std::env::var("HOSTNAME").ok()).unwrap_or_else(|| "orrery-agent".into())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: AgentArgs,
    }

    fn parse(line: &[&str]) -> Result<AgentArgs, clap::Error> {
        Line::try_parse_from([&["orrery-agent"], line].concat()).map(|line| line.args)
    }

    #[test]
    fn lists_can_be_repeated_or_joined() {
        let args = parse(&["--coordinator", "http://a,http://b", "--coordinator", "http://c", "--label", "zone=a=b"]);
        let options = args.expect("a command line").options(None).expect("options");
        assert_eq!(options.coordinators, ["http://a", "http://b", "http://c"]);
        assert_eq!(options.labels, [("zone".to_owned(), "a=b".to_owned())]);
        assert!(parse(&["--label", "zone"]).is_err());
        assert!(parse(&["--slots", "0"]).is_err());
    }

    #[test]
    fn no_cap_is_said_by_zero() {
        let cap = |ms: &str| parse(&["--job-timeout-ms", ms]).ok()?.options(None).ok()?.timeout_cap;
        assert_eq!(cap("1500"), Some(Duration::from_millis(1500)));
        assert_eq!(cap("0"), None);
    }

    #[test]
    fn secrets_are_in_no_debug_output() {
        let args = parse(&["--token", "ork_secret", "--join-token", "orj_secret"]).expect("a command line");
        assert!(!format!("{args:?}").contains("_secret"));
        let options = args.options(None).expect("options");
        assert_eq!((options.token.as_deref(), options.join_token.as_deref()), (Some("ork_secret"), Some("orj_secret")));
    }

    #[test]
    fn a_token_comes_from_its_file() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), "secret\n").expect("written");
        let path = file.path().to_string_lossy().into_owned();
        let options = parse(&["--token-file", &path]).expect("a command line").options(None).expect("options");
        assert_eq!(options.token.as_deref(), Some("secret"));
        let missing = parse(&["--token-file", "/nowhere/token"]).expect("a command line").options(None);
        assert!(missing.is_err_and(|e| e.to_string().contains("/nowhere/token")));
    }
}
