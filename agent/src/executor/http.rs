use std::collections::BTreeMap;
use std::error::Error as _;
use std::fmt::Write as _;
use std::time::Duration;

use ::http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use ::http::{Method, StatusCode};
use async_trait::async_trait;
use orrery_proto::Json;
use orrery_proto::v1::ErrorType;
use orrery_sdk::config::HttpConfig;
use orrery_sdk::executor::{Context, Executor, Outcome, Task};
use orrery_sdk::secret::Redactor;
use reqwest::{Client, Request, Response, Url};
use serde_json::value::RawValue;

use super::capture::json_string;
use super::{ExecutorSettings, invalid, stopped};

/// Calls URLs.
pub(super) struct Http {
    /// One for all calls, so that connections are used again; or why there is none.
    client: Result<Client, String>,
    max_result_bytes: usize,
}

/// What came back, as far as it was read.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
    /// Whether the body is longer than what was read of it.
    cut: bool,
    /// The whole body's bytes, where they are known.
    length: Option<u64>,
}

impl Http {
    pub(super) fn new(settings: &ExecutorSettings) -> Self {
        // Refused where the program has installed one already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = Client::builder().user_agent(&settings.user_agent).build();
        Self { client: client.map_err(chain), max_result_bytes: settings.max_result_bytes }
    }

    async fn exchange(
        &self,
        client: &Client,
        request: Request,
        redactor: Option<&Redactor>,
    ) -> Result<Answer, reqwest::Error> {
        let mut response: Response = client.execute(request).await?;
        let mut answer = Answer {
            status: response.status(),
            headers: response.headers().clone(),
            body: Vec::new(),
            cut: false,
            length: response.content_length(),
        };
        // What is kept is a part: a secret that is cut in two would not be known any more.
        let mut redacted = redactor.map(Redactor::stream);
        while let Some(piece) = response.chunk().await? {
            let piece = match &mut redacted {
                Some(stream) => stream.push(&piece).into(),
                None => piece,
            };
            let room = self.max_result_bytes - answer.body.len();
            answer.body.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.len() > room {
                answer.cut = true;
                return Ok(answer);
            }
        }
        let rest = redacted.map(|mut stream| stream.finish()).unwrap_or_default();
        let room = self.max_result_bytes - answer.body.len();
        answer.cut = rest.len() > room;
        answer.body.extend_from_slice(&rest[..rest.len().min(room)]);
        answer.length = (!answer.cut).then_some(answer.body.len() as u64);
        Ok(answer)
    }
}

#[async_trait]
impl Executor for Http {
    async fn run(&self, task: Task, context: Context) -> Outcome {
        let config = match HttpConfig::parse(&task.config.text) {
            Ok(config) => config,
            Err(problems) => return invalid(&problems),
        };
        let client = match &self.client {
            Ok(client) => client,
            Err(error) => return Outcome::failure(ErrorType::SystemError, format!("the HTTP client: {error}")),
        };
        let request = match request(&config, &task) {
            Ok(request) => request,
            Err((field, message)) => return invalid(&[(field, message)]),
        };
        let limit = Duration::from_millis(config.timeout);
        let exchange = tokio::time::timeout(limit, self.exchange(client, request, context.redactor()));
        tokio::select! {
            biased;
            // The exchange is dropped, and its connection with it.
            reason = context.stopped() => stopped(reason, &task),
            answer = exchange => match answer {
                Ok(Ok(answer)) => outcome(&answer, &config, self.max_result_bytes),
                Ok(Err(error)) => failure(error),
                Err(_) => {
                    let message = format!("no complete response within {} ms (config.timeout)", config.timeout);
                    Outcome::failure(ErrorType::Timeout, message)
                }
            }
        }
    }
}

fn request(config: &HttpConfig, task: &Task) -> Result<Request, (String, String)> {
    let wrong = |field: &str, error: &dyn std::fmt::Display| (format!("config.{field}"), error.to_string());
    let url = Url::parse(&config.url).map_err(|error| wrong("url", &error))?;
    let method = Method::from_bytes(config.method.as_bytes()).map_err(|error| wrong("method", &error))?;
    let mut headers = own_headers(task);
    let parameters: Option<Box<RawValue>> = match (&config.body, &method, &task.parameters) {
        (Some(_), ..) | (_, &Method::GET | &Method::HEAD, _) => None,
        (.., parameters) => parameters.as_ref().and_then(|json| json.read().ok()),
    };
    let body = config.body.as_deref().or(parameters.as_deref()).map(RawValue::get);
    let body = body.filter(|text| *text != "null").map(|text| match serde_json::from_str::<String>(text) {
        Ok(text) => text,
        Err(_) => {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            // As it was given: no number is read, so none loses a digit.
            text.to_owned()
        }
    });
    for (name, value) in &config.headers {
        let field = format!("headers.{name}");
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| wrong(&field, &error))?;
        let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|error| wrong(&field, &error))?;
        headers.insert(name, value);
    }
    let mut request = Request::new(method, url);
    *request.headers_mut() = headers;
    *request.body_mut() = body.map(Into::into);
    Ok(request)
}

/// What tells the target which run this is, so that it can fence and notice repetitions.
fn own_headers(task: &Task) -> HeaderMap {
    let all = [
        ("idempotency-key", Some(task.idempotency_key.clone())),
        ("x-orrery-execution-id", Some(task.execution_id.clone())),
        ("x-orrery-epoch", Some(task.epoch.to_string())),
        ("x-orrery-attempt", Some(task.attempt.to_string())),
        ("traceparent", task.traceparent.clone()),
    ];
    let set = all.into_iter().filter_map(|(name, value)| Some((name, HeaderValue::from_str(&value?).ok()?)));
    set.map(|(name, value)| (HeaderName::from_static(name), value)).collect()
}

fn outcome(answer: &Answer, config: &HttpConfig, max_result_bytes: usize) -> Outcome {
    let status = answer.status.as_u16();
    let success = status == config.expected_status_code;
    let result = result(answer, success, max_result_bytes);
    if success {
        return Outcome::success(result);
    }
    let message = format!("expected status {}, got {status}", config.expected_status_code);
    let mut outcome = Outcome::failure(ErrorType::UserError, message).with_result(result);
    if let Some(failure) = outcome.failure.as_mut().filter(|_| config.retry_on_status_codes.contains(&status)) {
        failure.retryable = Some(true);
    }
    outcome
}

/// `{"success", "result": body, "metadata": {"statusCode", "headers"}}`, within the bound.
fn result(answer: &Answer, success: bool, max_result_bytes: usize) -> Json {
    let (headers, headers_cut) = headers_json(&answer.headers, max_result_bytes / 4);
    let mut metadata = format!(r#"{{"statusCode":{},"headers":{headers}"#, answer.status.as_u16());
    if headers_cut {
        metadata.push_str(r#","headersTruncated":true"#);
    }
    // What the frame around the body takes.
    let budget = max_result_bytes.saturating_sub(metadata.len() + 100);
    let (body, body_cut) = body_json(answer, budget);
    if body_cut {
        metadata.push_str(r#","truncated":true"#);
        if let Some(length) = answer.length {
            // Writing to a string does not fail.
            let _ = write!(metadata, r#","bytes":{length}"#);
        }
    }
    Json::new(format!(r#"{{"success":{success},"result":{body},"metadata":{metadata}}}}}"#))
}

/// The body: raw JSON where it is JSON and whole, else a string.
fn body_json(answer: &Answer, budget: usize) -> (String, bool) {
    if answer.body.is_empty() && !answer.cut {
        return ("null".into(), false);
    }
    let text = String::from_utf8_lossy(&answer.body);
    if !answer.cut && text.len() <= budget && is_json(answer, &text) {
        return (text.trim().to_owned(), false);
    }
    let (literal, cut) = json_string(&text, budget);
    (literal, cut || answer.cut)
}

/// JSON by its type; without one that says so, only objects and lists, since a text that happens to be 5 or true is a text.
fn is_json(answer: &Answer, text: &str) -> bool {
    let content_type = answer.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let typed = essence.ends_with("/json") || essence.ends_with("+json");
    (typed || text.trim_start().starts_with(['{', '['])) && serde_json::from_str::<&RawValue>(text).is_ok()
}

/// Headers as an object, repeated ones joined by commas; those that do not fit the budget are left out.
fn headers_json(headers: &HeaderMap, budget: usize) -> (String, bool) {
    let (mut kept, mut used, mut cut) = (BTreeMap::new(), 0, false);
    for name in headers.keys() {
        let values: Vec<_> =
            headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect();
        let value = serde_json::Value::from(values.join(", "));
        let size = name.as_str().len() + value.to_string().len() + 4;
        if used + size > budget {
            cut = true;
            continue;
        }
        used += size;
        kept.insert(name.as_str(), value);
    }
    (serde_json::to_string(&kept).unwrap_or_else(|_| "{}".into()), cut)
}

fn failure(error: reqwest::Error) -> Outcome {
    let error_type = match &error {
        error if error.is_timeout() => ErrorType::Timeout,
        error if error.is_builder() => ErrorType::ValidationError,
        error if error.is_redirect() => ErrorType::UserError,
        _ => ErrorType::NetworkError,
    };
    Outcome::failure(error_type, chain(error))
}

/// The error with its causes, without the URL, which may hold secrets.
fn chain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let _ = write!(text, ": {next}");
        cause = next.source();
    }
    text
}
