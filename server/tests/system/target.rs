use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, Uri};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::wait::until;

/// One request, as it came.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    pub(crate) at: DateTime<Utc>,
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Arrival {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn execution(&self) -> String {
        self.header("x-orrery-execution-id").to_owned()
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

type Answer = Arc<dyn Fn(usize, &Arrival) -> Response + Send + Sync>;

#[derive(Clone)]
struct Shared {
    log: Arc<Mutex<Vec<Arrival>>>,
    answer: Answer,
}

/// An HTTP server that jobs call, and that keeps account of it.
pub(crate) struct Target {
    address: SocketAddr,
    log: Arc<Mutex<Vec<Arrival>>>,
    serving: JoinHandle<()>,
}

impl Target {
    /// One that answers 200 and no body.
    pub(crate) async fn start() -> Self {
        Self::answering(|_, _| ().into_response()).await
    }

    /// One that answers as it is told, by the number of the arrival (from 0) and by what arrived.
    pub(crate) async fn answering<R: IntoResponse>(
        answer: impl Fn(usize, &Arrival) -> R + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::default();
        let answer: Answer = Arc::new(move |number, arrival| answer(number, arrival).into_response());
        let shared = Shared { log: Arc::clone(&log), answer };
        let router = Router::new().fallback(arrived).with_state(shared);
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, log, serving }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn arrivals(&self) -> Vec<Arrival> {
        self.log.lock().unwrap().clone()
    }

    /// What has arrived on one path.
    pub(crate) fn on(&self, path: &str) -> Vec<Arrival> {
        self.arrivals().into_iter().filter(|arrival| arrival.path == path).collect()
    }

    /// What has arrived, once there are so many.
    pub(crate) async fn after(&self, count: usize, within: Duration) -> Vec<Arrival> {
        until(&format!("{count} requests arrive"), within, async || {
            Some(self.arrivals()).filter(|arrivals| arrivals.len() >= count)
        })
        .await
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn arrived(State(shared): State<Shared>, method: Method, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let arrival = Arrival { at: Utc::now(), method, path: uri.path().to_owned(), headers, body };
    let number = {
        let mut log = shared.log.lock().unwrap();
        log.push(arrival.clone());
        log.len() - 1
    };
    (shared.answer)(number, &arrival)
}
