//! What callers are told when something is wrong, with the documented codes. The one place where errors become a gRPC status.

use std::collections::BTreeMap;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::limiter::RETRY_AFTER;
use crate::store::StoreError;

/// The domain of our codes in `google.rpc.ErrorInfo`.
pub const DOMAIN: &str = "orrery";

/// An error that a caller is told of. `code` is stable and documented; `message` names the field and the fix.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    pub kind: Kind,
    /// Such as INVALID_CRON_EXPRESSION.
    pub code: &'static str,
    pub message: String,
    /// What is wrong, field by field, where it is a request that is wrong.
    pub fields: Vec<FieldProblem>,
    /// More, by name, such as `currentVersion`.
    pub details: BTreeMap<String, String>,
}

/// What sort of thing went wrong; decides the gRPC code and with it the HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 400
    Invalid,
    /// 401
    Unauthenticated,
    /// 403
    Denied,
    /// 404
    NotFound,
    /// 409: a name taken.
    Exists,
    /// 409: a version passed, a job already running, a state that does not allow it.
    Conflict,
    /// 429
    Exhausted,
    /// 503
    Unavailable,
    /// 500
    Internal,
    /// 501
    Unimplemented,
}

/// One field that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldProblem {
    /// In JSON spelling, such as `config.url`.
    pub field: String,
    pub code: &'static str,
    /// What is wrong and how to mend it.
    pub message: String,
}

impl Error {
    /// An error of a kind, with its code and message.
    pub fn new(kind: Kind, code: &'static str, message: impl Into<String>) -> Self {
        Self { kind, code, message: message.into(), fields: Vec::new(), details: BTreeMap::new() }
    }

    /// One field is wrong.
    pub fn field(code: &'static str, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::fields(vec![FieldProblem { field: field.into(), code, message: message.into() }])
    }

    /// Fields are wrong; the first one gives the code.
    pub fn fields(fields: Vec<FieldProblem>) -> Self {
        let code = fields.first().map_or("INVALID_ARGUMENT", |first| first.code);
        let message = listed(&fields);
        Self { fields, ..Self::new(Kind::Invalid, code, message) }
    }

    /// There is no such job (of the caller's tenant).
    pub fn job_not_found(id: impl std::fmt::Display) -> Self {
        Self::new(Kind::NotFound, "JOB_NOT_FOUND", format!("there is no job {id}"))
    }

    /// There is no such execution (of the caller's tenant).
    pub fn execution_not_found(id: impl std::fmt::Display) -> Self {
        Self::new(Kind::NotFound, "EXECUTION_NOT_FOUND", format!("there is no execution {id}"))
    }

    /// There is no such dead letter (of the caller's tenant).
    pub fn dead_letter_not_found(execution: impl std::fmt::Display) -> Self {
        let message = format!("there is no dead letter of execution {execution}; orrery dead-letter list shows them");
        Self::new(Kind::NotFound, "DEAD_LETTER_NOT_FOUND", message)
    }

    /// Another user of the tenant has this name.
    pub fn user_name_taken(name: &str) -> Self {
        let message = format!("name: another user of this tenant is called {name}; choose another name");
        Self::new(Kind::Exists, "USER_NAME_TAKEN", message)
    }

    /// There is no such tenant (that the caller may see).
    pub fn tenant_not_found(id: impl std::fmt::Display) -> Self {
        Self::new(Kind::NotFound, "TENANT_NOT_FOUND", format!("there is no tenant {id}"))
    }

    /// Another tenant has this name.
    pub fn tenant_name_taken(name: &str) -> Self {
        let message = format!("name: another tenant is called {name}; choose another name");
        Self::new(Kind::Exists, "TENANT_NAME_TAKEN", message)
    }

    /// The tenant is there already.
    pub fn tenant_exists(id: impl std::fmt::Display) -> Self {
        Self::new(Kind::Exists, "TENANT_EXISTS", format!("id: there is a tenant {id} already; update it"))
    }

    /// The tenant is suspended: nothing new of it is done.
    pub fn tenant_suspended(reason: &str) -> Self {
        let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
        let message = format!("the tenant is suspended{why}; whoever administers the deployment may resume it");
        Self::new(Kind::Denied, "TENANT_SUSPENDED", message)
    }

    /// A user is to have roles that there are not.
    pub fn no_such_roles(names: &[String]) -> Self {
        let message = format!("there is no role {}; orrery role list shows them", names.join(", "));
        Self::field("INVALID_ROLE", "roles", message)
    }

    /// Another role of the tenant has this name.
    pub fn role_name_taken(name: &str) -> Self {
        let message = format!("name: another role of this tenant is called {name}; choose another name");
        Self::new(Kind::Exists, "ROLE_NAME_TAKEN", message)
    }

    /// A dead letter that has been released is not discarded.
    pub fn dead_letter_released(execution: impl std::fmt::Display, run: impl std::fmt::Display) -> Self {
        let message = format!("the dead letter of execution {execution} was released as execution {run}");
        Self::new(Kind::Conflict, "DEAD_LETTER_RELEASED", message).with("releasedAs", run)
    }

    /// A dead letter that has been discarded is not released.
    pub fn dead_letter_discarded(execution: impl std::fmt::Display) -> Self {
        let message = format!(
            "the dead letter of execution {execution} was discarded; retry the execution to run it all the same"
        );
        Self::new(Kind::Conflict, "DEAD_LETTER_DISCARDED", message)
    }

    /// Says under which item of the request the fields stand, such as `jobs[3]`.
    #[must_use]
    pub fn under(mut self, item: &str) -> Self {
        for problem in &mut self.fields {
            problem.field = format!("{item}.{}", problem.field);
        }
        if self.fields.is_empty() {
            self.message = format!("{item}: {}", self.message);
        } else {
            self.message = listed(&self.fields);
        }
        self
    }

    /// Adds a detail.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.details.insert(name.to_owned(), value.to_string());
        self
    }
}

fn listed(fields: &[FieldProblem]) -> String {
    fields.iter().map(|f| format!("{}: {}", f.field, f.message)).collect::<Vec<_>>().join("; ")
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Refused(reason) => *reason,
            StoreError::TriggerRefused { index, reason, .. } => reason.with("index", index),
            StoreError::NotFound => Self::new(Kind::NotFound, "NOT_FOUND", "there is nothing of that id"),
            StoreError::NameTaken { index } => {
                Self::new(Kind::Exists, "JOB_NAME_TAKEN", "name: another job of this tenant has it; choose another one")
                    .with("index", index)
            }
            StoreError::QuotaExceeded { limit, current } => {
                let message = format!(
                    "the tenant may have {limit} jobs and has {current}; delete some, or have maxJobs of the tenant raised, or MAX_JOBS_PER_TENANT"
                );
                Self::new(Kind::Exhausted, "QUOTA_EXCEEDED", message).with("limit", limit).with("current", current)
            }
            StoreError::IdempotencyKeyReused { index } => {
                let message = "idempotencyKey: it was used with another request; use a new key for a new request";
                Self::new(Kind::Conflict, "IDEMPOTENCY_KEY_REUSED", message).with("index", index)
            }
            StoreError::Unavailable(source) => {
                tracing::warn!(error = %source, "the database is unavailable");
                Self::new(Kind::Unavailable, "DATABASE_UNAVAILABLE", "the database is unavailable; try again")
            }
            StoreError::Outrun => {
                Self::new(Kind::Unavailable, "DATABASE_UNAVAILABLE", "the database is too busy; try again")
            }
            StoreError::Unknown(source) => {
                tracing::warn!(error = %source, "the outcome of a call is not known");
                let message = "the database went away while this was being written, so that its outcome is unknown: it happened, or it did \
                    not; look, or repeat it with the same idempotency key, which makes it happen once";
                Self::new(Kind::Unavailable, "OUTCOME_UNKNOWN", message)
            }
            other => {
                tracing::error!(error = %other, source = ?std::error::Error::source(&other), "internal error");
                Self::new(Kind::Internal, "INTERNAL_ERROR", "internal error; see the server's log")
            }
        }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let code = match error.kind {
            Kind::Invalid => Code::InvalidArgument,
            Kind::Unauthenticated => Code::Unauthenticated,
            Kind::Denied => Code::PermissionDenied,
            Kind::NotFound => Code::NotFound,
            Kind::Exists => Code::AlreadyExists,
            Kind::Conflict => Code::Aborted,
            Kind::Exhausted => Code::ResourceExhausted,
            Kind::Unavailable => Code::Unavailable,
            Kind::Internal => Code::Internal,
            Kind::Unimplemented => Code::Unimplemented,
        };
        let mut details = ErrorDetails::new();
        details.set_error_info(
            error.code,
            DOMAIN,
            error.details.clone().into_iter().collect::<std::collections::HashMap<_, _>>(),
        );
        for problem in &error.fields {
            details.add_bad_request_violation(&problem.field, format!("{}: {}", problem.code, problem.message));
        }
        let retry_after = error.details.get(RETRY_AFTER).and_then(|seconds| seconds.parse().ok());
        let mut status = Status::with_error_details(code, error.message, details);
        if let Some(seconds) = retry_after {
            status.metadata_mut().insert("retry-after", seconds);
        }
        status
    }
}
