//! From where calls may come, and what their callers' browsers are told.

mod forwarded;
mod networks;
mod origins;
mod settings;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::HeaderMap;

pub use self::forwarded::ForwardedHeader;
pub use self::networks::{Networks, NotANetwork};
pub use self::origins::{NotAnOrigin, Origins};
pub use self::settings::EdgeArgs;

use crate::auth::Principal;
use crate::error::{Error, Kind};

/// The rules of addresses. By default all may call, and nobody is believed about others. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Edge {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    proxies: Networks,
    header: ForwardedHeader,
    everybody: Networks,
    administrators: Networks,
}

impl Edge {
    /// The rules that were set.
    pub fn new(settings: &EdgeArgs) -> Self {
        let inner = Inner {
            proxies: settings.trusted_proxies.clone(),
            header: settings.forwarded_header,
            everybody: settings.ip_allow.clone(),
            administrators: settings.admin_ip_allow.clone(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Who calls: the peer, or whom it speaks for, where it is a proxy that is trusted.
    pub fn caller(&self, peer: SocketAddr, headers: &HeaderMap) -> SocketAddr {
        let Inner { proxies, header, .. } = &*self.inner;
        SocketAddr::new(forwarded::caller(peer.ip(), headers, *header, proxies), peer.port())
    }

    /// Whether an address may call at all.
    ///
    /// # Errors
    /// ADDRESS_NOT_ALLOWED.
    pub fn admit(&self, address: Option<IpAddr>) -> Result<(), Error> {
        admit(&self.inner.everybody, address, "ORRERY_IP_ALLOW does not name it")
    }

    /// Whether a principal may call from an address. Those who belong to no tenant are the administrators of all of them.
    ///
    /// # Errors
    /// ADDRESS_NOT_ALLOWED.
    pub fn admit_principal(&self, principal: &Principal, address: Option<IpAddr>) -> Result<(), Error> {
        match principal.tenant_id {
            Some(_) => Ok(()),
            None => admit(&self.inner.administrators, address, "ORRERY_ADMIN_IP_ALLOW does not name it"),
        }
    }
}

/// Whether a list admits an address. An empty one admits all; where there is a list, a caller without an address is not on it.
///
/// # Errors
/// ADDRESS_NOT_ALLOWED, with what is to be changed.
pub fn admit(list: &Networks, address: Option<IpAddr>, why: &str) -> Result<(), Error> {
    if list.is_empty() || address.is_some_and(|address| list.contains(address)) {
        return Ok(());
    }
    let from = address.map_or_else(|| "an unknown address".to_owned(), |address| address.to_canonical().to_string());
    let message = format!("calls from {from} are not allowed: {why}");
    Err(Error::new(Kind::Denied, "ADDRESS_NOT_ALLOWED", message))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::auth::{Permissions, PrincipalKind};

    fn edge(line: &[&str]) -> Edge {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            edge: EdgeArgs,
        }
        Edge::new(&<Line as clap::Parser>::try_parse_from([&["x"], line].concat()).unwrap().edge)
    }

    fn code(admitted: Result<(), Error>) -> Option<&'static str> {
        admitted.err().map(|error| error.code)
    }

    #[test]
    fn lists_of_addresses_admit_those_on_them() {
        let at = |address: &str| Some(address.parse().unwrap());
        assert_eq!(code(Edge::default().admit(at("8.8.8.8"))), None);
        assert_eq!(code(Edge::default().admit(None)), None);
        let edge = edge(&["--ip-allow", "10.0.0.0/8,2001:db8::/32", "--admin-ip-allow", "10.9.0.0/16"]);
        for (address, refused) in [
            (at("10.1.2.3"), None),
            (at("::ffff:10.1.2.3"), None),
            (at("2001:db8::7"), None),
            (at("11.0.0.1"), Some("ADDRESS_NOT_ALLOWED")),
            (None, Some("ADDRESS_NOT_ALLOWED")),
        ] {
            assert_eq!(code(edge.admit(address)), refused, "{address:?}");
        }
        let principal = |tenant_id| Principal {
            kind: PrincipalKind::Key,
            tenant_id,
            subject: Uuid::nil(),
            name: "key".into(),
            roles: Vec::new(),
            permissions: Permissions::All,
            tagged: Vec::new(),
        };
        assert_eq!(code(edge.admit_principal(&principal(Some(Uuid::nil())), at("10.1.2.3"))), None);
        assert_eq!(code(edge.admit_principal(&principal(None), at("10.1.2.3"))), Some("ADDRESS_NOT_ALLOWED"));
        assert_eq!(code(edge.admit_principal(&principal(None), at("10.9.2.3"))), None);
    }
}
