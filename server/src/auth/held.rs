//! What somebody may do by the roles that they have: built-in ones, and those that their tenant has made; for the whole tenant, or for jobs
//! with a tag.

use std::collections::BTreeMap;
use std::time::Duration;

use orrery_proto::v1::GranteeKind;
use uuid::Uuid;

use super::permission::Permissions;
use super::principal::{Kind, Principal, Tagged};
use super::rbac_service::{RbacService, Somebody};
use super::recent::Recent;
use super::role;
use crate::error::Error;
use crate::store::{DynStore, Granted, Grantee};

/// How long what was found is good; what is changed at another coordinator counts so much later.
const KEPT: Duration = Duration::from_secs(10);

/// All that decides what roles allow somebody.
type Asked = (Uuid, Kind, Uuid, Vec<String>);

/// What roles allow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holding {
    /// In the whole tenant; `*` is everything.
    pub(crate) everywhere: Vec<String>,
    /// For jobs with a tag, by the tag.
    pub(crate) by_tag: BTreeMap<String, Vec<String>>,
}

/// Finds what roles allow.
pub(super) struct Holdings {
    store: DynStore,
    /// Asked about people instead of the store, where there is one.
    service: Option<RbacService>,
    recent: Recent<Asked, Holding>,
}

impl Holdings {
    pub(super) fn new(store: DynStore, service: Option<RbacService>) -> Self {
        Self { store, service, recent: Recent::default() }
    }

    /// A caller with all that its roles allow beside what it came with.
    ///
    /// # Errors
    /// Where the database or the service is away: what nobody knows is allowed to nobody.
    pub(super) async fn complete(&self, mut principal: Principal) -> Result<Principal, Error> {
        let (Some(tenant), Some(kind)) = (principal.tenant_id, grantee(principal.kind)) else { return Ok(principal) };
        match (&self.service, kind) {
            (None, _) if principal.permissions == Permissions::All => return Ok(principal),
            (None, _) => {}
            // What it came with is not the service's word.
            (Some(_), GranteeKind::User) => principal.permissions = Permissions::Only(Vec::new()),
            (Some(_), _) => return Ok(principal),
        }
        let asked = (tenant, principal.kind, principal.subject, principal.roles.clone());
        let holding = match self.recent.get(&asked) {
            Some(known) => known,
            None => {
                let to = Grantee { tenant, kind, id: principal.subject, roles: &principal.roles };
                let found = self.of(&to, &principal.name).await?;
                self.recent.put(asked, found.clone(), KEPT);
                found
            }
        };
        Ok(with(principal, holding))
    }

    /// What roles allow somebody, as it stands now.
    ///
    /// # Errors
    /// The store's, or the service's.
    pub(super) async fn of(&self, to: &Grantee<'_>, name: &str) -> Result<Holding, Error> {
        match &self.service {
            None => Ok(holding(self.store.granted(to).await?)),
            Some(service) => service.of(&Somebody { tenant: to.tenant, id: to.id, name, roles: to.roles }).await,
        }
    }

    /// Those of these roles that there are not; of a service nobody knows which it has.
    ///
    /// # Errors
    /// The store's.
    pub(super) async fn unknown(&self, tenant: Uuid, roles: &[String]) -> Result<Vec<String>, Error> {
        if self.service.is_some() {
            return Ok(Vec::new());
        }
        let to = Grantee { tenant, kind: GranteeKind::User, id: Uuid::nil(), roles };
        let known: Vec<String> =
            self.store.granted(&to).await?.into_iter().filter(|g| g.permissions.is_some()).map(|g| g.role).collect();
        let unknown = roles.iter().filter(|role| role::built_in(role).is_none() && !known.contains(role));
        Ok(unknown.cloned().collect())
    }

    /// Those of these roles that the tenant has made. What a service knows is not here.
    pub(super) fn made(&self, roles: &[String]) -> Vec<String> {
        let made = roles.iter().filter(|role| self.service.is_none() && role::built_in(role).is_none());
        made.cloned().collect()
    }

    /// What is remembered of a tenant counts no more.
    pub(super) fn forget(&self, tenant: Uuid) {
        self.recent.forget(|(of, ..), _| *of == tenant);
    }
}

/// Who can have a role.
fn grantee(kind: Kind) -> Option<GranteeKind> {
    match kind {
        Kind::User => Some(GranteeKind::User),
        Kind::Key => Some(GranteeKind::Key),
        Kind::Service | Kind::Agent | Kind::Developer | Kind::Operator => None,
    }
}

/// What roles allow together. One that there is not allows nothing.
fn holding(granted: Vec<Granted>) -> Holding {
    let mut holding = Holding::default();
    for Granted { role, tag, permissions } in granted {
        // A built-in role is what this version says, whatever a table says.
        let Some(permissions) = role::built_in(&role).map(role::BuiltIn::permissions).or(permissions) else { continue };
        let place = if tag.is_empty() { &mut holding.everywhere } else { holding.by_tag.entry(tag).or_default() };
        place.extend(permissions);
    }
    holding
}

fn with(mut principal: Principal, holding: Holding) -> Principal {
    let own = match std::mem::replace(&mut principal.permissions, Permissions::All) {
        Permissions::All => return principal,
        Permissions::Only(own) => own,
    };
    principal.permissions = Permissions::of(own.into_iter().chain(holding.everywhere));
    let tagged = holding.by_tag.into_iter();
    principal.tagged = tagged.map(|(tag, named)| Tagged { tag, permissions: Permissions::of(named) }).collect();
    principal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn granted(role: &str, tag: &str, permissions: Option<&[&str]>) -> Granted {
        let permissions = permissions.map(|named| named.iter().map(ToString::to_string).collect());
        Granted { role: role.to_owned(), tag: tag.to_owned(), permissions }
    }

    fn somebody(own: &[&str]) -> Principal {
        Principal {
            kind: Kind::User,
            tenant_id: Some(Uuid::from_u128(5)),
            subject: Uuid::nil(),
            name: "anna".into(),
            roles: vec![],
            permissions: Permissions::of(own.iter().map(ToString::to_string)),
            tagged: vec![],
        }
    }

    #[test]
    fn roles_add_up_and_a_tag_stays_a_tag() {
        let holding = holding(vec![
            granted("mailer", "", Some(&["jobs:trigger"])),
            granted("viewer", "a", None),
            granted("mailer", "a", Some(&["jobs:trigger"])),
            granted("admin", "b", None),
            granted("nobody", "", None),
        ]);
        let anna = with(somebody(&["keys:read"]), holding);
        assert_eq!(anna.permissions, Permissions::Only(vec!["jobs:trigger".into(), "keys:read".into()]));
        let of = |tag: &str| anna.tagged.iter().find(|tagged| tagged.tag == tag).map(|tagged| &tagged.permissions);
        assert!(of("a").unwrap().allow("jobs:trigger") && of("a").unwrap().allow("logs:read"));
        assert!(!of("a").unwrap().allow("jobs:update"));
        assert_eq!(of("b"), Some(&Permissions::All));
        assert!(anna.needs("jobs:read").is_err());
    }

    #[test]
    fn a_role_in_a_table_is_no_built_in_one() {
        let holding = holding(vec![granted("viewer", "", Some(&["*"]))]);
        assert!(!holding.everywhere.contains(&"*".to_owned()));
        assert_eq!(with(somebody(&[]), holding).needs("jobs:delete").unwrap_err().code, "PERMISSION_DENIED");
    }
}
