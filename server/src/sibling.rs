//! Services beside this one that are asked over HTTP: with a time-out, a bound on the answer, and a breaker, so that one that hangs costs
//! nobody more than a moment. What it means that nobody answers is the caller's to decide.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use serde::Serialize;
use tokio::time::Instant;

use crate::breaker::{self, Breaker, BreakerState};

/// How long connecting and answering may take, together.
const PATIENCE: Duration = Duration::from_secs(2);
/// When it is not asked any more.
const BREAKER: breaker::Patience = breaker::Patience { failures: 3, rest: Duration::from_secs(2) };
/// The largest answer that is read, in bytes.
const MOST: usize = 256 << 10;

/// Nobody answered in time, or the breaker is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the service did not answer")]
pub struct Away;

/// Why an address is none.
#[derive(Debug, thiserror::Error)]
#[error("{name}: {reason}; give an address such as http://auth-service:3001, or leave it empty to go without")]
pub struct AddressError {
    name: &'static str,
    /// Never a part of the address, which may hold a password.
    reason: &'static str,
}

/// A service that may be there.
#[derive(Debug)]
pub struct Sibling {
    /// The setting that names it.
    name: &'static str,
    base: reqwest::Url,
    client: reqwest::Client,
    breaker: Mutex<Breaker>,
}

/// What it answered, be it yes or no.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Bytes,
}

impl Sibling {
    /// The service that the setting `name` gives the address of. Nothing is connected yet.
    ///
    /// # Errors
    /// Where it is no address.
    pub fn new(name: &'static str, url: &str) -> Result<Self, AddressError> {
        let refused = |reason| AddressError { name, reason };
        let base: reqwest::Url = url.parse().map_err(|_| refused("is no URL"))?;
        if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
            return Err(refused("must begin with http:// or https://"));
        }
        if !base.username().is_empty() || base.password().is_some() {
            return Err(refused("must hold no user or password"));
        }
        let client = client(PATIENCE).map_err(|_| refused("cannot be used"))?;
        Ok(Self { name, base, client, breaker: Mutex::new(Breaker::closed(BREAKER)) })
    }

    /// Posts JSON to a path under its address, and reads what it answers. Answers of 500 and above, 429 and redirects are none.
    ///
    /// # Errors
    /// [`Away`].
    pub async fn post(
        &self,
        path: &str,
        body: &impl Serialize,
        headers: &[(&'static str, &str)],
    ) -> Result<Answer, Away> {
        let turn = self.turn()?;
        let body = serde_json::to_vec(body).map_err(|_| Away)?;
        let mut url = self.base.clone();
        url.set_path(&format!("{}{path}", self.base.path().trim_end_matches('/')));
        let mut request = self.client.post(url).header(http::header::CONTENT_TYPE, "application/json").body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        match read(request, MOST).await {
            Ok(answer) => {
                turn.answered();
                Ok(answer)
            }
            Err(reason) => {
                tracing::debug!(service = self.name, reason, "a service did not answer");
                drop(turn);
                Err(Away)
            }
        }
    }

    /// Leave to ask: anybody's where the breaker is closed, one caller's where it tries again.
    fn turn(&self) -> Result<Turn<'_>, Away> {
        let mut breaker = self.breaker();
        if !breaker.probes(Instant::now()) {
            return Err(Away);
        }
        Ok(Turn { of: self, probe: breaker.state() == BreakerState::HalfOpen, answered: false })
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One call. Where its caller goes away before the answer it counts as failed: a probe whose end nobody tells would keep the breaker open
/// for ever.
struct Turn<'a> {
    of: &'a Sibling,
    probe: bool,
    answered: bool,
}

impl Turn<'_> {
    fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let (mut breaker, now) = (self.of.breaker(), Instant::now());
        match (self.probe, self.answered) {
            (true, true) => breaker.found(),
            (true, false) => drop(breaker.not_found(now)),
            (false, true) => breaker.succeeded(),
            (false, false) => {
                if breaker.failed(now) {
                    tracing::warn!(service = self.of.name, "a service does not answer; it is left alone for a while");
                }
            }
        }
    }
}

/// A client for services of the deployment: it follows no redirect, and uses no proxy of the environment.
///
/// # Errors
/// Where the machine has no roots to trust.
pub(crate) fn client(patience: Duration) -> reqwest::Result<reqwest::Client> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .timeout(patience)
        .connect_timeout(patience)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
}

/// Sends a request and reads at most `most` bytes; the reason otherwise.
pub(crate) async fn read(request: reqwest::RequestBuilder, most: usize) -> Result<Answer, &'static str> {
    let mut response =
        request.send().await.map_err(|error| if error.is_timeout() { "too late" } else { "unreachable" })?;
    let status = response.status();
    if status.is_server_error() || status.is_redirection() || status == StatusCode::TOO_MANY_REQUESTS {
        return Err("refused to answer");
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(|_| "broke off")? {
        if body.len() + chunk.len() > most {
            return Err("answered too much");
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer { status, body: body.freeze() })
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::post;
    use serde_json::json;

    use super::*;

    async fn served(routes: Router) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        format!("http://{address}/base/")
    }

    #[tokio::test]
    async fn an_answer_is_read_and_a_refusal_is_one() {
        let routes = Router::new()
            .route("/base/yes", post(|body: String| async { body }))
            .route("/base/no", post(|| async { (StatusCode::FORBIDDEN, "no") }))
            .route("/base/huge", post(|| async { vec![b'x'; MOST + 1] }))
            .route("/base/away", post(|| async { axum::response::Redirect::temporary("/base/yes") }));
        let sibling = Sibling::new("X", &served(routes).await).unwrap();
        let yes = sibling.post("/yes", &json!({"a": 1}), &[]).await.unwrap();
        assert_eq!((yes.status, &yes.body[..]), (StatusCode::OK, &br#"{"a":1}"#[..]));
        assert_eq!(sibling.post("/no", &json!({}), &[]).await.unwrap().status, StatusCode::FORBIDDEN);
        assert!(sibling.post("/huge", &json!({}), &[]).await.is_err());
        assert!(sibling.post("/away", &json!({}), &[]).await.is_err());
    }

    #[tokio::test]
    async fn one_that_fails_is_left_alone() {
        let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counted = asked.clone();
        let fail = move || {
            counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            async { StatusCode::INTERNAL_SERVER_ERROR }
        };
        let sibling = Sibling::new("X", &served(Router::new().route("/base/x", post(fail))).await).unwrap();
        for _ in 0..10 {
            assert!(sibling.post("/x", &json!({}), &[]).await.is_err());
        }
        assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 3);
    }

    #[test]
    fn what_is_no_address_is_refused_without_showing_it() {
        for bad in ["auth-service", "ftp://x", "http://user:hush@x", "/verify", ""] {
            let error = Sibling::new("AUTH_SERVICE_URL", bad).unwrap_err().to_string();
            assert!(error.starts_with("AUTH_SERVICE_URL: ") && !error.contains("hush"), "{error}");
        }
    }
}
