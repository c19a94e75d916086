use std::error::Error;
use std::fmt;

use orrery_proto::v1::ErrorType;

use crate::executor::Failure;

/// Why a function failed. Any error turns into one by `?`; it then counts as USER_ERROR, which is not retried by default.
pub struct FunctionError {
    /// For people.
    pub message: String,
    /// A stack trace, or the chain of causes.
    pub stack: String,
    /// Decides, with the job's retry policy, whether the attempt is repeated.
    pub error_type: ErrorType,
    /// Overrides the policy, where set.
    pub retryable: Option<bool>,
}

impl FunctionError {
    /// A failure of the work itself.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), stack: String::new(), error_type: ErrorType::UserError, retryable: None }
    }

    /// The same failure of another type.
    #[must_use]
    pub fn with_type(mut self, error_type: ErrorType) -> Self {
        self.error_type = error_type;
        self
    }

    /// The same failure, to be retried or not whatever the policy says.
    #[must_use]
    pub fn retryable(mut self, retryable: bool) -> Self {
        self.retryable = Some(retryable);
        self
    }
}

/// No `std::error::Error` itself: it could not be made from every error then.
impl<E: Error> From<E> for FunctionError {
    fn from(error: E) -> Self {
        let mut stack = String::new();
        let mut cause = error.source();
        while let Some(inner) = cause {
            stack.push_str(&format!("caused by: {inner}\n"));
            cause = inner.source();
        }
        Self { stack, ..Self::new(error.to_string()) }
    }
}

impl From<FunctionError> for Failure {
    fn from(error: FunctionError) -> Self {
        let FunctionError { message, stack, error_type, retryable } = error;
        Self { error_type, message, stack, retryable }
    }
}

impl fmt::Debug for FunctionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.error_type.as_json_str(), self.message)
    }
}
