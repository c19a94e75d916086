//! From what a target answered to what an execution keeps of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ::http::StatusCode;
use ::http::header::{CONTENT_TYPE, HeaderMap};
use orrery_proto::Json;
use orrery_proto::v1::ErrorType;
use orrery_sdk::config::HttpConfig;
use orrery_sdk::executor::Outcome;
use orrery_sdk::secret::Redactor;
use reqwest::Response;
use serde_json::value::RawValue;

use super::super::capture::json_string;

/// What came back, as far as it was read.
pub(super) struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
    /// Whether the body is longer than what was read of it.
    cut: bool,
    /// The whole body's bytes, where they are known.
    length: Option<u64>,
}

impl Answer {
    /// Reads a response, but no more of its body than `most` bytes, and none of the values that `redactor` takes out.
    pub(super) async fn read(
        mut response: Response,
        most: usize,
        redactor: Option<&Redactor>,
    ) -> Result<Self, reqwest::Error> {
        let mut answer = Self {
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
            let room = most - answer.body.len();
            answer.body.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.len() > room {
                answer.cut = true;
                return Ok(answer);
            }
        }
        let rest = redacted.map(|mut stream| stream.finish()).unwrap_or_default();
        let room = most - answer.body.len();
        answer.cut = rest.len() > room;
        answer.body.extend_from_slice(&rest[..rest.len().min(room)]);
        answer.length = (!answer.cut).then_some(answer.body.len() as u64);
        Ok(answer)
    }
}

pub(super) fn outcome(answer: &Answer, config: &HttpConfig, max_result_bytes: usize) -> Outcome {
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
