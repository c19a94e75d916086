//! One request of an http job, and the one that a redirect asks for after it. Pure.

use ::http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION};
use ::http::{Method, StatusCode};
use bytes::Bytes;
use orrery_sdk::config::HttpConfig;
use orrery_sdk::executor::Task;
use reqwest::{Request, Url};
use serde_json::value::RawValue;

/// The headers that tell the target which run it is.
const OWN: [&str; 5] =
    ["idempotency-key", "x-orrery-execution-id", "x-orrery-epoch", "x-orrery-attempt", "traceparent"];

/// The headers of a job that are no secret and go along to another origin. All others stay behind: Authorization, Cookie, and as well
/// X-Api-Key and whatever else a job may prove itself with.
const HARMLESS: [&str; 8] = [
    "accept",
    "accept-encoding",
    "accept-language",
    "cache-control",
    "content-encoding",
    "content-language",
    "content-type",
    "user-agent",
];

/// What describes a body, and goes with it.
const OF_BODY: [&str; 5] =
    ["content-encoding", "content-language", "content-length", "content-type", "transfer-encoding"];

/// One request.
pub(super) struct Hop {
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: Option<Bytes>,
}

impl Hop {
    /// The request that a job asks for.
    ///
    /// # Errors
    /// The field that is wrong, and what is wrong with it.
    pub(super) fn first(config: &HttpConfig, task: &Task) -> Result<Self, (String, String)> {
        let wrong = |field: &str, error: &dyn std::fmt::Display| (format!("config.{field}"), error.to_string());
        let url = Url::parse(&config.url).map_err(|error| wrong("url", &error))?;
        let method = Method::from_bytes(config.method.as_bytes()).map_err(|error| wrong("method", &error))?;
        let mut headers = own_headers(task);
        let body = body(config, &method, task, &mut headers);
        for (name, value) in &config.headers {
            let field = format!("headers.{name}");
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| wrong(&field, &error))?;
            let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|error| wrong(&field, &error))?;
            headers.insert(name, value);
        }
        Ok(Self { method, url, headers, body })
    }

    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    /// The port that it connects to.
    pub(super) fn port(&self) -> u16 {
        // Of other schemes than http and https, which are not called.
        self.url.port_or_known_default().unwrap_or_default()
    }

    pub(super) fn request(&self) -> Request {
        let mut request = Request::new(self.method.clone(), self.url.clone());
        *request.headers_mut() = self.headers.clone();
        *request.body_mut() = self.body.clone().map(Into::into);
        request
    }

    /// The request that an answer redirects to, if it does (RFC 9110, 15.4).
    pub(super) fn next(&self, status: StatusCode, headers: &HeaderMap) -> Option<Self> {
        if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
            return None;
        }
        let location = std::str::from_utf8(headers.get(LOCATION)?.as_bytes()).ok()?;
        let mut url = self.url.join(location).ok()?;
        if url.fragment().is_none() {
            url.set_fragment(self.url.fragment());
        }
        let mut next =
            Self { method: self.method.clone(), url, headers: self.headers.clone(), body: self.body.clone() };
        let to_get = match status.as_u16() {
            301 | 302 => self.method == Method::POST,
            303 => self.method != Method::HEAD,
            _ => false,
        };
        if to_get {
            next.method = Method::GET;
            next.body = None;
            OF_BODY.iter().for_each(|name| drop(next.headers.remove(*name)));
        }
        if next.url.origin() != self.url.origin() {
            next.headers = harmless(&next.headers);
        }
        Some(next)
    }
}

fn harmless(headers: &HeaderMap) -> HeaderMap {
    let is_harmless = |name: &HeaderName| OWN.contains(&name.as_str()) || HARMLESS.contains(&name.as_str());
    let kept = headers.iter().filter(|(name, _)| is_harmless(name));
    kept.map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn body(config: &HttpConfig, method: &Method, task: &Task, headers: &mut HeaderMap) -> Option<Bytes> {
    let parameters: Option<Box<RawValue>> = match (&config.body, method, &task.parameters) {
        (Some(_), ..) | (_, &Method::GET | &Method::HEAD, _) => None,
        (.., parameters) => parameters.as_ref().and_then(|json| json.read().ok()),
    };
    let body = config.body.as_deref().or(parameters.as_deref()).map(RawValue::get);
    let text = body.filter(|text| *text != "null").map(|text| match serde_json::from_str::<String>(text) {
        Ok(text) => text,
        Err(_) => {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            // As it was given: no number is read, so none loses a digit.
            text.to_owned()
        }
    });
    text.map(Bytes::from)
}

/// What tells the target which run this is, so that it can fence and notice repetitions.
fn own_headers(task: &Task) -> HeaderMap {
    let values = [
        Some(task.idempotency_key.clone()),
        Some(task.execution_id.clone()),
        Some(task.epoch.to_string()),
        Some(task.attempt.to_string()),
        task.traceparent.clone(),
    ];
    let set = OWN.into_iter().zip(values);
    set.filter_map(|(name, value)| Some((HeaderName::from_static(name), HeaderValue::from_str(&value?).ok()?)))
        .collect()
}
