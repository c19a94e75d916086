//! Concurrency keys: executions with the same key, of whatever jobs of a tenant, share a number of places. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

/// The most characters of a key, as it is written and as it is evaluated.
pub const MAX_KEY: usize = 200;

const OPEN: &str = "${";
const ROOT: &str = "parameters.";

/// A key with how many of its executions may run at once. A job's key may refer to parameters, an execution's has been evaluated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Concurrency {
    pub key: String,
    /// From 1. Where several jobs share a key, the smallest limit among what waits and runs holds.
    pub limit: i32,
}

impl Concurrency {
    /// The key of an execution with these parameters (JSON text). A parameter that is missing is empty text; one that is no text stands
    /// as its JSON.
    #[must_use]
    pub fn of(&self, parameters: Option<&str>) -> Self {
        let mut key = String::new();
        let mut rest = self.key.as_str();
        while let Some((before, after)) = rest.split_once(OPEN) {
            let (path, behind) = after.split_once('}').unwrap_or((after, ""));
            key.push_str(before);
            key.push_str(&parameter(parameters, path.strip_prefix(ROOT).unwrap_or_default()).unwrap_or_default());
            rest = behind;
        }
        key.push_str(rest);
        Self { key: bounded(key), limit: self.limit }
    }

    /// Whether it is the same for all executions.
    pub fn is_fixed(&self) -> bool {
        !self.key.contains(OPEN)
    }
}

/// What is wrong with a key as it is written, if anything.
pub fn problem(key: &str) -> Option<String> {
    if key.trim().is_empty() {
        return Some("is blank; give a text, or leave it out".to_owned());
    }
    let length = key.chars().count();
    if length > MAX_KEY {
        return Some(format!("has {length} characters; at most {MAX_KEY} are allowed"));
    }
    if key.chars().any(char::is_control) {
        return Some("has control characters; remove them".to_owned());
    }
    let mut rest = key;
    while let Some((_, after)) = rest.split_once(OPEN) {
        let Some((path, behind)) = after.split_once('}') else {
            return Some("has ${ without a }; write ${parameters.NAME}".to_owned());
        };
        let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        let is_path = path
            .strip_prefix(ROOT)
            .is_some_and(|path| path.split('.').all(|name| !name.is_empty() && name.chars().all(known)));
        if !is_path {
            return Some(format!("refers to {path:?}; only parameters can be referred to, as ${{parameters.NAME}}"));
        }
        rest = behind;
    }
    None
}

/// A parameter by its path, as text; every digit of a number is kept.
fn parameter(parameters: Option<&str>, path: &str) -> Option<String> {
    let mut json: &RawValue = serde_json::from_str(parameters?).ok()?;
    for name in path.split('.') {
        let object: BTreeMap<String, &RawValue> = serde_json::from_str(json.get()).ok()?;
        json = object.get(name).copied()?;
    }
    match json.get() {
        "null" => None,
        text if text.starts_with('"') => serde_json::from_str(text).ok(),
        text => Some(text.to_owned()),
    }
}

/// A key that is too long keeps its beginning, and the hash of all of it, so that equal ones stay equal and others different.
fn bounded(key: String) -> String {
    const HASHED: usize = 64;
    if key.chars().count() <= MAX_KEY && !key.contains('\0') {
        return key;
    }
    let plain = key.chars().filter(|c| *c != '\0').take(MAX_KEY - HASHED - 1);
    let hash = Sha256::digest(key.as_bytes());
    plain.chain(['#']).chain(hash.iter().flat_map(|byte| format!("{byte:02x}").into_bytes()).map(char::from)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluated(key: &str, parameters: &str) -> String {
        Concurrency { key: key.to_owned(), limit: 1 }.of(Some(parameters)).key
    }

    #[test]
    fn a_key_refers_to_parameters() {
        let parameters =
            r#"{"customer": {"id": 123456789012345678901234567890}, "kind": "a\u00e4", "none": null, "on": true}"#;
        for (key, expected) in [
            ("plain", "plain"),
            ("c-${parameters.customer.id}", "c-123456789012345678901234567890"),
            ("${parameters.kind}/${parameters.on}!", "aä/true!"),
            ("x${parameters.missing}${parameters.none}${parameters.kind.deeper}y", "xy"),
            ("${parameters.customer}", r#"{"id": 123456789012345678901234567890}"#),
        ] {
            assert_eq!(problem(key), None, "{key}");
            assert_eq!(evaluated(key, parameters), expected, "{key}");
        }
        assert_eq!(Concurrency { key: "a${parameters.b}".into(), limit: 2 }.of(None).key, "a");
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let long = "x".repeat(201);
        for key in
            ["", "  ", "a\nb", "${", "${parameters.a", "${other}", "${parameters.}", "${parameters.a b}", "${}", &long]
        {
            assert!(problem(key).is_some(), "{key:?}");
        }
    }

    #[test]
    fn a_long_key_stays_itself() {
        let of = |text: &str| evaluated("${parameters.a}", &format!(r#"{{"a": "{text}"}}"#));
        let (one, two) = ("x".repeat(5000), "x".repeat(5001));
        assert_eq!(of(&one).chars().count(), MAX_KEY);
        assert_eq!(of(&one), of(&one));
        assert_ne!(of(&one), of(&two));
        assert!(!of(r"a\u0000b").contains('\0'));
        assert_ne!(of(r"a\u0000b"), of("ab"));
    }
}
