//! Takes the fields of a config one by one, so that every problem is found at once and names its field.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::{MAX_CONFIG_BYTES, MAX_TIMEOUT_MS, Problem, ProcessConfig, SandboxConfig};
use crate::secret::OPENING;

/// A config taken apart by its fields, with the problems found so far.
pub(super) struct Fields<'a> {
    job_type: &'static str,
    values: BTreeMap<String, &'a RawValue>,
    taken: Vec<&'static str>,
    problems: Vec<Problem>,
}

impl<'a> Fields<'a> {
    pub(super) fn read(job_type: &'static str, json: &'a str) -> Result<Self, Vec<Problem>> {
        let whole = |message: String| Err(vec![("config".to_owned(), message)]);
        if json.len() > MAX_CONFIG_BYTES {
            return whole(format!("is {} bytes of JSON, more than {MAX_CONFIG_BYTES}", json.len()));
        }
        if json.is_empty() {
            return whole("is missing; give an object".into());
        }
        let values = match serde_json::from_str::<BTreeMap<String, &RawValue>>(json) {
            Ok(values) => values,
            Err(error) => return whole(format!("must be a JSON object: {error}")),
        };
        let mut fields = Self { job_type, values: BTreeMap::new(), taken: Vec::new(), problems: Vec::new() };
        for (name, value) in values {
            if holds_nul(value.get()) || name.contains('\0') {
                fields.problem(&name.replace('\0', "\\u0000"), "holds a NUL character (\\u0000); remove it");
            }
            fields.values.insert(name, value);
        }
        Ok(fields)
    }

    /// Takes a field; null is as good as absent.
    fn raw(&mut self, name: &'static str) -> Option<&'a RawValue> {
        self.taken.push(name);
        self.values.remove(name).filter(|value| value.get() != "null")
    }

    pub(super) fn take<T: DeserializeOwned>(&mut self, name: &'static str, what: &str) -> Option<T> {
        let raw = self.raw(name)?;
        match serde_json::from_str(raw.get()) {
            Ok(value) => Some(value),
            Err(_) => {
                self.problem(name, format!("must be {what}, not {}", shortened(raw.get())));
                None
            }
        }
    }

    pub(super) fn text(&mut self, name: &'static str) -> Option<String> {
        self.take(name, "a string")
    }

    pub(super) fn json(&mut self, name: &'static str) -> Option<Box<RawValue>> {
        self.raw(name).map(ToOwned::to_owned)
    }

    /// A field that must be there and not be empty; "" stands for one that is wrong, whose problem is noted.
    pub(super) fn required(&mut self, name: &'static str, what: &str) -> String {
        if !self.values.contains_key(name) {
            self.taken.push(name);
            self.problem(name, format!("is missing; give {what}"));
            return String::new();
        }
        let known = self.problems.len();
        let text: String = self.text(name).unwrap_or_default();
        if text.is_empty() && self.problems.len() == known {
            self.problem(name, format!("is empty; give {what}"));
        }
        text
    }

    /// One of two fields, and whether it is the first.
    pub(super) fn either(&mut self, first: &'static str, second: &'static str, what: &str) -> (bool, String) {
        let given = |name: &str| self.values.get(name).is_some_and(|value| value.get() != "null");
        match (given(first), given(second)) {
            (true, true) => {
                self.problem(second, format!("cannot stand beside {first}; leave one out"));
                self.taken.extend([first, second]);
                self.values.retain(|name, _| name != first && name != second);
                (true, String::new())
            }
            (false, true) => {
                self.taken.push(first);
                self.values.remove(first);
                (false, self.required(second, what))
            }
            (_, false) => {
                self.taken.push(second);
                self.values.remove(second);
                (true, self.required(first, what))
            }
        }
    }

    pub(super) fn args(&mut self) -> Vec<String> {
        self.take("args", "a list of strings").unwrap_or_default()
    }

    pub(super) fn map(&mut self, name: &'static str) -> BTreeMap<String, String> {
        let values: BTreeMap<String, Box<RawValue>> =
            self.take(name, "an object whose values are strings").unwrap_or_default();
        let mut texts = BTreeMap::new();
        for (key, raw) in values {
            match serde_json::from_str(raw.get()) {
                Ok(text) => drop(texts.insert(key, text)),
                Err(_) => {
                    self.problem(&format!("{name}.{key}"), format!("must be a string, not {}", shortened(raw.get())));
                }
            }
        }
        texts
    }

    pub(super) fn timeout(&mut self) -> Option<u64> {
        let ms = self.take("timeout", "a whole number of milliseconds")?;
        if ms == 0 || ms > MAX_TIMEOUT_MS {
            self.problem("timeout", format!("must be from 1 to {MAX_TIMEOUT_MS} milliseconds (7 days), not {ms}"));
        }
        Some(ms)
    }

    pub(super) fn process(&mut self) -> ProcessConfig {
        let working_directory = self.text("workingDirectory");
        if working_directory.as_deref() == Some("") {
            self.problem("workingDirectory", "is empty; leave it out or give a directory");
        }
        let environment = self.map("environment");
        for name in environment.keys() {
            if name.is_empty() || name.contains('=') {
                self.problem(&format!("environment.{name}"), "is no name of a variable: it is empty or holds '='");
            }
        }
        ProcessConfig { working_directory, environment, timeout: self.timeout(), sandbox: self.sandbox() }
    }

    pub(super) fn sandbox(&mut self) -> Option<SandboxConfig> {
        match SandboxConfig::read(self.raw("sandbox")?.get()) {
            Ok(sandbox) => Some(sandbox),
            Err(problems) => {
                problems.into_iter().for_each(|(field, message)| self.problem(&field, message));
                None
            }
        }
    }

    pub(super) fn problem(&mut self, field: &str, message: impl Into<String>) {
        self.problems.push((format!("config.{field}"), message.into()));
    }

    pub(super) fn check(&mut self, field: &str, problem: Option<String>) {
        if let Some(message) = problem {
            self.problem(field, message);
        }
    }

    pub(super) fn finish<T>(mut self, config: T) -> Result<T, Vec<Problem>> {
        let known = self.taken.join(", ");
        let unknown: Vec<String> = self.values.keys().cloned().collect();
        for name in unknown {
            self.problem(&name, format!("is not a field of {} jobs; those are {known}", self.job_type));
        }
        if self.problems.is_empty() { Ok(config) } else { Err(self.problems) }
    }
}

/// Whether a JSON text has the escape of NUL. A bare NUL is no JSON in the first place.
fn holds_nul(json: &str) -> bool {
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        rest = &rest[at + 1..];
        if rest.starts_with("u0000") {
            return true;
        }
        // What follows a backslash is ASCII in JSON: past it, so that a second backslash is not taken for the start of an escape.
        rest = rest.get(1..).unwrap_or_default();
    }
    false
}

fn shortened(json: &str) -> String {
    if json.chars().count() <= 60 { json.into() } else { json.chars().take(60).chain(['.', '.', '.']).collect() }
}

pub(super) fn url_problem(url: &str) -> Option<String> {
    if url.starts_with(OPENING) {
        // Known only once the secret stands in its place; the agent reads it again then.
        return None;
    }
    let scheme = url.split_once("://").map(|(scheme, rest)| (scheme.to_ascii_lowercase(), rest));
    let Some(("http" | "https", rest)) = scheme.as_ref().map(|(scheme, rest)| (scheme.as_str(), *rest)) else {
        return Some("must begin with http:// or https://".into());
    };
    if url.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Some("holds a space or a control character; percent-encode it".into());
    }
    let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or_default();
    if authority.contains('@') {
        return Some("holds credentials before the host; send them in the Authorization header".into());
    }
    if authority.is_empty() || authority.starts_with(':') {
        return Some("has no host".into());
    }
    None
}

pub(super) fn header_problem(name: &str, value: &str) -> Option<String> {
    let token = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c);
    if name.is_empty() || !name.bytes().all(token) {
        return Some("is no name of a header: use letters, digits and '-'".into());
    }
    if value.contains(|c: char| c.is_control() && c != '\t') {
        return Some("holds a line break or another control character; remove it".into());
    }
    None
}
