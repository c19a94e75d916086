//! The documented body of an error. Pure.

use std::borrow::Cow;
use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use serde_json::{Value, json};

use crate::error::Error;

/// What a caller is told. Unlike [`Error`] it can be read back from a status, whose codes are not known to the compiler.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Told {
    pub(super) code: Cow<'static, str>,
    pub(super) message: String,
    pub(super) fields: Vec<ToldField>,
    pub(super) details: BTreeMap<String, String>,
}

/// One field that is wrong.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ToldField {
    pub(super) field: String,
    pub(super) code: Cow<'static, str>,
    pub(super) message: String,
}

impl Told {
    pub(super) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), fields: Vec::new(), details: BTreeMap::new() }
    }
}

impl From<Error> for Told {
    fn from(error: Error) -> Self {
        let fields = error.fields.into_iter();
        Self {
            code: error.code.into(),
            message: error.message,
            fields: fields.map(|f| ToldField { field: f.field, code: f.code.into(), message: f.message }).collect(),
            details: error.details,
        }
    }
}

#[derive(Serialize)]
struct Body<'a> {
    error: Inner<'a>,
    timestamp: String,
    path: &'a str,
}

#[derive(Serialize)]
struct Inner<'a> {
    code: &'a str,
    message: &'a str,
    details: BTreeMap<&'a str, Value>,
}

/// The JSON text of an error that a call of `path` met.
pub(super) fn json_text(error: &Told, path: &str, now: DateTime<Utc>) -> String {
    let mut details: BTreeMap<&str, Value> =
        error.details.iter().map(|(name, value)| (name.as_str(), number_or_text(value))).collect();
    if !error.fields.is_empty() {
        let mut fields: BTreeMap<&str, String> = BTreeMap::new();
        for problem in &error.fields {
            let text = fields.entry(&problem.field).or_default();
            if !text.is_empty() {
                text.push_str("; ");
            }
            text.push_str(&problem.message);
        }
        details.insert("fields", json!(fields));
        details.insert("codes", json!(error.fields.iter().map(|p| (&p.field, &p.code)).collect::<BTreeMap<_, _>>()));
    }
    let body = Body {
        error: Inner { code: &error.code, message: &error.message, details },
        timestamp: now.to_rfc3339_opts(SecondsFormat::Millis, true),
        path,
    };
    // A body of texts and numbers always has JSON.
    serde_json::to_string(&body).unwrap_or_default()
}

/// Details are kept as texts; whole numbers among them, such as a version, are shown as numbers.
fn number_or_text(value: &str) -> Value {
    match value.parse::<i64>() {
        Ok(number) if number.to_string() == value => json!(number),
        _ => json!(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{FieldProblem, Kind};

    #[test]
    fn an_error_has_the_documented_body() {
        let error = Error::new(Kind::Conflict, "VERSION_CONFLICT", "read it again").with("currentVersion", 7);
        let text = json_text(&error.into(), "/api/v1/scheduler/jobs/1", DateTime::UNIX_EPOCH);
        let expected = "{\"error\":{\"code\":\"VERSION_CONFLICT\",\"message\":\"read it again\",\
                        \"details\":{\"currentVersion\":7}},\"timestamp\":\"1970-01-01T00:00:00.000Z\",\
                        \"path\":\"/api/v1/scheduler/jobs/1\"}";
        assert_eq!(text, expected);
    }

    #[test]
    fn fields_are_named_with_their_codes() {
        let problem = |field: &str, message: &str| FieldProblem {
            field: field.into(),
            code: "INVALID_NAME",
            message: message.into(),
        };
        let error = Error::fields(vec![problem("name", "is empty"), problem("name", "is bad")]);
        let body: Value = serde_json::from_str(&json_text(&error.into(), "/", DateTime::UNIX_EPOCH)).unwrap();
        assert_eq!(body["error"]["code"], "INVALID_NAME");
        assert_eq!(body["error"]["details"]["fields"], json!({"name": "is empty; is bad"}));
        assert_eq!(body["error"]["details"]["codes"], json!({"name": "INVALID_NAME"}));
    }
}
