//! From the names that a caller comes with to what it may do, and whether it may give that to others.

use super::{Permissions, Principal, role};
use crate::error::{Error, Kind};

/// What permissions and roles allow together. Who names neither may do nothing, and neither does a role that there is not.
pub(super) fn permissions(named: Option<Vec<String>>, roles: &[String]) -> Permissions {
    let mut named = named.unwrap_or_default();
    named.extend(roles.iter().filter_map(|name| role::built_in(name)).flat_map(role::BuiltIn::permissions));
    if named.iter().any(|permission| permission == "*") {
        return Permissions::All;
    }
    named.sort_unstable();
    named.dedup();
    Permissions::Only(named)
}

/// Refuses to give others permissions that the giver does not have.
///
/// # Errors
/// PERMISSION_DENIED with the first one that is missing.
pub(crate) fn may_give(giver: &Principal, permissions: &[String]) -> Result<(), Error> {
    match permissions.iter().find(|permission| !gives(giver, permission)) {
        None => Ok(()),
        Some(missing) => {
            let message = format!("{} cannot give {missing}, which it does not have", giver.name);
            Err(Error::new(Kind::Denied, "PERMISSION_DENIED", message))
        }
    }
}

/// Refuses to give others roles that allow more than the giver may do. What a role allows is asked of [`permissions`].
///
/// # Errors
/// PERMISSION_DENIED with the first one that is too much.
pub(crate) fn may_give_roles(giver: &Principal, roles: &[String]) -> Result<(), Error> {
    let too_much = |role: &&String| match permissions(None, std::slice::from_ref(*role)) {
        Permissions::All => giver.permissions != Permissions::All,
        Permissions::Only(named) => named.iter().any(|permission| !gives(giver, permission)),
    };
    match roles.iter().find(too_much) {
        None => Ok(()),
        Some(role) => {
            let message =
                format!("{} cannot give the role {role}, which allows more than it may do itself", giver.name);
            Err(Error::new(Kind::Denied, "PERMISSION_DENIED", message))
        }
    }
}

fn gives(giver: &Principal, permission: &str) -> bool {
    if permission == "*" { giver.permissions == Permissions::All } else { giver.permissions.allow(permission) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only(permissions: &[&str]) -> Permissions {
        Permissions::Only(permissions.iter().map(ToString::to_string).collect())
    }

    fn named(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn who_names_nothing_may_do_nothing() {
        assert_eq!(permissions(None, &[]), only(&[]));
        assert_eq!(permissions(None, &named(&["guest"])), only(&[]));
        assert_eq!(permissions(Some(named(&["jobs:read"])), &[]), only(&["jobs:read"]));
        assert_eq!(permissions(Some(named(&["*"])), &[]), Permissions::All);
        assert_eq!(permissions(Some(vec![]), &named(&["admin"])), Permissions::All);
        let both = permissions(Some(named(&["jobs:read", "keys:read"])), &named(&["viewer", "guest"]));
        assert_eq!(both, only(&["executions:read", "jobs:read", "keys:read", "logs:read", "scheduler:read"]));
    }

    #[test]
    fn nobody_gives_more_than_there_is() {
        let mut giver = super::super::Principal {
            kind: super::super::PrincipalKind::User,
            tenant_id: None,
            subject: uuid::Uuid::nil(),
            name: "anna".into(),
            roles: vec![],
            permissions: only(&["keys:write", "jobs:read"]),
        };
        may_give(&giver, &named(&["jobs:read"])).unwrap();
        for more in ["jobs:create", "*"] {
            assert_eq!(may_give(&giver, &named(&["jobs:read", more])).unwrap_err().code, "PERMISSION_DENIED");
        }
        assert_eq!(may_give_roles(&giver, &named(&["admin"])).unwrap_err().code, "PERMISSION_DENIED");
        giver.permissions = Permissions::All;
        may_give(&giver, &named(&["*"])).unwrap();
        may_give_roles(&giver, &named(&["admin"])).unwrap();
    }
}
