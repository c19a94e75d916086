use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use clap::Args;

use super::{RunError, listen, on_signals, opened};
use crate::auth::{Authenticator, Keyring};
use crate::config::{Encryption, Identity, Limits, Listen, Sharing};
use crate::coordinator::Coordinator;
use crate::edge::EdgeArgs;
use crate::secret::Vault;
use crate::telemetry::{LogArgs, Metrics};
use crate::tls::{Tls, TlsSettings};

/// `orrery server`: a coordinator of a deployment.
#[derive(Clone, Debug, Args)]
pub struct ServerArgs {
    /// postgres://USER:PASSWORD@HOST:PORT/DATABASE, or sqlite:PATH for a single coordinator.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    /// A replica of it that lists, history, statistics and logs are read from while it is near; nothing that decides is.
    #[arg(long, env = "DATABASE_READ_URL", hide_env_values = true)]
    pub database_read_url: Option<String>,
    /// Connections to PostgreSQL.
    #[arg(long, env = "ORRERY_DATABASE_CONNECTIONS", default_value_t = 20)]
    pub database_connections: u32,
    /// Port of the REST API on all addresses, where --http is not given.
    #[arg(long, env = "PORT", default_value_t = 3009)]
    pub port: u16,
    /// Port of the metrics on all addresses, where --metrics is not given.
    #[arg(long, env = "PROMETHEUS_PORT", default_value_t = 9464)]
    pub prometheus_port: u16,
    /// Whether metrics are served.
    #[arg(long, env = "METRICS_ENABLED", default_value_t = true, action = clap::ArgAction::Set)]
    pub metrics_enabled: bool,
    #[command(flatten)]
    pub log: LogArgs,
    #[command(flatten)]
    pub listen: Listen,
    #[command(flatten)]
    pub identity: Identity,
    #[command(flatten)]
    pub tls: TlsSettings,
    #[command(flatten)]
    pub encryption: Encryption,
    #[command(flatten)]
    pub limits: Limits,
    #[command(flatten)]
    pub sharing: Sharing,
    #[command(flatten)]
    pub edge: EdgeArgs,
}

/// Serves until SIGINT or SIGTERM.
///
/// # Errors
/// Where a setting is wrong, a port busy, or the database not to be had.
pub async fn run(args: ServerArgs) -> Result<(), RunError> {
    let url = args.database_url.as_deref().ok_or_else(|| {
        RunError::Setting("DATABASE_URL (or --database-url) is needed; `orrery dev` needs none".into())
    })?;
    // What is wrong with the settings is said before anything is waited for.
    args.identity.check()?;
    Keyring::of(&args.identity)?;
    let tls = Tls::load(&args.tls)?;
    let keys = args.encryption.source()?;
    keys.check()?;
    let metrics = Metrics::default();
    let redis = args.sharing.redis(&metrics)?;
    args.sharing.audit_service().map_err(|error| RunError::Setting(error.to_string()))?;
    let shutdown = on_signals()?;
    let any = |port| SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port);
    let defaults = [any(args.port), any(50051), any(args.prometheus_port)];
    let (listeners, addresses) = listen::bind(&args.listen, defaults, args.metrics_enabled).await?;
    let store = tokio::select! {
        store = opened::open(url, args.database_read_url.as_deref(), args.database_connections) => store?,
        () = shutdown.cancelled() => return Ok(()),
    };
    let authenticator = Authenticator::new(store.clone(), &args.identity, false)?;
    let vault = Vault::open(store.clone(), keys).await?;
    let coordinator = Coordinator {
        store,
        limits: args.limits,
        sharing: args.sharing,
        edge: args.edge,
        redis,
        authenticator,
        vault,
        metrics,
        tls,
    };
    println!("{}", addresses.ready_line());
    coordinator.serve(listeners, shutdown).await?;
    Ok(())
}
