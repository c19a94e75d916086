//! What a definition asks for beside the permission to save it.

use orrery_sdk::config;

use super::job_secrets::Defined;
use crate::auth::Principal;
use crate::error::{Error, FieldProblem, Kind};
use crate::job::JobSpec;

/// What of a definition its caller may not have run: a text for a shell takes `shell:run`, for a tag of the job or for the whole tenant.
pub(super) fn problem(principal: &Principal, spec: &JobSpec, prefix: &str) -> Option<FieldProblem> {
    if principal.may_of("shell:run", &spec.tags) {
        return None;
    }
    let (field, message) = config::shell_problem(spec.job_type.as_json_str(), &spec.config)?;
    Some(FieldProblem { field: format!("{prefix}{field}"), code: "PERMISSION_DENIED", message })
}

/// Lets definitions be saved whose caller may have them run.
///
/// # Errors
/// PERMISSION_DENIED with the field that asks for more.
pub(super) fn may_save(principal: &Principal, defined: &[Defined<'_>]) -> Result<(), Error> {
    match defined.iter().find_map(|(prefix, spec)| problem(principal, spec, prefix)) {
        None => Ok(()),
        Some(FieldProblem { field, code, message }) => {
            Err(Error::new(Kind::Denied, code, format!("{field}: {message}")).with("field", field))
        }
    }
}
