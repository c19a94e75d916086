//! What a call carries beside its message, and the small fields that many messages share.

use chrono::{DateTime, Utc};
use orrery_proto::Timestamp;
use serde::Serialize;
use sha2::{Digest, Sha256};
use tonic::metadata::MetadataMap;
use uuid::Uuid;

use crate::error::Error;
use crate::store::Idempotency;

/// The most characters of an idempotency key.
const MAX_KEY: usize = 200;

/// The id in a request.
///
/// # Errors
/// INVALID_ID where it is no UUID.
pub(crate) fn id(field: &str, text: &str) -> Result<Uuid, Error> {
    Uuid::try_parse(text).map_err(|_| {
        Error::field("INVALID_ID", field, format!("{text:?} is not a UUID; give the id as it was answered"))
    })
}

/// The id in an optional filter; `None` where it is empty.
///
/// # Errors
/// INVALID_ID.
pub(crate) fn id_if_any(field: &str, text: &str) -> Result<Option<Uuid>, Error> {
    if text.is_empty() { Ok(None) } else { id(field, text).map(Some) }
}

/// The instant in an optional field.
///
/// # Errors
/// `code` where it is out of range.
pub(crate) fn instant(code: &'static str, field: &str, at: Option<Timestamp>) -> Result<Option<DateTime<Utc>>, Error> {
    let Some(at) = at else { return Ok(None) };
    let least = DateTime::UNIX_EPOCH - chrono::Duration::days(366 * 1970);
    let most = DateTime::UNIX_EPOCH + chrono::Duration::days(365 * 8000);
    match at.instant().filter(|at| (least..most).contains(at)) {
        Some(at) => Ok(Some(at)),
        None => Err(Error::field(code, field, "is out of range; give an instant from year 1 to year 9900")),
    }
}

/// The number of instants that a caller wants to see.
///
/// # Errors
/// INVALID_ARGUMENT where it is out of range.
pub(crate) fn preview_count(asked: i32) -> Result<usize, Error> {
    match asked {
        0 => Ok(10),
        1..=1000 => Ok(usize::try_from(asked).unwrap_or(10)),
        _ => Err(Error::field("INVALID_ARGUMENT", "count", format!("{asked} is out of range; give 1 to 1000"))),
    }
}

/// The version that the caller has read, from the body or an `If-Match` header; `None` where any will do.
///
/// # Errors
/// INVALID_ARGUMENT where the header is no version, or differs from the body.
pub(crate) fn expected_version(body: Option<i64>, metadata: &MetadataMap) -> Result<Option<i64>, Error> {
    let Some(header) = metadata.get("if-match") else { return Ok(body) };
    let text = header.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(body);
    }
    let number = text.strip_prefix("W/").unwrap_or(text).trim_matches('"').parse::<i64>().ok();
    match (number, body) {
        (None, _) => {
            let message = format!("{text:?} is no version; give the ETag of the job, such as \"3\", or *");
            Err(Error::field("INVALID_ARGUMENT", "If-Match", message))
        }
        (Some(header), Some(body)) if header != body => {
            let message = format!("is {header}, and version in the body is {body}; give one of them");
            Err(Error::field("INVALID_ARGUMENT", "If-Match", message))
        }
        (Some(header), _) => Ok(Some(header)),
    }
}

/// The key in the `Idempotency-Key` header; empty where there is none.
///
/// # Errors
/// INVALID_IDEMPOTENCY_KEY where it is not text.
pub(crate) fn header_key(metadata: &MetadataMap) -> Result<String, Error> {
    match metadata.get("idempotency-key") {
        None => Ok(String::new()),
        Some(value) => {
            value.to_str().map(ToOwned::to_owned).map_err(|_| bad_key("Idempotency-Key", "is not plain text"))
        }
    }
}

/// The key of one item of a batch that came under one `Idempotency-Key` header.
pub(crate) fn key_of_item(header: &str, index: usize) -> String {
    if header.is_empty() { String::new() } else { format!("{header}#{index}") }
}

/// The key of a request, from its field or else the header, for a kind of call: the same key of another kind is another key.
///
/// # Errors
/// INVALID_IDEMPOTENCY_KEY where it is not usable, or field and header differ.
pub(crate) fn idempotency(
    kind: &str,
    field: &str,
    header: &str,
    request: &impl Serialize,
) -> Result<Option<Idempotency>, Error> {
    let (name, key) = if field.is_empty() { ("Idempotency-Key", header) } else { ("idempotencyKey", field) };
    if !field.is_empty() && !header.is_empty() && field != header {
        return Err(bad_key("idempotencyKey", "differs from the Idempotency-Key header; give one of them"));
    }
    if key.is_empty() {
        return Ok(None);
    }
    if key.chars().count() > MAX_KEY || key.chars().any(char::is_control) {
        return Err(bad_key(name, &format!("give 1 to {MAX_KEY} characters, none of them control characters")));
    }
    let canonical = serde_json::to_vec(request)
        .map_err(|error| Error::new(crate::error::Kind::Internal, "INTERNAL_ERROR", error.to_string()))?;
    Ok(Some(Idempotency { key: format!("{kind}/{key}"), request_hash: Sha256::digest(&canonical).into() }))
}

fn bad_key(field: &str, message: &str) -> Error {
    Error::field("INVALID_IDEMPOTENCY_KEY", field, message)
}

/// The trace that a call is part of: that of its span, or else the one that the caller sent, if it is a W3C one.
pub(crate) fn traceparent(metadata: &MetadataMap) -> Option<String> {
    crate::telemetry::current_traceparent().or_else(|| sent_traceparent(metadata))
}

fn sent_traceparent(metadata: &MetadataMap) -> Option<String> {
    let text = metadata.get("traceparent")?.to_str().ok()?;
    let parts: Vec<&str> = text.split('-').collect();
    let hex = |part: &str, length: usize| part.len() == length && part.bytes().all(|b| b.is_ascii_hexdigit());
    match parts.as_slice() {
        ["00", trace, span, flags] if hex(trace, 32) && hex(span, 16) && hex(flags, 2) => Some(text.to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &'static str, value: &str) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        metadata.insert(name, value.parse().unwrap());
        metadata
    }

    #[test]
    fn a_version_comes_from_body_or_header() {
        let none = MetadataMap::new();
        assert_eq!(expected_version(None, &none).unwrap(), None);
        assert_eq!(expected_version(Some(3), &none).unwrap(), Some(3));
        for header in ["3", "\"3\"", "W/\"3\"", " \"3\" "] {
            assert_eq!(expected_version(None, &with("if-match", header)).unwrap(), Some(3), "{header}");
        }
        assert_eq!(expected_version(None, &with("if-match", "*")).unwrap(), None);
        assert_eq!(expected_version(Some(3), &with("if-match", "\"4\"")).unwrap_err().code, "INVALID_ARGUMENT");
        assert_eq!(expected_version(None, &with("if-match", "abc")).unwrap_err().code, "INVALID_ARGUMENT");
    }

    #[test]
    fn a_key_is_bound_to_its_kind_and_request() {
        let key = |kind, field, header| idempotency(kind, field, header, &"request").unwrap();
        assert_eq!(key("create", "", ""), None);
        assert_eq!(key("create", "k", ""), key("create", "", "k"));
        assert_ne!(key("create", "k", ""), key("trigger", "k", ""));
        let other = idempotency("create", "k", "", &"another").unwrap().unwrap();
        assert_ne!(key("create", "k", "").unwrap().request_hash, other.request_hash);
        for bad in ["a\nb", &"x".repeat(201)] {
            assert_eq!(idempotency("create", bad, "", &"r").unwrap_err().code, "INVALID_IDEMPOTENCY_KEY");
        }
        assert!(idempotency("create", "a", "b", &"r").is_err());
    }

    #[test]
    fn only_a_trace_of_the_known_form_is_taken() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(traceparent(&with("traceparent", good)).as_deref(), Some(good));
        assert_eq!(traceparent(&with("traceparent", "00-xyz-1-01")), None);
    }
}
