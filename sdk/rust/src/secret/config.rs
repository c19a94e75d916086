//! References in the config of a job. The server asks what they are when a job is saved and when it is run, the agent puts values in their
//! places; both by the same reading.

use std::collections::HashMap;

use serde_json::Value;

use super::json::{self, Token};
use super::reference::{OPENING, Piece, Reference, pieces};
use crate::config::Problem;

/// A reference and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Such as `config.headers.Authorization`.
    pub field: String,
    /// What it refers to.
    pub reference: Reference,
}

/// The fields of a job type's config in whose texts secrets may be referred to. Not those that choose what runs, and not scripts: a value
/// put into the text of a program would be read as a part of it (CWE-94). Scripts take values from their environment.
pub fn fields(job_type: &str) -> &'static [&'static str] {
    match job_type {
        "http" => &["url", "headers", "body"],
        "command" | "shell" | "python" => &["args", "environment"],
        "function" => &["parameters"],
        _ => &[],
    }
}

/// All references of a config, in their order. A config that is no JSON object has none.
///
/// # Errors
/// Those that are malformed, or stand where there can be none.
pub fn find(job_type: &str, config: &str) -> Result<Vec<Found>, Vec<Problem>> {
    if !config.contains(OPENING) {
        return Ok(Vec::new());
    }
    let Ok(Value::Object(members)) = serde_json::from_str(config) else { return Ok(Vec::new()) };
    let mut looking = Looking { job_type, allowed: false, found: Vec::new(), problems: Vec::new() };
    for (name, value) in &members {
        looking.allowed = fields(job_type).contains(&name.as_str());
        looking.look(&format!("config.{name}"), value);
    }
    if looking.problems.is_empty() { Ok(looking.found) } else { Err(looking.problems) }
}

struct Looking<'a> {
    job_type: &'a str,
    /// Whether there may be references where it looks.
    allowed: bool,
    found: Vec<Found>,
    problems: Vec<Problem>,
}

impl Looking<'_> {
    fn look(&mut self, field: &str, value: &Value) {
        match value {
            Value::String(text) => self.read(field, text),
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.look(&format!("{field}.{index}"), item);
                }
            }
            Value::Object(members) => {
                for (name, member) in members {
                    if pieces(name).iter().any(|piece| matches!(piece, Piece::Reference(_))) {
                        self.problems.push((field.into(), "refers to a secret in a name; do so in values only".into()));
                    }
                    self.look(&format!("{field}.{name}"), member);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn read(&mut self, field: &str, text: &str) {
        if let Some(reference) = Reference::to_sealed(text) {
            return self.found.push(Found { field: field.into(), reference });
        }
        for piece in pieces(text) {
            match piece {
                Piece::Reference(reference) if self.allowed => {
                    self.found.push(Found { field: field.into(), reference })
                }
                Piece::Reference(reference) => self.problems.push((field.into(), misplaced(self.job_type, &reference))),
                Piece::Malformed(text) if self.allowed => {
                    let shown: String = text.chars().take(40).collect();
                    let form = "write ${secret:NAME} or ${secret:NAME@VERSION}, or $${ for the characters themselves";
                    self.problems.push((field.into(), format!("{shown:?} is no reference to a secret; {form}")));
                }
                // A shell may mean something of its own by it.
                Piece::Malformed(_) | Piece::Text(_) => {}
            }
        }
    }
}

fn misplaced(job_type: &str, reference: &Reference) -> String {
    let places = fields(job_type).join(", ");
    let hint = match job_type {
        "shell" | "python" => "; a script reads a secret from its environment",
        _ => "",
    };
    format!("{reference} cannot stand here; {job_type} jobs refer to secrets in {places}{hint}")
}

/// The config with values, by [`Reference::key`], in the places of references. All else stays as it is, to the last digit.
///
/// # Errors
/// The references for which there is no value, each with its field.
pub fn substitute(job_type: &str, config: &str, values: &HashMap<String, String>) -> Result<String, Vec<Problem>> {
    if !config.contains(OPENING) {
        return Ok(config.to_owned());
    }
    let (mut problems, mut field) = (Vec::new(), String::new());
    let put_in = |token: &Token, text: &str| {
        if token.is_key && token.depth == 1 {
            field = json::decoded(text).unwrap_or_default();
        }
        let is_value = token.is_string && !token.is_key;
        let Some(text) = is_value.then(|| json::decoded(text)).flatten().filter(|text| text.contains(OPENING)) else {
            return Ok::<_, std::convert::Infallible>(None);
        };
        // What was taken out of a config goes back to where it was, wherever that is.
        if !fields(job_type).contains(&field.as_str()) && Reference::to_sealed(&text).is_none() {
            return Ok(None);
        }
        let mut out = String::with_capacity(text.len());
        for piece in pieces(&text) {
            match piece {
                Piece::Text(text) | Piece::Malformed(text) => out.push_str(text),
                Piece::Reference(reference) => match values.get(&reference.key()) {
                    Some(value) => out.push_str(value),
                    None => problems.push((format!("config.{field}"), format!("{reference} was not sent"))),
                },
            }
        }
        Ok(Some(json::encoded(&out)))
    };
    let Ok(changed) = json::rewrite(config, put_in);
    let changed = changed.into_owned();
    if problems.is_empty() { Ok(changed) } else { Err(problems) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(job_type: &str, config: &str) -> Vec<(String, String)> {
        let found = find(job_type, config).unwrap().into_iter();
        let mut keys: Vec<(String, String)> = found.map(|found| (found.field, found.reference.key())).collect();
        keys.sort();
        keys
    }

    fn wrong(job_type: &str, config: &str) -> String {
        let (field, message) = find(job_type, config).unwrap_err().remove(0);
        format!("{field} {message}")
    }

    #[test]
    fn references_are_found_where_they_may_stand() {
        let config =
            r#"{"url":"https://h/${secret:path}","headers":{"X":"a ${secret:t@2}"},"body":{"n":[1,"${secret:b}"]}}"#;
        let found = keys("http", config);
        let expected = [("config.body.n.1", "b"), ("config.headers.X", "t@2"), ("config.url", "path")];
        assert_eq!(found, expected.map(|(field, key)| (field.to_owned(), key.to_owned())));
        assert_eq!(keys("shell", r#"{"script":"echo ${secret:0:4}","environment":{"A":"${secret:x}"}}"#).len(), 1);
        assert_eq!(keys("http", "no JSON ${secret:a}"), []);
    }

    #[test]
    fn a_reference_in_a_script_is_refused_with_the_way_out() {
        let message = wrong("shell", r#"{"script":"curl -u ${secret:x}"}"#);
        assert!(message.contains("config.script") && message.contains("environment"), "{message}");
        assert!(
            wrong("function", r#"{"modulePath":"${secret:x}","functionName":"f"}"#).starts_with("config.modulePath")
        );
        assert!(wrong("http", r#"{"url":"${secret:a b}"}"#).contains("no reference"));
        assert!(wrong("http", r#"{"headers":{"${secret:a}":"x"}}"#).contains("in a name"));
    }

    #[test]
    fn what_was_taken_out_goes_back_to_where_it_was() {
        let config = r#"{"script":"${secret:~0f}","environment":{"A":"x${secret:~0f}"}}"#;
        assert_eq!(keys("shell", config).len(), 2);
        let values = HashMap::from([("~0f".to_owned(), "echo 'a b'".to_owned())]);
        let put = substitute("shell", r#"{"script":"${secret:~0f}"}"#, &values).unwrap();
        assert_eq!(put, r#"{"script":"echo 'a b'"}"#);
        let part = r#"{"script":"echo ${secret:~0f}"}"#;
        assert!(find("shell", part).is_err());
        assert_eq!(substitute("shell", part, &values).unwrap(), part);
    }

    #[test]
    fn values_stand_where_references_stood() {
        let values =
            HashMap::from([("a".to_owned(), "q\"\n${secret:b}".to_owned()), ("b".to_owned(), "never".to_owned())]);
        let config =
            r#"{"timeout": 1500.0, "script": "${secret:a}", "environment": {"X":"<${secret:a}>","Y":"$${secret:b}"}}"#;
        let put = substitute("shell", config, &values).unwrap();
        let expected = r#"{"timeout": 1500.0, "script": "${secret:a}", "environment": {"X":"<q\"\n${secret:b}>","Y":"${secret:b}"}}"#;
        assert_eq!(put, expected, "and what a value holds is not read again");
        let missing = substitute("shell", r#"{"args":["${secret:c@4}"]}"#, &values).unwrap_err();
        assert_eq!(missing, [("config.args".to_owned(), "${secret:c@4} was not sent".to_owned())]);
    }
}
