//! From what the generated code answers on a failure to the error that a caller is told of.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Method, StatusCode, Uri, header};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use chrono::DateTime;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Deserialize;
use serde_json::Value;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::error_body::{Told, ToldField};
use super::{json_place, responses, routes};

/// The code of what cannot be read.
const CODE: &str = "INVALID_ARGUMENT";

/// How long a body may take. Callers that send a byte now and then would hold connections and memory for ever.
const READING: Duration = Duration::from_secs(60);

/// What the caller sent, for finding the place of an error.
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) body: Bytes,
}

/// `google.rpc.Status`, as the generated code writes it.
#[derive(Deserialize)]
struct Written {
    code: i32,
    message: String,
    #[serde(default)]
    details: Vec<Value>,
}

/// The whole body of a request.
///
/// # Errors
/// 413 where it is larger than `most`; 400 where it breaks off; 408 where it does not come in time.
pub(super) async fn read_body(body: Body, most: usize) -> Result<Bytes, (StatusCode, Told)> {
    let Ok(read) = tokio::time::timeout(READING, Limited::new(body, most).collect()).await else {
        let error = Told::new("REQUEST_TIMEOUT", format!("the body did not come within {} s", READING.as_secs()));
        return Err((StatusCode::REQUEST_TIMEOUT, error));
    };
    match read {
        Ok(collected) => Ok(without_mark(collected.to_bytes())),
        Err(error) if error.is::<LengthLimitError>() => {
            let message = format!("the body is larger than {most} bytes; send less, or raise ORRERY_MAX_BODY_BYTES");
            let mut error = Told::new("PAYLOAD_TOO_LARGE", message);
            error.details.insert("limit".to_owned(), most.to_string());
            Err((StatusCode::PAYLOAD_TOO_LARGE, error))
        }
        Err(_) => {
            let error = Told::new("INVALID_ARGUMENT", "the body broke off");
            Err((StatusCode::BAD_REQUEST, error))
        }
    }
}

/// The text behind a byte order mark, which some editors and shells write before JSON and no parser of it takes.
fn without_mark(body: Bytes) -> Bytes {
    const MARK: &[u8] = "\u{feff}".as_bytes();
    if body.starts_with(MARK) { body.slice(MARK.len()..) } else { body }
}

/// The response with the error that its body told of.
pub(super) async fn explained(response: Response, call: &Call) -> Response {
    let (mut parts, body) = response.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let Ok(written) = serde_json::from_slice::<Written>(&body) else {
        parts.headers.remove(header::CONTENT_TYPE);
        return Response::from_parts(parts, Body::empty());
    };
    if written.code == Code::NotFound as i32 && written.details.is_empty() {
        return unrouted(call);
    }
    parts.extensions.insert(error(&written, call));
    Response::from_parts(parts, Body::empty())
}

/// No route took the call: there is no such path, or it has other methods.
fn unrouted(call: &Call) -> Response {
    let allowed = routes::methods(call.uri.path());
    if allowed.is_empty() {
        let path = call.uri.path();
        let message = match path.strip_suffix('/').filter(|shorter| !routes::methods(shorter).is_empty()) {
            Some(shorter) => format!("there is no path {path}; call it without the slash at its end: {shorter}"),
            None => format!("there is no path {path}; see /docs"),
        };
        return responses::failed(StatusCode::NOT_FOUND, Told::new("ROUTE_NOT_FOUND", message));
    }
    let allow = allowed.join(", ");
    let message = format!("this path has no {}; it has {allow}", call.method);
    let error = Told::new("METHOD_NOT_ALLOWED", message);
    let mut response = responses::failed(StatusCode::METHOD_NOT_ALLOWED, error);
    if let Ok(allow) = HeaderValue::from_str(&allow) {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}

fn error(written: &Written, call: &Call) -> Told {
    match written.details.iter().find_map(details) {
        Some(bytes) => of_status(&Status::with_details(Code::from_i32(written.code), &written.message, bytes)),
        // Statuses without details are those of the generated code itself: it could not read the request.
        None if written.code == Code::InvalidArgument as i32 => unreadable(&written.message, call),
        None => {
            tracing::error!(code = written.code, message = written.message, "an error without a code of ours");
            Told::new("INTERNAL_ERROR", "internal error; see the server's log")
        }
    }
}

fn details(detail: &Value) -> Option<Bytes> {
    let is_ours = detail.get("kind")?.as_str()? == "grpc-status-details-bin";
    let encoded = detail.get("value")?.as_str().filter(|_| is_ours)?;
    STANDARD.decode(encoded).ok().map(Bytes::from)
}

/// The error that became this status. The reverse of `From<Error> for Status`.
fn of_status(status: &Status) -> Told {
    let details = status.get_error_details();
    let mut error = Told::new("INTERNAL_ERROR", status.message());
    if let Some(info) = details.error_info() {
        error.code = info.reason.clone().into();
        error.details = info.metadata.clone().into_iter().collect();
    }
    for violation in details.bad_request().iter().flat_map(|bad| &bad.field_violations) {
        let (code, message) =
            violation.description.split_once(": ").unwrap_or(("INVALID_ARGUMENT", &violation.description));
        error.fields.push(ToldField {
            field: violation.field.clone(),
            code: code.to_owned().into(),
            message: message.to_owned(),
        });
    }
    error
}

/// A request that is not JSON, or does not fit its message: says where, and names the field.
fn unreadable(message: &str, call: &Call) -> Told {
    let (summary, detail) = message.split_once(": ").unwrap_or(("", message));
    if summary == "invalid request body JSON" {
        return Told::new(CODE, format!("the body is not JSON: {detail}"));
    }
    if detail.starts_with("a non-repeated query field")
        && let Some(field) = routes::repeated_parameter(&call.uri)
    {
        return of_field(field, "is given more than once; give it once".to_owned());
    }
    let problem = readable(detail);
    let field = match position(detail) {
        Some((line, column)) => json_place::path(&call.body, line, column),
        None => routes::wrong_parameter(call.method.as_str(), &call.uri),
    };
    match field.or_else(|| unknown_field(detail).map(ToOwned::to_owned)) {
        Some(field) => of_field(field, problem),
        None => Told::new(CODE, problem),
    }
}

fn of_field(field: String, problem: String) -> Told {
    let told = Told::new(CODE, format!("{field}: {problem}"));
    Told { fields: vec![ToldField { field, code: CODE.into(), message: problem }], ..told }
}

fn unknown_field(detail: &str) -> Option<&str> {
    detail.strip_prefix("unknown field `")?.split('`').next()
}

/// The line and column at the end of a message of serde_json.
fn position(detail: &str) -> Option<(usize, usize)> {
    let (_, place) = detail.rsplit_once(" at line ")?;
    let (line, column) = place.split_once(" column ")?;
    Some((line.parse().ok()?, column.parse().ok()?))
}

/// A message of serde for people: in the words of JSON, and without names that are spelled otherwise in the proto file.
fn readable(detail: &str) -> String {
    let in_json = in_words_of_json(detail);
    if in_json.contains("expected an RFC 3339 instant") && has_lost_its_plus(detail) {
        return format!("{in_json}; a plus sign in a URL is written %2B");
    }
    let Some((before, names)) = in_json.split_once(", expected one of `") else { return in_json };
    let (names, after) =
        names.split_once(" at line ").map_or((names, String::new()), |(n, p)| (n, format!(" at line {p}")));
    let known: Vec<&str> = names.split("`, `").map(|n| n.trim_end_matches('`')).filter(|n| !n.contains('_')).collect();
    format!("{before}{after}; known are {}", known.join(", "))
}

/// Rust's names of types mean nothing to a caller.
fn in_words_of_json(detail: &str) -> String {
    let text = detail
        .replace("invalid type: sequence", "invalid type: an array")
        .replace("invalid type: map", "invalid type: an object");
    let text = text.replace("expected a sequence", "expected an array").replace("expected a map", "expected an object");
    match text.split_once("expected struct ") {
        Some((before, after)) => {
            let rest = after.find(' ').map_or("", |end| &after[end..]);
            format!("{before}expected an object{rest}")
        }
        None => text,
    }
}

/// Whether an instant has a space where its offset begins.
fn has_lost_its_plus(detail: &str) -> bool {
    let instant = detail.split('"').nth(1).unwrap_or_default();
    instant
        .rsplit_once(' ')
        .is_some_and(|(before, offset)| DateTime::parse_from_rfc3339(&format!("{before}+{offset}")).is_ok())
}

#[cfg(test)]
mod tests;
