//! Who makes the call being served, and of which jobs.

use std::ops::Deref;

use super::Principal;
use crate::error::{Error, FieldProblem, Kind};

/// What of the tenant's a call may be about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// All that the tenant has.
    Everything,
    /// Jobs with one of these tags, and what is of them. The permission it is for.
    Tags { tags: Vec<String>, permission: &'static str },
}

/// Who makes a call that the layer has let pass.
#[derive(Clone, Debug)]
pub struct Caller {
    principal: Principal,
    reach: Reach,
}

impl Deref for Caller {
    type Target = Principal;

    fn deref(&self) -> &Principal {
        &self.principal
    }
}

impl Caller {
    /// A caller whose call may be about what `reach` says.
    pub(super) fn new(principal: Principal, reach: Reach) -> Self {
        Self { principal, reach }
    }

    /// The caller, whatever it may do.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// The tags of the jobs that the call may be about; `None` where it may be about all. A list shows no others.
    pub fn tags(&self) -> Option<&[String]> {
        match &self.reach {
            Reach::Everything => None,
            Reach::Tags { tags, .. } => Some(tags),
        }
    }

    /// Lets the call be about a job with these tags, or about something of it. `sees` is the permission by which it is seen.
    ///
    /// # Errors
    /// `not_found` where the caller may not even see it; PERMISSION_DENIED where it may.
    pub fn may_touch(&self, job: &[String], sees: &str, not_found: impl FnOnce() -> Error) -> Result<(), Error> {
        let Reach::Tags { tags, permission } = &self.reach else { return Ok(()) };
        if job.iter().any(|tag| tags.contains(tag)) {
            return Ok(());
        }
        if !self.principal.may_of(sees, job) {
            return Err(not_found());
        }
        Err(self.denied(permission, tags))
    }

    /// Lets a job be defined with these tags. `prefix` stands before the name of the field.
    ///
    /// # Errors
    /// PERMISSION_DENIED where none of them is one that the caller has the call's permission for.
    pub fn may_define(&self, job: &[String], prefix: &str) -> Result<(), Error> {
        let Reach::Tags { tags, permission } = &self.reach else { return Ok(()) };
        if job.iter().any(|tag| tags.contains(tag)) {
            return Ok(());
        }
        let field = format!("{prefix}tags");
        let message = format!("give one of {}", tags.join(", "));
        let denied = self.denied(permission, tags);
        let problem =
            FieldProblem { field, code: "PERMISSION_DENIED", message: format!("{message}: {}", denied.message) };
        Err(Error { kind: Kind::Denied, ..Error::fields(vec![problem]) })
    }

    fn denied(&self, permission: &str, tags: &[String]) -> Error {
        let name = &self.principal.name;
        let message =
            format!("{permission} is needed, which {name} has only for jobs with the tag {}", tags.join(" or "));
        Error::new(Kind::Denied, "PERMISSION_DENIED", message)
    }
}

#[cfg(test)]
mod tests {
    use super::super::principal::Tagged;
    use super::super::{Permissions, PrincipalKind};
    use super::*;

    fn tags(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    fn caller() -> Caller {
        let only = |names: &[&str]| Permissions::Only(tags(names));
        let principal = Principal {
            kind: PrincipalKind::User,
            tenant_id: None,
            subject: uuid::Uuid::nil(),
            name: "anna".into(),
            roles: vec![],
            permissions: only(&[]),
            tagged: vec![
                Tagged { tag: "a".into(), permissions: only(&["jobs:read", "jobs:update"]) },
                Tagged { tag: "b".into(), permissions: only(&["jobs:read"]) },
            ],
        };
        Caller::new(principal, Reach::Tags { tags: tags(&["a"]), permission: "jobs:update" })
    }

    #[test]
    fn what_is_not_seen_is_not_there_and_what_is_seen_is_denied() {
        let touch = |job: &[&str]| {
            caller().may_touch(&tags(job), "jobs:read", || Error::job_not_found(1)).map_err(|error| error.code)
        };
        assert_eq!(touch(&["x", "a"]), Ok(()));
        assert_eq!(touch(&["b"]), Err("PERMISSION_DENIED"));
        for unseen in [&["x"][..], &[], &["A"], &["a "]] {
            assert_eq!(touch(unseen), Err("JOB_NOT_FOUND"), "{unseen:?}");
        }
    }

    #[test]
    fn a_definition_keeps_a_tag_that_its_caller_may_write() {
        caller().may_define(&tags(&["b", "a"]), "").unwrap();
        for bad in [&["b"][..], &[]] {
            let error = caller().may_define(&tags(bad), "jobs[0].").unwrap_err();
            assert_eq!(
                (error.kind, error.code, error.fields[0].field.as_str()),
                (Kind::Denied, "PERMISSION_DENIED", "jobs[0].tags")
            );
        }
    }
}
