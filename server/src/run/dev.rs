use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use orrery_agent::egress::{Policy, Rules};
use orrery_agent::executor::ExecutorSettings;
use orrery_agent::{Agent, AgentOptions};
use orrery_sdk::client::{Client, ClientOptions};
use tokio_util::sync::CancellationToken;

use super::{KEY_FILE, RunError, demo, listen, live, on_signals, opened};
use crate::auth::{Authenticator, DEFAULT_TENANT};
use crate::config::{Encryption, Identity, Internal, Limits, Listen, ServerSecret, Sharing};
use crate::coordinator::Coordinator;
use crate::edge::EdgeArgs;
use crate::secret::{KeySource, Vault};
use crate::telemetry::{LogArgs, Metrics};
use crate::tls::Tls;

/// `orrery dev`: everything in one process, and nothing else needed.
#[derive(Clone, Debug, Args)]
pub struct DevArgs {
    /// Where the database is kept.
    #[arg(long, env = "ORRERY_DATA_DIR", default_value = "./orrery-data")]
    pub data_dir: PathBuf,
    /// Start without the demo jobs; those of an earlier start are stopped.
    #[arg(long)]
    pub no_demo: bool,
    /// Slots of the agent inside.
    #[arg(long, env = "SCHEDULER_WORKER_COUNT", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub slots: u32,
    /// Directory of Python and Node modules whose functions may be run; repeatable.
    #[arg(long = "function-dir", value_name = "DIR")]
    pub function_dirs: Vec<PathBuf>,
    #[command(flatten)]
    pub log: LogArgs,
    #[command(flatten)]
    pub listen: Listen,
    #[command(flatten)]
    pub encryption: Encryption,
    #[command(flatten)]
    pub limits: Limits,
    #[command(flatten)]
    pub sharing: Sharing,
    #[command(flatten)]
    pub internal: Internal,
    #[command(flatten)]
    pub edge: EdgeArgs,
}

/// Serves until SIGINT or SIGTERM.
///
/// # Errors
/// Where a port is busy or the data directory cannot be used.
pub async fn run(args: DevArgs) -> Result<(), RunError> {
    let metrics = Metrics::default();
    let redis = args.sharing.redis(&metrics)?;
    let shutdown = on_signals()?;
    let local = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    let (listeners, addresses) = listen::bind(&args.listen, [local(3009), local(50051), local(9464)], true).await?;
    std::fs::create_dir_all(&args.data_dir)
        .map_err(|e| RunError::Io(format!("--data-dir {} cannot be made", args.data_dir.display()), e))?;
    let keys = match args.encryption.source()? {
        KeySource::Nowhere => KeySource::kept_in(&args.data_dir.join("encryption.key"))?,
        given => given,
    };
    let store = opened::open(&format!("sqlite:{}", args.data_dir.join("orrery.db").display()), None, 1).await?;
    tracing::warn!("development mode: whoever can connect from this host is the administrator of the default tenant");
    tracing::warn!(
        "development mode: http jobs may call this host's own addresses; the agents of a deployment let them only where ORRERY_EGRESS_ALLOW says so"
    );

    // The agent goes first at the end: its coordinator must still be there to hear how things ended.
    let (agents, coordinators) = (CancellationToken::new(), CancellationToken::new());
    let coordinator = Coordinator {
        store: store.clone(),
        limits: args.limits.clone().unlimited(),
        sharing: args.sharing.clone().unlimited(),
        edge: args.edge.clone(),
        redis,
        authenticator: Authenticator::new(store.clone(), &identity(&args), true)?,
        vault: Vault::open(store.clone(), keys).await?,
        metrics,
        tls: Tls::off(),
    };
    let serving = tokio::spawn(coordinator.serve(listeners, coordinators.clone()));
    let endpoint = format!("http://{}", addresses.grpc);
    let agent = tokio::spawn(Agent::run(agent_options(&args, &endpoint), agents.clone()));
    announce(&addresses, &args);
    let live = tokio::spawn(watch(store, agents.clone()));
    if let Err(error) = begin_demo(&args, &endpoint, &shutdown).await {
        tracing::warn!(%error, "the demo jobs could not be set up");
    }

    let ended = tokio::select! {
        () = shutdown.cancelled() => None,
        served = flatten(serving) => Some(served),
    };
    agents.cancel();
    let _ = agent.await;
    coordinators.cancel();
    live.abort();
    ended.unwrap_or(Ok(()))
}

/// How callers are known: those of this host need nothing, and what else there is works as it does on a server.
fn identity(args: &DevArgs) -> Identity {
    Identity {
        internal: args.internal.clone(),
        server_secret: ServerSecret { key_pepper: Vec::new(), key_file: Some(args.data_dir.join(KEY_FILE)) },
        ..Identity::default()
    }
}

async fn flatten(task: tokio::task::JoinHandle<Result<(), crate::coordinator::ServeError>>) -> Result<(), RunError> {
    match task.await {
        Ok(served) => served.map_err(RunError::from),
        Err(error) => Err(RunError::Io("the coordinator has ended".into(), std::io::Error::other(error))),
    }
}

fn agent_options(args: &DevArgs, endpoint: &str) -> AgentOptions {
    let supervisor = std::env::current_exe().ok().map(|exe| vec![exe.display().to_string(), "supervise".into()]);
    AgentOptions {
        coordinators: vec![endpoint.to_owned()],
        name: "dev".into(),
        slots: args.slots,
        // Whoever presses Ctrl-C here wants it to end; a deployment's agents take their time.
        drain_timeout: Duration::from_secs(3),
        timeout_cap: None,
        executors: ExecutorSettings {
            function_dirs: args.function_dirs.clone(),
            supervisor,
            // Everything is on this host here: what jobs call as well.
            egress: Policy { allow: Rules::loopback().and(&args.edge.egress_allow), delegate: Rules::everything() },
            ..ExecutorSettings::default()
        },
        functions: Some(demo::functions()),
        data_dir: Some(args.data_dir.join("agent")),
        ..AgentOptions::default()
    }
}

fn announce(addresses: &listen::Addresses, args: &DevArgs) {
    let mut out = std::io::stdout().lock();
    // A closed standard output is no reason to stop scheduling.
    let _ = writeln!(out, "{}", addresses.ready_line());
    if live::is_watched() {
        let _ = writeln!(out, "\n  REST API     http://{}/api/v1/scheduler/jobs", addresses.http);
        let _ = writeln!(out, "  API pages    http://{}/docs", addresses.http);
        let _ = writeln!(
            out,
            "  http jobs    may call this host too; elsewhere ORRERY_EGRESS_ALLOW opens what is not public"
        );
        let _ = writeln!(out, "  data         {}", args.data_dir.display());
        let _ = writeln!(out, "  try          orrery job list, orrery execution list; Ctrl-C ends\n");
    }
    let _ = out.flush();
}

async fn watch(store: crate::store::DynStore, shutdown: CancellationToken) {
    if live::is_watched() {
        live::show(store, DEFAULT_TENANT, shutdown).await;
    }
}

/// Sets the demo jobs up, or stops those of an earlier start.
async fn begin_demo(args: &DevArgs, endpoint: &str, shutdown: &CancellationToken) -> Result<(), RunError> {
    let options = ClientOptions { endpoint: endpoint.to_owned(), ..ClientOptions::default() };
    let failed = |error: orrery_sdk::Error| RunError::Setting(error.to_string());
    let client = Client::connect(&options).map_err(failed)?;
    if args.no_demo {
        return demo::stop(&client).await.map_err(failed);
    }
    let address = demo::target(shutdown.clone()).await?;
    demo::define(&client, address).await.map_err(failed)
}
