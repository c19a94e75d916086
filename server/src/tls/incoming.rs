//! A listener whose connections are secured where TLS is on.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;

use super::{Connection, Face, Tls};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes that go on at once; whoever comes then waits in the system's queue. A whole fleet that comes back fits.
const HANDSHAKES: usize = 2048;
/// Secured connections that wait to be served.
const READY: usize = 64;
/// After a failure of the system, such as too many open files.
const PAUSE: Duration = Duration::from_millis(500);

/// Connections as they come. Handshakes go on beside each other, so that one that hangs holds nobody up.
pub struct Incoming {
    source: Source,
}

enum Source {
    Plain(TcpListener),
    Tls { ready: mpsc::Receiver<Connection>, _accepting: AbortOnDropHandle<()> },
}

impl Incoming {
    /// Accepts from now on.
    pub fn new(listener: TcpListener, tls: &Tls, face: Face) -> Self {
        let source = if tls.is_on() {
            let (sender, ready) = mpsc::channel(READY);
            let accepting = tokio::spawn(secure(listener, tls.clone(), face, sender));
            Source::Tls { ready, _accepting: AbortOnDropHandle::new(accepting) }
        } else {
            Source::Plain(listener)
        };
        Self { source }
    }

    /// The next connection. Cancel safe.
    pub(crate) async fn next(&mut self) -> Connection {
        match &mut self.source {
            Source::Plain(listener) => {
                let (stream, address) = accepted(listener).await;
                Connection::plain(stream, address)
            }
            Source::Tls { ready, .. } => match ready.recv().await {
                Some(connection) => connection,
                // The task that accepts ends with this alone.
                None => std::future::pending().await,
            },
        }
    }

    /// The same for a gRPC server; it has no end.
    pub fn into_stream(self) -> impl Stream<Item = io::Result<Connection>> + Send {
        futures_util::stream::unfold(self, |mut incoming| async move {
            let connection = incoming.next().await;
            Some((Ok(connection), incoming))
        })
    }
}

/// The next connection of a listener, whatever happens to others.
async fn accepted(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                // Small frames must not wait for the acknowledgement of the ones before: that takes its reader 40 ms.
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "a connection may be slow");
                }
                return (stream, address);
            }
            Err(error) if is_of_one(&error) => tracing::debug!(%error, "a connection was lost before it began"),
            Err(error) => {
                tracing::error!(%error, "no connection can be accepted; trying again");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Whether an error is about one connection, and not about the listener.
fn is_of_one(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted, TimedOut};
    let kinds = [BrokenPipe, ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted, TimedOut];
    kinds.contains(&error.kind())
}

/// Accepts and secures connections until it is dropped.
async fn secure(listener: TcpListener, tls: Tls, face: Face, ready: mpsc::Sender<Connection>) {
    let places = Arc::new(Semaphore::new(HANDSHAKES));
    let mut handshakes = JoinSet::new();
    loop {
        // Never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (stream, address) = accepted(&listener).await;
        while handshakes.try_join_next().is_some() {}
        let Some(config) = tls.config(face) else { return };
        let ready = ready.clone();
        handshakes.spawn(async move {
            let _place = place;
            let handshake = TlsAcceptor::from(config).accept(stream);
            match tokio::time::timeout(HANDSHAKE, handshake).await {
                Ok(Ok(stream)) => match Connection::tls(stream, address) {
                    Some(connection) => drop(ready.send(connection).await),
                    None => tracing::warn!(%address, "a certificate of the authority names no agent; the connection is closed"),
                },
                // Anybody can cause these, in any number.
                Ok(Err(error)) => tracing::debug!(%address, %error, "a TLS handshake failed"),
                Err(_) => tracing::debug!(%address, "a TLS handshake took too long"),
            }
        });
    }
}
