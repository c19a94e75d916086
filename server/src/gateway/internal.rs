//! The internal API for sibling services: the same calls under other paths, with another envelope. What may call it is decided by
//! `X-Service-Token` alone (see [`crate::auth`]).

use std::borrow::Cow;

use axum::body::Body;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::Response;
use chrono::{DateTime, SecondsFormat, Utc};
use http_body_util::BodyExt;
use serde_json::{Map, Value, json};

use super::error_body::Told;
use super::responses;
use crate::auth::INTERNAL;

const SERVICE: &str = "scheduler-service";
const JOBS: &str = "/api/v1/scheduler/jobs";
/// What of a job its status is.
const STATUS: [&str; 7] = ["id", "name", "status", "nextExecutionAt", "lastExecutionAt", "executionCount", "updatedAt"];

/// Whether a path is one of the internal API.
pub(super) fn is_internal(path: &str) -> bool {
    path.starts_with(INTERNAL)
}

/// An internal call, as a call of the public API.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) path: String,
    answer: Answer,
}

/// What is answered when it went well.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Wrapped,
    Status,
    /// As the public API answers it.
    Plain,
}

impl Call {
    /// The call that a method and a path mean.
    ///
    /// # Errors
    /// The status and the error where there is none.
    pub(super) fn of(method: &Method, uri: &Uri) -> Result<Self, (StatusCode, Told)> {
        let parts: Vec<&str> = uri.path().strip_prefix(INTERNAL).unwrap_or_default().split('/').collect();
        let (wanted, path, answer) = match parts.as_slice() {
            ["jobs", "create"] => (Method::POST, JOBS.to_owned(), Answer::Wrapped),
            ["jobs", "batch-create"] => (Method::POST, format!("{JOBS}/batch-create"), Answer::Wrapped),
            ["jobs", id, verb @ ("trigger" | "pause" | "resume")] if !id.is_empty() => {
                (Method::POST, format!("{JOBS}/{id}/{verb}"), Answer::Wrapped)
            }
            ["jobs", id, "status"] if !id.is_empty() => (Method::GET, format!("{JOBS}/{id}"), Answer::Status),
            ["health"] => (Method::GET, "/health".to_owned(), Answer::Plain),
            _ => {
                let message = format!("there is no path {} in the internal API", uri.path());
                return Err((StatusCode::NOT_FOUND, Told::new("ROUTE_NOT_FOUND", message)));
            }
        };
        if *method != wanted && !(*method == Method::HEAD && wanted == Method::GET) {
            let message = format!("this path has no {method}; it has {wanted}");
            return Err((StatusCode::METHOD_NOT_ALLOWED, Told::new("METHOD_NOT_ALLOWED", message)));
        }
        Ok(Self { method: wanted, path, answer })
    }

    /// The answer to it, from that of the public API. Errors are written where all are, see [`error_text`].
    pub(super) async fn answered(&self, response: Response, now: DateTime<Utc>) -> Response {
        if !response.status().is_success() || self.answer == Answer::Plain {
            return response;
        }
        let (mut parts, body) = response.into_parts();
        let bytes = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        // The digits of numbers in it stay as they are.
        let Ok(text) = std::str::from_utf8(&bytes) else {
            return responses::failed(
                StatusCode::INTERNAL_SERVER_ERROR,
                Told::new("INTERNAL_ERROR", "internal error; see the server's log"),
            );
        };
        let data = if self.answer == Answer::Status { Cow::Owned(status(text)) } else { Cow::Borrowed(text) };
        let timestamp = now.to_rfc3339_opts(SecondsFormat::Millis, true);
        let text = format!(r#"{{"success":true,"data":{data},"timestamp":"{timestamp}","serviceName":"{SERVICE}"}}"#);
        parts.headers.remove(header::CONTENT_LENGTH);
        Response::from_parts(parts, Body::from(text))
    }
}

/// The status in the JSON of a job.
fn status(job: &str) -> String {
    let mut job: Map<String, Value> = serde_json::from_str(job).unwrap_or_default();
    job.retain(|name, _| STATUS.contains(&name.as_str()));
    Value::Object(job).to_string()
}

/// The documented body of an error of the internal API.
pub(super) fn error_text(error: &Told, now: DateTime<Utc>) -> String {
    let code = if error.code.is_empty() { "SCHEDULER_ERROR" } else { error.code.as_ref() };
    json!({
        "success": false,
        "errorCode": code,
        "message": error.message,
        "timestamp": now.to_rfc3339_opts(SecondsFormat::Millis, true),
        "serviceName": SERVICE,
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(method: Method, path: &'static str) -> Result<(Method, String), u16> {
        let call = Call::of(&method, &Uri::from_static(path));
        call.map(|call| (call.method, call.path)).map_err(|(status, _)| status.as_u16())
    }

    #[test]
    fn the_seven_calls_have_their_counterparts() {
        let post = |path: &str| Ok((Method::POST, format!("{JOBS}{path}")));
        assert_eq!(of(Method::POST, "/internal/jobs/create"), post(""));
        assert_eq!(of(Method::POST, "/internal/jobs/batch-create"), post("/batch-create"));
        assert_eq!(of(Method::POST, "/internal/jobs/7/trigger"), post("/7/trigger"));
        assert_eq!(of(Method::POST, "/internal/jobs/7/pause"), post("/7/pause"));
        assert_eq!(of(Method::POST, "/internal/jobs/7/resume"), post("/7/resume"));
        assert_eq!(of(Method::GET, "/internal/jobs/7/status"), Ok((Method::GET, format!("{JOBS}/7"))));
        assert_eq!(of(Method::GET, "/internal/health"), Ok((Method::GET, "/health".into())));
        assert_eq!(of(Method::GET, "/internal/jobs/create"), Err(405));
        for none in [
            "/internal/jobs",
            "/internal/jobs/7/stop",
            "/internal/jobs//trigger",
            "/internal/jobs/7/trigger/",
            "/internal/",
        ] {
            assert_eq!(of(Method::POST, none), Err(404), "{none}");
        }
    }

    #[test]
    fn an_error_has_the_documented_body() {
        let body: Value = serde_json::from_str(&error_text(&Told::new("", "no"), DateTime::UNIX_EPOCH)).unwrap();
        let expected = json!({"success": false, "errorCode": "SCHEDULER_ERROR", "message": "no",
            "timestamp": "1970-01-01T00:00:00.000Z", "serviceName": "scheduler-service"});
        assert_eq!(body, expected);
    }
}
