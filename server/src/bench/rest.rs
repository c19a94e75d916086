use http::Method;
use serde_json::Value;

use super::error::{Result, failed};

/// A caller of the REST API.
#[derive(Clone)]
pub(super) struct Rest {
    http: reqwest::Client,
    origin: String,
    key: String,
}

impl Rest {
    /// One with connections of its own.
    ///
    /// # Errors
    /// Where the client cannot be made.
    pub(super) fn new(origin: &str, key: &str) -> Result<Self> {
        // Refused where it is done already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().tcp_nodelay(true).build()?;
        Ok(Self { http, origin: origin.to_owned(), key: key.to_owned() })
    }

    /// A call whose answer is read to its end. `path` begins after /api/v1/scheduler.
    ///
    /// # Errors
    /// Where it is refused or not answered.
    pub(super) async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<()> {
        let request =
            self.http.request(method, format!("{}/api/v1/scheduler{path}", self.origin)).bearer_auth(&self.key);
        let request = match body {
            Some(body) => request.header("content-type", "application/json").body(body.to_string()),
            None => request,
        };
        let answer = request.send().await?;
        let status = answer.status();
        let text = answer.bytes().await?;
        if status.is_success() {
            return Ok(());
        }
        Err(failed(format!("{path}: {status} {}", String::from_utf8_lossy(&text))))
    }
}
