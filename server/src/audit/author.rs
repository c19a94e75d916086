use std::sync::Arc;

use uuid::Uuid;

use crate::auth::{self, Origin, Principal};

/// Who does something, and from where.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Author {
    /// As [`crate::auth::PrincipalKind`] is written, or `unknown`.
    pub kind: String,
    pub id: Uuid,
    pub name: String,
    /// Empty where it is not known.
    pub address: String,
    /// The call's `x-request-id`; empty where it had none.
    pub request_id: String,
}

impl Author {
    /// Whoever makes the call that is being served. `None` where none is: coordinators' own work is told by history.
    pub fn of_call() -> Option<Arc<Self>> {
        let principal = auth::caller().ok()?;
        Some(Arc::new(Self::of(&principal, &auth::origin())))
    }

    /// A caller who is known.
    pub fn of(principal: &Principal, origin: &Origin) -> Self {
        let Principal { kind, subject, name, .. } = principal;
        Self::named(kind.as_str(), *subject, name, origin)
    }

    /// Whoever becomes known by the call that is being served, such as by signing in.
    pub fn becoming(kind: &str, id: Uuid, name: &str) -> Arc<Self> {
        Arc::new(Self::named(kind, id, name, &auth::origin()))
    }

    /// Somebody of whom nothing is known but where the call came from.
    pub fn unknown(origin: &Origin) -> Self {
        Self::named("unknown", Uuid::nil(), "", origin)
    }

    fn named(kind: &str, id: Uuid, name: &str, origin: &Origin) -> Self {
        Self {
            kind: kind.to_owned(),
            id,
            name: name.to_owned(),
            address: origin.address.map(|address| address.to_string()).unwrap_or_default(),
            request_id: origin.request_id.clone(),
        }
    }
}
