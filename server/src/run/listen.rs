use std::net::SocketAddr;

use tokio::net::TcpListener;

use super::RunError;
use crate::config::Listen;
use crate::coordinator::Listeners;

/// What is said when it serves, for people and scripts.
pub(super) struct Addresses {
    pub(super) http: SocketAddr,
    pub(super) grpc: SocketAddr,
    pub(super) metrics: Option<SocketAddr>,
}

/// Binds the listeners.
///
/// # Errors
/// Where a port is busy; the error names it.
pub(super) async fn bind(
    listen: &Listen,
    defaults: [SocketAddr; 3],
    metrics: bool,
) -> Result<(Listeners, Addresses), RunError> {
    let [http, grpc, metrics_at] = defaults;
    let http = bind_one("REST", listen.http.unwrap_or(http), "--http ADDR:PORT").await?;
    let grpc = bind_one("gRPC", listen.grpc.unwrap_or(grpc), "--grpc ADDR:PORT").await?;
    let metrics = match metrics {
        true => Some(bind_one("metrics", listen.metrics.unwrap_or(metrics_at), "--metrics ADDR:PORT").await?),
        false => None,
    };
    let local = |l: &TcpListener| l.local_addr().map_err(|e| RunError::Io("a listener has no address".into(), e));
    let addresses =
        Addresses { http: local(&http)?, grpc: local(&grpc)?, metrics: metrics.as_ref().map(local).transpose()? };
    Ok((Listeners { http, grpc, metrics }, addresses))
}

async fn bind_one(what: &'static str, address: SocketAddr, flag: &'static str) -> Result<TcpListener, RunError> {
    TcpListener::bind(address).await.map_err(|source| RunError::Busy { what, address, flag, source })
}

impl Addresses {
    /// The one line that says that it serves.
    pub(super) fn ready_line(&self) -> String {
        let metrics = self.metrics.map_or_else(|| "off".to_owned(), |address| address.to_string());
        format!("ready http={} grpc={} metrics={metrics}", self.http, self.grpc)
    }
}
