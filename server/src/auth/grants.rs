//! From the names that a caller comes with to what it may do, and whether it may give that to others.

use super::held::Holding;
use super::{Permissions, Principal, role};
use crate::error::{Error, Kind};

/// What permissions and built-in roles allow together. Who names neither may do nothing, and neither does a role that there is not. Roles that
/// tenants have made, and those that are bound to somebody, come to it in [`super::held`].
pub(super) fn permissions(named: Option<Vec<String>>, roles: &[String]) -> Permissions {
    let by_roles = roles.iter().filter_map(|name| role::built_in(name)).flat_map(role::BuiltIn::permissions);
    Permissions::of(named.unwrap_or_default().into_iter().chain(by_roles))
}

/// Refuses to give others permissions that the giver does not have, for jobs with a tag where one is given, and everywhere else where it is
/// empty. What the giver may do everywhere it may give for a tag.
///
/// # Errors
/// PERMISSION_DENIED with the first one that is missing.
pub(crate) fn may_give(giver: &Principal, permissions: &[String], tag: &str) -> Result<(), Error> {
    let Some(missing) = permissions.iter().find(|permission| !gives(giver, permission, tag)) else { return Ok(()) };
    let place = if tag.is_empty() { String::new() } else { format!(" for jobs with the tag {tag}") };
    let message = format!("{} cannot give {missing}{place}, which it does not have", giver.name);
    Err(Error::new(Kind::Denied, "PERMISSION_DENIED", message))
}

/// Refuses to give others, or to become, what may do more than the giver may.
///
/// # Errors
/// PERMISSION_DENIED with the first permission that is too much.
pub(crate) fn may_give_all(giver: &Principal, holding: &Holding) -> Result<(), Error> {
    may_give(giver, &holding.everywhere, "")?;
    holding.by_tag.iter().try_for_each(|(tag, permissions)| may_give(giver, permissions, tag))
}

fn gives(giver: &Principal, permission: &str, tag: &str) -> bool {
    let by_tag = giver.tagged.iter().filter(|tagged| !tag.is_empty() && tagged.tag == tag);
    let mut all = std::iter::once(&giver.permissions).chain(by_tag.map(|tagged| &tagged.permissions));
    all.any(|has| if permission == "*" { *has == Permissions::All } else { has.allow(permission) })
}

#[cfg(test)]
mod tests {
    use super::super::principal::Tagged;
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
        let mut giver = Principal {
            kind: super::super::PrincipalKind::User,
            tenant_id: None,
            subject: uuid::Uuid::nil(),
            name: "anna".into(),
            roles: vec![],
            permissions: only(&["keys:write", "jobs:read"]),
            tagged: vec![Tagged { tag: "mail".into(), permissions: only(&["jobs:trigger"]) }],
        };
        may_give(&giver, &named(&["jobs:read"]), "").unwrap();
        may_give(&giver, &named(&["jobs:read", "jobs:trigger"]), "mail").unwrap();
        for (more, tag) in [("jobs:create", ""), ("*", ""), ("jobs:trigger", ""), ("jobs:trigger", "x"), ("*", "mail")]
        {
            assert_eq!(
                may_give(&giver, &named(&["jobs:read", more]), tag).unwrap_err().code,
                "PERMISSION_DENIED",
                "{more}"
            );
        }
        let by_tag = [("mail".to_owned(), named(&["jobs:trigger"]))].into();
        let mut holding = Holding { everywhere: named(&["jobs:read"]), by_tag };
        may_give_all(&giver, &holding).unwrap();
        holding.by_tag.insert("x".into(), named(&["jobs:update"]));
        assert_eq!(may_give_all(&giver, &holding).unwrap_err().code, "PERMISSION_DENIED");
        giver.permissions = Permissions::All;
        may_give(&giver, &named(&["*"]), "").unwrap();
        may_give_all(&giver, &holding).unwrap();
    }
}
