//! The connections of the REST face. What `axum::serve` does, with a bound on how long a request's headers may take, which it does not have.

use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use http::Request;
use hyper::body::Incoming as Unread;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::tls::Incoming;

/// How long a connection may take over the headers of a request, waiting for it included. Whoever sends a byte now and then would otherwise hold
/// connections for ever, as many as the process may have (CWE-400; the attack is known as Slowloris).
const HEADERS: Duration = Duration::from_secs(30);

/// Serves a router on what comes in, until `closing`; what is being answered then is answered. Callers are known by their address
/// ([`ConnectInfo`]).
pub(crate) async fn serve(incoming: Incoming, router: Router, closing: CancellationToken) {
    serve_within(HEADERS, incoming, router, closing).await;
}

async fn serve_within(headers: Duration, mut incoming: Incoming, router: Router, closing: CancellationToken) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(headers);
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        let connection = tokio::select! {
            connection = incoming.next() => connection,
            () = closing.cancelled() => break,
        };
        while connections.try_join_next().is_some() {}
        let address = connection.peer().address;
        let service = router.clone().map_request(move |request| of(address, request));
        let serving = http.serve_connection(TokioIo::new(connection), TowerToHyperService::new(service));
        connections.spawn(graceful.watch(serving));
    }
    graceful.shutdown().await;
}

fn of(address: SocketAddr, request: Request<Unread>) -> Request<Body> {
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(ConnectInfo(address));
    request
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::tls::{Face, Tls};

    #[tokio::test]
    async fn who_does_not_finish_its_headers_is_cut_off_and_others_are_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = Incoming::new(listener, &Tls::off(), Face::Rest);
        let who = |ConnectInfo(caller): ConnectInfo<SocketAddr>| async move { caller.to_string() };
        let closing = CancellationToken::new();
        let router = Router::new().route("/", get(who));
        let serving = tokio::spawn(serve_within(Duration::from_millis(200), incoming, router, closing.clone()));

        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nx-one: 1\r\n").await.unwrap();
        let mut quick = TcpStream::connect(address).await.unwrap();
        quick.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        quick.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with(&quick.local_addr().unwrap().to_string()), "{answer}");
        // Its end is the server's doing: it has sent nothing more, and waits for no answer.
        let mut answer = Vec::new();
        let end = slow.read_to_end(&mut answer);
        tokio::time::timeout(HEADERS / 3, end).await.expect("cut off long before the default").unwrap();
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));

        closing.cancel();
        serving.await.unwrap();
    }
}
