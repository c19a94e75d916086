//! Files that define jobs: YAML or JSON, one definition, a list of them, or several YAML documents. Every number keeps its digits.

mod json;
mod node;
mod yaml;

use std::io::Read;

use serde::de::DeserializeOwned;

use self::node::{Node, Rendered, Value};
use super::exit::Failure;

/// The largest file that is read.
const MAX_BYTES: u64 = 64 << 20;

/// A place in a file, both counted from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) line: usize,
    pub(super) column: usize,
}

/// What is wrong with a file, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    at: Position,
    message: String,
}

impl Problem {
    fn new(at: Position, message: impl Into<String>) -> Self {
        Self { at, message: message.into() }
    }
}

/// A file with its definitions, in their order.
#[derive(Debug)]
pub(super) struct DefinitionFile {
    name: String,
    definitions: Vec<Node>,
}

impl DefinitionFile {
    /// Reads a file; `-` is stdin.
    ///
    /// # Errors
    /// Where it cannot be read, or is neither YAML nor JSON, with line and column.
    pub(super) fn read(path: &str) -> Result<Self, Failure> {
        let name = if path == "-" { "stdin" } else { path };
        let unreadable = |error: std::io::Error| {
            Failure::invalid("INVALID_FILE", format!("{name} cannot be read: {error}; give a YAML or JSON file, or -"))
        };
        let mut bytes = Vec::new();
        if path == "-" {
            std::io::stdin().lock().take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        } else {
            let file = std::fs::File::open(path).map_err(unreadable)?;
            file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        }
        if bytes.len() as u64 > MAX_BYTES {
            return Err(Failure::invalid("INVALID_FILE", format!("{name} is larger than {MAX_BYTES} bytes")));
        }
        let text = String::from_utf8(bytes)
            .map_err(|error| Failure::invalid("INVALID_FILE", format!("{name} is not UTF-8 text: {error}")))?;
        Self::parse(name, &text)
    }

    /// Reads the text of a file called `name`.
    ///
    /// # Errors
    /// Where it is neither YAML nor JSON, with line and column.
    pub(super) fn parse(name: &str, text: &str) -> Result<Self, Failure> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let documents = if name.ends_with(".json") {
            json::parse(text).map(|node| vec![node])
        } else if let Some(node) = json::parse_if_json(text) {
            // JSON has escapes that YAML has not, so what is JSON is read as that, whatever the file is called.
            node.map(|node| vec![node])
        } else {
            yaml::parse(text)
        };
        let documents = documents.map_err(|problem| failure(name, &problem))?;
        let mut definitions = Vec::new();
        for document in documents {
            match document.value {
                Value::List(items) => definitions.extend(items),
                _ => definitions.push(document),
            }
        }
        if definitions.is_empty() {
            return Err(Failure::invalid("INVALID_FILE", format!("{name} holds no definition")));
        }
        if let Some(other) = definitions.iter().find(|node| !matches!(node.value, Value::Map(_))) {
            let problem = Problem::new(other.at, "a definition must be a mapping, such as `name: nightly`");
            return Err(failure(name, &problem));
        }
        Ok(Self { name: name.to_owned(), definitions })
    }

    /// The definitions as messages of the API.
    ///
    /// # Errors
    /// Where a field is unknown or holds what it cannot, with line, column and field.
    pub(super) fn messages<T: DeserializeOwned>(&self) -> Result<Vec<T>, Failure> {
        self.definitions.iter().map(|node| self.message(node)).collect()
    }

    /// The only definition of the file.
    ///
    /// # Errors
    /// As [`Self::messages`], and where there are several.
    pub(super) fn single<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        match self.definitions.as_slice() {
            [node] => self.message(node),
            several => {
                let message = format!("{} holds {} definitions; one is needed here", self.name, several.len());
                Err(Failure::invalid("INVALID_FILE", message))
            }
        }
    }

    fn message<T: DeserializeOwned>(&self, node: &Node) -> Result<T, Failure> {
        let rendered = Rendered::of(node);
        serde_json::from_str(rendered.text()).map_err(|error| failure(&self.name, &located(&error, &rendered)))
    }
}

fn failure(name: &str, problem: &Problem) -> Failure {
    let Position { line, column } = problem.at;
    Failure::invalid("INVALID_FILE", format!("{name}:{line}:{column}: {}", problem.message))
}

/// An error in the rendered text as one in the file.
fn located(error: &serde_json::Error, rendered: &Rendered) -> Problem {
    let text = error.to_string();
    let suffix = format!(" at line {} column {}", error.line(), error.column());
    let reason = text.strip_suffix(&suffix).unwrap_or(&text);
    let (at, path) = rendered.place(error.column());
    let message = match unknown_field(reason) {
        Some(message) => message,
        None => format!("{path}: {reason}"),
    };
    Problem::new(at, message)
}

/// serde's sentence lists every spelling of every field; this one names the likely ones.
fn unknown_field(reason: &str) -> Option<String> {
    let rest = reason.strip_prefix("unknown field `")?;
    let (field, names) = rest.split_once('`')?;
    let known: Vec<&str> = names.split('`').skip(1).step_by(2).filter(|name| !name.contains('_')).collect();
    let plain = |name: &str| name.to_lowercase().replace(['_', '-'], "");
    let wanted = plain(field);
    let likely: Vec<&str> = known
        .iter()
        .copied()
        .filter(|name| {
            let name = plain(name);
            let stem = wanted.get(..4).unwrap_or(&wanted);
            name.contains(&wanted) || wanted.contains(&name) || name.starts_with(stem)
        })
        .collect();
    Some(match likely.as_slice() {
        [] => format!("unknown field `{field}`; there are {}", known.join(", ")),
        likely => format!("unknown field `{field}`; did you mean {}?", likely.join(" or ")),
    })
}

#[cfg(test)]
mod tests {
    use orrery_proto::v1::{CreateJobRequest, JobType, UpdateJobRequest};
    use proptest::prelude::*;

    use super::*;

    fn jobs(text: &str) -> Result<Vec<CreateJobRequest>, String> {
        DefinitionFile::parse("jobs.yaml", text).and_then(|file| file.messages()).map_err(|failure| failure.message)
    }

    #[test]
    fn a_job_is_read_and_its_numbers_keep_their_digits() {
        let text = "name: nightly\ncronExpression: 0 0 9 * * 1-5\njobType: http\ntimeout: 30\ntags: [a, b]\nconfig:\n  \
                    url: https://example.org\n  limit: 123456789012345678901234567890\n  price: 1.50\n  tiny: 1E-400\n";
        let jobs = jobs(text).unwrap();
        assert_eq!(jobs[0].job_type(), JobType::Http);
        assert_eq!(jobs[0].timeout, Some(30));
        assert_eq!(
            jobs[0].config.as_ref().unwrap().text,
            r#"{"url":"https://example.org","limit":123456789012345678901234567890,"price":1.50,"tiny":1E-400}"#
        );
    }

    #[test]
    fn json_is_read_with_every_digit_and_its_own_escapes() {
        let text = r#"{"name": "smile \ud83d\ude00", "jobType": "http", "config": {"a": 1.50, "b": 100000000000000000000000000001}}"#;
        let jobs = jobs(text).unwrap();
        assert_eq!(jobs[0].name, "smile \u{1f600}");
        assert_eq!(jobs[0].config.as_ref().unwrap().text, r#"{"a":1.50,"b":100000000000000000000000000001}"#);
    }

    #[test]
    fn lists_and_documents_hold_many_jobs() {
        assert_eq!(jobs("- name: a\n- name: b\n").unwrap().len(), 2);
        assert_eq!(jobs("name: a\n---\nname: b\n---\n- name: c\n- name: d\n").unwrap().len(), 4);
        assert_eq!(jobs(r#"[{"name": "a"}, {"name": "b"}]"#).unwrap().len(), 2);
        assert_eq!(jobs("---\n# nothing\n---\nname: a\n").unwrap().len(), 1);
        assert!(jobs("# nothing\n").unwrap_err().contains("holds no definition"));
        assert!(jobs("").unwrap_err().contains("holds no definition"));
    }

    #[test]
    fn errors_name_file_line_column_and_field() {
        for (text, error) in [
            ("name: a\nschedule: x\n", "jobs.yaml:2:1: unknown field `schedule`; there are name, description"),
            ("name: a\ncron: x\n", "jobs.yaml:2:1: unknown field `cron`; did you mean cronExpression?"),
            ("name: a\ncron_expr: x\n", "jobs.yaml:2:1: unknown field `cron_expr`; did you mean cronExpression?"),
            ("name: a\nretryConfig:\n  maxRetries: many\n", "jobs.yaml:3:15: retryConfig.maxRetries: "),
            ("name: a\nretryConfig:\n  maxRetries: many\n  jitter: true\n", "jobs.yaml:3:15: retryConfig.maxRetries: "),
            ("name: a\ntimeout: [1]\n", "jobs.yaml:2:10: timeout: invalid type: sequence, expected a whole number"),
            ("timeout: [1]\nname: a\n", "jobs.yaml:1:10: timeout: invalid type: sequence, expected a whole number"),
            ("timeout: 1.5\nname: a\n", "jobs.yaml:1:10: timeout: "),
            ("timeout: 30000000000\nname: a\n", "jobs.yaml:1:10: timeout: "),
            ("name: a\njobType: ftp\n", "jobs.yaml:2:10: jobType: invalid value: string \"ftp\", expected one of http"),
            ("name: a\nstartDate: soon\n", "jobs.yaml:2:12: startDate: invalid value: string \"soon\""),
            ("name: 5\n", "jobs.yaml:1:7: name: invalid type: "),
            ("name: a\nname: b\n", "jobs.yaml:2:1: the key \"name\" stands twice"),
            ("- name: a\n- just text\n", "jobs.yaml:2:3: a definition must be a mapping"),
            ("name: [a\n", "jobs.yaml:"),
        ] {
            let found = jobs(text).unwrap_err();
            assert!(found.starts_with(error), "{text:?}: {found}");
        }
    }

    #[test]
    fn errors_in_json_are_placed_as_well() {
        let parse = |text: &str| DefinitionFile::parse("job.json", text).and_then(|f| f.messages::<CreateJobRequest>());
        for (text, error) in [
            ("{\"name\": \"a\",\n  \"cron\": 1}", "job.json:2:11: unknown field `cron`"),
            ("{\"name\": \"a\",\n  \"config\": {\"a\": 1, \"a\": 2}}", "job.json:2:27: the key \"a\" stands twice"),
            ("{\"name\": \"a\",}", "job.json:1:14: "),
            ("name: a", "job.json:1:2: "),
        ] {
            let found = parse(text).unwrap_err().message;
            assert!(found.starts_with(error), "{text:?}: {found}");
        }
    }

    #[test]
    fn a_job_that_was_read_can_be_sent_back() {
        let text = r#"{"id": "x", "name": "a", "status": "active", "version": 4, "executionCount": 9, "nextExecutionAt": null}"#;
        let update: UpdateJobRequest = DefinitionFile::parse("stdin", text).unwrap().single().unwrap();
        assert_eq!((update.version, update.execution_count), (Some(4), Some(9)));
    }

    #[test]
    fn any_file_is_read_or_refused_with_its_place() {
        const PIECES: [&str; 28] = [
            "name", "config", "a", ": ", ":", "\n", "\n  ", "- ", "-", "[", "]", "{", "}", ", ", "\"", "'", "&a ",
            "*a", "<<: *a", "|\n", "!!int ", "---\n", "# ", "1e999", "1.50", "\\u00", "\t", "\u{feff}",
        ];
        proptest!(ProptestConfig::with_cases(2_000), |(pieces: Vec<u8>, text: String)| {
            let made: String = pieces.iter().map(|byte| PIECES[usize::from(*byte) % PIECES.len()]).collect();
            for text in [&made, &text] {
                match jobs(text) {
                    Ok(read) => assert!(!read.is_empty()),
                    Err(message) => assert!(message.starts_with("jobs.yaml"), "{text:?}: {message}"),
                }
            }
        });
    }

    #[test]
    fn one_definition_is_one() {
        let two = DefinitionFile::parse("jobs.yaml", "- name: a\n- name: b\n").unwrap();
        assert!(two.single::<CreateJobRequest>().unwrap_err().message.contains("holds 2 definitions"));
    }
}
