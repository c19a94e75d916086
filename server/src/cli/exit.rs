//! How the command line ends: exit codes that scripts can trust, and errors as people and programs read them.

use std::collections::BTreeMap;
use std::io;
use std::process::ExitCode;

use serde::Serialize;
use tonic::Code;

use super::connect;

/// What a command ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: done; also where the reader of the output went away.
    Ok,
    /// 1: the server refused the call, or what was waited for failed.
    Failed,
    /// 2: bad usage or invalid input.
    Invalid,
    /// 3: there is no such thing.
    NotFound,
    /// 4: a name taken, a version passed, a state that does not allow it.
    Conflict,
    /// 5: no credentials, or not sufficient ones.
    Denied,
    /// 6: the server cannot be reached.
    Unreachable,
    /// 130: Ctrl-C.
    Interrupted,
}

impl Exit {
    /// The number that the shell sees.
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Invalid => 2,
            Self::NotFound => 3,
            Self::Conflict => 4,
            Self::Denied => 5,
            Self::Unreachable => 6,
            Self::Interrupted => 130,
        }
    }

    /// What an error of a call means. The documented code decides, then the gRPC code that carried it.
    fn of(code: &str, grpc: Code) -> Self {
        if code.starts_with("INVALID_") {
            return Self::Invalid;
        }
        if code.ends_with("_NOT_FOUND") {
            return Self::NotFound;
        }
        match grpc {
            Code::InvalidArgument | Code::OutOfRange => Self::Invalid,
            Code::NotFound => Self::NotFound,
            Code::AlreadyExists | Code::Aborted | Code::FailedPrecondition => Self::Conflict,
            Code::Unauthenticated | Code::PermissionDenied => Self::Denied,
            // With a code of its own the server has answered: then it is something behind it that is away.
            Code::Unavailable if code == "UNAVAILABLE" => Self::Unreachable,
            Code::DeadlineExceeded if code == "DEADLINE_EXCEEDED" => Self::Unreachable,
            _ => Self::Failed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    pub exit: Exit,
    /// Such as JOB_NOT_FOUND.
    pub code: String,
    pub message: String,
    /// What is wrong, field by field.
    pub fields: Vec<Field>,
    pub details: BTreeMap<String, String>,
}

/// One field that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Field {
    /// In JSON spelling, such as `config.url`.
    pub field: String,
    pub code: String,
    pub message: String,
}

impl Failure {
    /// A failure with its code and message.
    pub fn new(exit: Exit, code: &str, message: impl Into<String>) -> Self {
        let details = BTreeMap::new();
        Self { exit, code: code.to_owned(), message: message.into(), fields: Vec::new(), details }
    }

    /// Input that cannot be used; exit code 2.
    pub fn invalid(code: &str, message: impl Into<String>) -> Self {
        Self::new(Exit::Invalid, code, message)
    }

    /// Fields that were refused; exit code 2.
    pub fn fields(fields: Vec<Field>) -> Self {
        let code = fields.first().map_or("INVALID_ARGUMENT", |field| field.code.as_str());
        let mut failure = Self::invalid(code, String::new());
        failure.message = headline(fields.len());
        failure.fields = fields;
        failure
    }

    /// Where nobody answered, with the address that was tried.
    #[must_use]
    pub fn of_server(mut self, server: &str) -> Self {
        // What tonic makes of an answer in plain HTTP: that of the port beside, most likely.
        let is_no_grpc = self.code == "INTERNAL" && self.message.contains("while receiving response with status");
        if is_no_grpc {
            let message = format!(
                "{server} answers, but not in gRPC; give its gRPC address by --server, port 50051 where it is the default"
            );
            return Self { details: self.details, ..Self::new(Exit::Unreachable, "UNAVAILABLE", message) };
        }
        if self.exit == Exit::Unreachable {
            let is_plain = self.message.contains("InvalidContentType");
            let hint = if is_plain { "it does not speak TLS: use http://" } else { "see --server" };
            self.message = format!("{server} cannot be reached: {}; {hint}", self.message);
        }
        self
    }

    /// Ctrl-C.
    pub fn interrupted() -> Self {
        Self::new(Exit::Interrupted, "INTERRUPTED", "interrupted")
    }

    /// Writes it to stderr, unless it is the end of a pipe, which is no error of anybody's.
    pub fn report(&self, json: bool) {
        if self.exit == Exit::Ok {
            return;
        }
        // Where stderr is gone there is nobody left to tell.
        let _ = io::Write::write_all(&mut io::stderr(), self.text(json).as_bytes());
    }

    /// As it is written: `error[CODE]: message` and a line for each field, or one JSON object.
    pub fn text(&self, json: bool) -> String {
        if json {
            return format!("{}\n", self.json());
        }
        let mut text = format!("error[{}]: {}\n", self.code, self.message);
        for field in &self.fields {
            text.push_str(&format!("  {}: {}\n", field.field, field.message));
        }
        text
    }

    fn json(&self) -> serde_json::Value {
        let mut details = serde_json::Map::new();
        for (name, value) in &self.details {
            details.insert(name.clone(), value.clone().into());
        }
        if !self.fields.is_empty() {
            details.insert("fields".into(), serde_json::json!(self.fields));
        }
        let error = serde_json::json!({"code": self.code, "message": self.message, "details": details});
        serde_json::json!({"error": error, "exitCode": self.exit.code()})
    }
}

fn headline(count: usize) -> String {
    match count {
        1 => "one field is not valid".to_owned(),
        count => format!("{count} fields are not valid"),
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(Exit::Ok, "BROKEN_PIPE", "nobody reads the output any more"),
            _ => Self::new(Exit::Failed, "OUTPUT_FAILED", format!("the output cannot be written: {error}")),
        }
    }
}

impl From<connect::Error> for Failure {
    fn from(error: connect::Error) -> Self {
        let fields: Vec<Field> = error
            .violations()
            .iter()
            .map(|violation| {
                let (code, message) = split_code(&violation.code, &violation.message);
                Field { field: violation.field.clone(), code, message }
            })
            .collect();
        // The server's sentence for wrong fields is the fields again: they are shown line by line.
        let repeats = fields.iter().all(|field| error.message().contains(&field.message));
        let message = match fields.len() {
            0 => error.message().to_owned(),
            count if repeats => headline(count),
            _ => error.message().to_owned(),
        };
        let details = error.metadata().iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        Self {
            exit: Exit::of(error.code(), error.grpc_code()),
            code: error.code().to_owned(),
            message,
            fields,
            details,
        }
    }
}

/// The code of a field stands in a place of its own, or before its message as `CODE: message`.
fn split_code(code: &str, message: &str) -> (String, String) {
    if code.is_empty()
        && let Some((before, after)) = message.split_once(": ")
        && !before.is_empty()
        && before.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
    {
        return (before.to_owned(), after.to_owned());
    }
    (code.to_owned(), message.to_owned())
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;
    use crate::error::{Error, FieldProblem, Kind};

    fn exit_of(error: Error) -> Exit {
        Failure::from(connect::Error::from(Status::from(error))).exit
    }

    #[test]
    fn what_the_server_says_decides_the_exit_code() {
        assert_eq!(exit_of(Error::job_not_found("x")), Exit::NotFound);
        assert_eq!(exit_of(Error::field("INVALID_CRON_EXPRESSION", "cronExpression", "no")), Exit::Invalid);
        assert_eq!(exit_of(Error::new(Kind::Exists, "JOB_NAME_TAKEN", "no")), Exit::Conflict);
        assert_eq!(exit_of(Error::new(Kind::Conflict, "JOB_ALREADY_RUNNING", "no")), Exit::Conflict);
        assert_eq!(exit_of(Error::new(Kind::Unauthenticated, "UNAUTHENTICATED", "no")), Exit::Denied);
        assert_eq!(exit_of(Error::new(Kind::Denied, "PERMISSION_DENIED", "no")), Exit::Denied);
        assert_eq!(exit_of(Error::new(Kind::Exhausted, "QUOTA_EXCEEDED", "no")), Exit::Failed);
        assert_eq!(exit_of(Error::new(Kind::Internal, "INTERNAL_ERROR", "no")), Exit::Failed);
    }

    #[test]
    fn a_server_without_its_database_was_reached_all_the_same() {
        assert_eq!(exit_of(Error::new(Kind::Unavailable, "DATABASE_UNAVAILABLE", "no")), Exit::Failed);
        let refused = Failure::from(connect::Error::from(Status::unavailable("connection refused")));
        assert_eq!(refused.exit, Exit::Unreachable);
    }

    #[test]
    fn a_wrong_port_is_told() {
        let of = |status: Status| Failure::from(connect::Error::from(status)).of_server("http://x:3009");
        let http = of(Status::internal(
            "protocol error: received message with invalid compression flag: 123 (valid flags are 0 and 1) while \
             receiving response with status: 404 Not Found",
        ));
        assert_eq!((http.exit, http.code.as_str()), (Exit::Unreachable, "UNAVAILABLE"));
        assert!(http.message.contains("50051") && http.message.contains("http://x:3009"), "{}", http.message);
        let plain = of(Status::unavailable("received corrupt message of type InvalidContentType"));
        assert!(plain.message.ends_with("use http://"), "{}", plain.message);
    }

    #[test]
    fn wrong_fields_are_shown_one_a_line() {
        let problem = |field: &str, message: &str| FieldProblem {
            field: field.into(),
            code: "INVALID_JOB_CONFIG",
            message: message.into(),
        };
        let error = Error::fields(vec![problem("config.url", "is no URL: mend it"), problem("name", "is empty")]);
        let failure = Failure::from(connect::Error::from(Status::from(error)));
        assert_eq!(
            failure.text(false),
            "error[INVALID_JOB_CONFIG]: 2 fields are not valid\n  config.url: is no URL: mend it\n  name: is empty\n"
        );
        assert_eq!(failure.fields[0].code, "INVALID_JOB_CONFIG");
        let json: serde_json::Value = serde_json::from_str(&failure.text(true)).unwrap();
        assert_eq!(json["error"]["details"]["fields"][0]["field"], "config.url");
        assert_eq!(json["exitCode"], 2);
    }

    #[test]
    fn details_reach_programs() {
        let error = Error::new(Kind::Conflict, "VERSION_CONFLICT", "passed").with("currentVersion", 7);
        let failure = Failure::from(connect::Error::from(Status::from(error)));
        let json: serde_json::Value = serde_json::from_str(&failure.text(true)).unwrap();
        assert_eq!(json["error"]["details"]["currentVersion"], "7");
        assert_eq!(failure.text(false), "error[VERSION_CONFLICT]: passed\n");
    }

    #[test]
    fn the_end_of_a_pipe_is_no_failure() {
        assert_eq!(Failure::from(io::Error::from(io::ErrorKind::BrokenPipe)).exit.code(), 0);
    }
}
