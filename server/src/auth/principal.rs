//! Who makes a call, and from where.

use std::net::IpAddr;

use uuid::Uuid;

use super::{DEFAULT_TENANT, PERMISSIONS, Permissions};
use crate::error::{Error, Kind as ErrorKind};

/// Who makes a call.
#[derive(Clone, Debug, PartialEq)]
pub struct Principal {
    pub kind: Kind,
    /// `None`: the deployment itself, for agents that serve all tenants.
    pub tenant_id: Option<Uuid>,
    pub subject: Uuid,
    /// For people and logs.
    pub name: String,
    /// Names of roles that its token or its user has.
    pub roles: Vec<String>,
    /// What it may do in its whole tenant.
    pub permissions: Permissions,
    /// What it may do beside with jobs that have a tag, by the tag.
    pub tagged: Vec<Tagged>,
}

/// What somebody may do with jobs that have a tag, their executions, logs and dead letters.
#[derive(Clone, Debug, PartialEq)]
pub struct Tagged {
    pub tag: String,
    pub permissions: Permissions,
}

/// By what a caller is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A person, or a program in the place of one: by a token.
    User,
    /// A program, by an API key.
    Key,
    /// A sibling service, by the token that services share.
    Service,
    /// An agent, by its certificate.
    Agent,
    /// Somebody on this host, in development.
    Developer,
    /// Somebody who works on the database, by a command on a host that reaches it.
    Operator,
}

impl Kind {
    /// As it is written where callers are recorded.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Key => "key",
            Self::Service => "service",
            Self::Agent => "agent",
            Self::Developer => "developer",
            Self::Operator => "operator",
        }
    }
}

/// Where a call comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The caller's address, IPv4 in its own form.
    pub address: Option<IpAddr>,
    /// The `x-request-id` of the call; empty where it has none.
    pub request_id: String,
}

impl Principal {
    /// The tenant whose rows the caller sees.
    pub fn tenant(&self) -> Uuid {
        self.tenant_id.unwrap_or(DEFAULT_TENANT)
    }

    /// Whether it may do `permission` with a job that has these tags, or with something of it.
    pub fn may_of(&self, permission: &str, tags: &[String]) -> bool {
        let by_tag = |tagged: &Tagged| tagged.permissions.allow(permission) && tags.contains(&tagged.tag);
        self.permissions.allow(permission) || self.tagged.iter().any(by_tag)
    }

    /// Fails where it may not do `permission` (`resource:action`) in its whole tenant.
    ///
    /// # Errors
    /// PERMISSION_DENIED.
    pub fn needs(&self, permission: &str) -> Result<(), Error> {
        debug_assert!(PERMISSIONS.contains(&permission), "{permission} is not listed: it can be given to nobody");
        if self.permissions.allow(permission) {
            return Ok(());
        }
        let message = format!("{permission} is needed, and {} does not have it", self.name);
        Err(Error::new(ErrorKind::Denied, "PERMISSION_DENIED", message))
    }
}
