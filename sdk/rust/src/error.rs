use std::collections::HashMap;
use std::fmt;

use tonic::{Code, Status};
use tonic_types::StatusExt;

/// What a call failed with.
#[derive(Clone, Debug)]
pub struct Error(Box<Inner>);

#[derive(Clone, Debug)]
struct Inner {
    code: String,
    grpc_code: Code,
    message: String,
    violations: Vec<FieldViolation>,
    metadata: HashMap<String, String>,
}

/// One field that a call was refused for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldViolation {
    /// The field, in JSON spelling, such as `config.url`.
    pub field: String,
    /// The documented code, such as INVALID_CRON_EXPRESSION; empty where the server gave none.
    pub code: String,
    /// What is wrong and how to mend it.
    pub message: String,
}

impl Error {
    /// The documented code, such as JOB_NOT_FOUND. Where the server gave none (a proxy in between did, or nobody answered) it is the
    /// name of the gRPC code, such as UNAVAILABLE.
    pub fn code(&self) -> &str {
        &self.0.code
    }

    /// The gRPC code that carried it.
    pub fn grpc_code(&self) -> Code {
        self.0.grpc_code
    }

    /// The sentence for people.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The fields that were refused, where the call failed on them.
    pub fn violations(&self) -> &[FieldViolation] {
        &self.0.violations
    }

    /// What else the server said about it, by name, such as the version that was passed.
    pub fn metadata(&self) -> &HashMap<String, String> {
        &self.0.metadata
    }

    /// Whether the same call may succeed later without any change: nobody answered, or not in time, or too many asked.
    pub fn is_transient(&self) -> bool {
        matches!(self.0.grpc_code, Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Aborted)
    }

    pub(crate) fn local(code: &str, grpc_code: Code, message: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            code: code.to_owned(),
            grpc_code,
            message: message.into(),
            violations: Vec::new(),
            metadata: HashMap::new(),
        }))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code, self.0.message)?;
        for violation in &self.0.violations {
            write!(f, "; {}: {}", violation.field, violation.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let info = details.error_info();
        let violations = details.bad_request().map(|bad| bad.field_violations.as_slice()).unwrap_or_default();
        Self(Box::new(Inner {
            code: info.map(|i| i.reason.clone()).filter(|r| !r.is_empty()).unwrap_or_else(|| code_name(status.code())),
            grpc_code: status.code(),
            message: describe(&status),
            violations: violations
                .iter()
                .map(|v| FieldViolation {
                    field: v.field.clone(),
                    code: v.reason.clone(),
                    message: v.description.clone(),
                })
                .collect(),
            metadata: info.map(|i| i.metadata.clone()).unwrap_or_default(),
        }))
    }
}

/// The status' sentence; where the transport failed, with the innermost cause, since tonic's own says only "transport error".
pub(crate) fn describe(status: &Status) -> String {
    let mut cause = std::error::Error::source(status);
    let mut innermost = None;
    while let Some(inner) = cause {
        innermost = Some(inner.to_string());
        cause = inner.source();
    }
    match innermost {
        Some(inner) if !status.message().contains(&inner) => format!("{}: {inner}", status.message()),
        _ => status.message().to_owned(),
    }
}

/// `NotFound` is NOT_FOUND.
pub(crate) fn code_name(code: Code) -> String {
    let mut name = String::new();
    for c in format!("{code:?}").chars() {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_uppercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use tonic_types::{ErrorDetails, FieldViolation as Violation};

    use super::*;

    #[test]
    fn the_documented_code_comes_from_the_details() {
        let mut details = ErrorDetails::with_error_info("INVALID_JOB_CONFIG", "orrery", [("index".into(), "3".into())]);
        details.set_bad_request(vec![Violation {
            field: "config.url".into(),
            description: "is no URL".into(),
            reason: "INVALID_JOB_CONFIG".into(),
            localized_message: None,
        }]);
        let error = Error::from(Status::with_error_details(Code::InvalidArgument, "the job is not valid", details));
        assert_eq!(error.code(), "INVALID_JOB_CONFIG");
        assert_eq!(error.violations()[0].field, "config.url");
        assert_eq!(error.metadata()["index"], "3");
        assert_eq!(error.to_string(), "INVALID_JOB_CONFIG: the job is not valid; config.url: is no URL");
    }

    #[test]
    fn without_details_the_grpc_code_stands_in() {
        let error = Error::from(Status::failed_precondition("no"));
        assert_eq!(error.code(), "FAILED_PRECONDITION");
        assert!(!error.is_transient());
        assert!(Error::from(Status::unavailable("gone")).is_transient());
    }
}
