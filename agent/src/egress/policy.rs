//! The decision whether a call may go where it goes. Pure.

use std::net::IpAddr;

use url::{Host, Url};

use super::address::{Kind, kind};
use super::rule::{Rules, plain};

/// Names by which clouds' machines find their metadata, whatever they resolve to.
const METADATA_NAMES: [&str; 7] = [
    "metadata",
    "metadata.google.internal",
    "metadata.goog",
    "metadata.azure.internal",
    "metadata.tencentyun.com",
    "instance-data",
    "instance-data.ec2.internal",
];

/// What the agent's host lets jobs reach beside the public internet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Open to every job.
    pub allow: Rules,
    /// What a lease may open, for its own job: what it opens beyond stays closed. A coordinator is not trusted with the whole network of
    /// every host that has an agent.
    pub delegate: Rules,
}

/// What one call may reach: the policy, and what the lease opens, at the call's port.
///
/// Calls of one reach can share connections. Those of different reaches must not: a connection that was opened under one would serve the
/// other, and nothing would be checked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reach {
    allow: Rules,
    delegate: Rules,
    lease: Rules,
    /// Closed, whatever is open.
    closed: Rules,
}

/// Why a call is not made. The texts are for the author of the job.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The URL names an address.
    #[error("{address} is {kind}, which jobs may not call{}", remedy(.kind, &.address.to_string(), .lease))]
    Address {
        /// As it was understood, whatever its spelling.
        address: IpAddr,
        /// What it is.
        kind: Kind,
        /// Whether the lease would open it, and the agent does not let it.
        lease: bool,
    },
    /// The URL names a host all of whose addresses are closed. They are not told: the author may be anybody, and the names of a network
    /// are not for anybody.
    #[error("{host} resolves to {kind}, which jobs may not call{}", remedy(.kind, .host, .lease))]
    Resolved {
        /// The host.
        host: String,
        /// What its first address is.
        kind: Kind,
        /// Whether the lease would open it, and the agent does not let it.
        lease: bool,
    },
    /// The URL names a service that tells the credentials of the machine.
    #[error(
        "{0} is a cloud's metadata service, which jobs may not call; only ORRERY_EGRESS_ALLOW of the agent opens it, by its name and its address"
    )]
    MetadataName(String),
    /// The lease closes it.
    #[error("{0} is closed to this tenant's jobs, by its setting egressDeny")]
    Closed(String),
    /// Neither http nor https.
    #[error("{0}: is not called; only http and https are")]
    Scheme(String),
    /// `https://user:password@host`: it hides where the host begins, and ends up in logs.
    #[error("holds credentials before the host; send them in the Authorization header")]
    Credentials,
    /// There is no host.
    #[error("has no host")]
    NoHost,
}

fn remedy(kind: &Kind, what: &str, lease: &bool) -> String {
    match (kind, lease) {
        (Kind::Metadata, _) => "; only ORRERY_EGRESS_ALLOW of the agent opens it, by this very address".to_owned(),
        (_, true) => format!(
            "; the tenant's or server's egress settings open it, but this agent does not let them: ORRERY_EGRESS_DELEGATE={what} would"
        ),
        (_, false) => format!(
            "; ORRERY_EGRESS_ALLOW={what} of the agent would open it to all jobs, the tenant's setting egress.allow to the tenant's"
        ),
    }
}

impl Policy {
    /// What a call at a port may reach whose lease opens `lease`.
    pub fn reach(&self, lease: &Rules, port: u16) -> Reach {
        Reach {
            allow: self.allow.at(port),
            delegate: self.delegate.at(port),
            lease: lease.at(port),
            closed: Rules::default(),
        }
    }
}

impl Reach {
    /// The same without what these rules close at a port.
    #[must_use]
    pub fn without(self, closed: &Rules, port: u16) -> Self {
        Self { closed: closed.at(port), ..self }
    }

    /// Checks a URL before anything is connected: its scheme, and its host where that is an address.
    ///
    /// # Errors
    /// Why it is not called.
    pub fn check(&self, url: &Url) -> Result<(), Refused> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Refused::Scheme(url.scheme().to_owned()));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refused::Credentials);
        }
        match url.host().ok_or(Refused::NoHost)? {
            Host::Ipv4(address) => self.check_literal(address.into()),
            Host::Ipv6(address) => self.check_literal(address.into()),
            Host::Domain(name) => self.check_name(plain(name)),
        }
    }

    fn check_literal(&self, address: IpAddr) -> Result<(), Refused> {
        if self.closed.close(None, Some(address)) {
            return Err(Refused::Closed(address.to_string()));
        }
        match self.closed(None, address) {
            Some(kind) => Err(Refused::Address { address, kind, lease: self.is_asked_for(None, address, kind) }),
            None => Ok(()),
        }
    }

    fn check_name(&self, name: &str) -> Result<(), Refused> {
        if self.closed.close(Some(&name.to_ascii_lowercase()), None) {
            return Err(Refused::Closed(name.to_owned()));
        }
        let is_metadata = METADATA_NAMES.iter().any(|known| known.eq_ignore_ascii_case(name));
        if is_metadata && !self.allow.name(name) { Err(Refused::MetadataName(name.to_owned())) } else { Ok(()) }
    }

    /// Of what a name resolved to, what may be connected to.
    ///
    /// # Errors
    /// Where there are addresses, and none of them is open.
    pub fn open(&self, name: &str, found: Vec<IpAddr>) -> Result<Vec<IpAddr>, Refused> {
        let name = plain(name).to_ascii_lowercase();
        self.check_name(&name)?;
        let is_closed = |ip: &IpAddr| self.closed.close(None, Some(*ip));
        if !found.is_empty() && found.iter().all(is_closed) {
            return Err(Refused::Closed(name));
        }
        let found: Vec<IpAddr> = found.into_iter().filter(|ip| !is_closed(ip)).collect();
        let first = found.first().copied();
        let open: Vec<IpAddr> = found.into_iter().filter(|ip| self.closed(Some(&name), *ip).is_none()).collect();
        match first.and_then(|address| Some((address, self.closed(Some(&name), address)?))) {
            Some((address, kind)) if open.is_empty() => {
                Err(Refused::Resolved { lease: self.is_asked_for(Some(&name), address, kind), host: name, kind })
            }
            _ => Ok(open),
        }
    }

    /// What an address is, where it is closed.
    fn closed(&self, name: Option<&str>, address: IpAddr) -> Option<Kind> {
        let kind = kind(address)?;
        let open = self.allow.open(name, address, kind)
            || (self.lease.open(name, address, kind) && self.delegate.open(name, address, kind));
        (!open).then_some(kind)
    }

    /// Whether the lease wants open what the agent keeps closed.
    fn is_asked_for(&self, name: Option<&str>, address: IpAddr, kind: Kind) -> bool {
        self.lease.open(name, address, kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Rules {
        text.parse().expect(text)
    }

    fn checked(policy: &Policy, lease: &str, url: &str) -> Result<(), Refused> {
        let url = Url::parse(url).expect(url);
        policy.reach(&rules(lease), url.port_or_known_default().unwrap_or(80)).check(&url)
    }

    #[test]
    fn the_public_internet_is_open_and_nothing_else() {
        let policy = Policy::default();
        for open in ["http://93.184.215.14/", "https://[2606:4700:4700::1111]:8443/", "https://example.com/"] {
            assert_eq!(checked(&policy, "", open), Ok(()), "{open}");
        }
        for closed in
            ["http://10.0.0.1/", "http://[::1]/", "http://0/", "http://metadata.google.internal./", "http://METADATA/"]
        {
            assert!(checked(&policy, "", closed).is_err(), "{closed}");
        }
        assert_eq!(checked(&policy, "", "ftp://example.com/"), Err(Refused::Scheme("ftp".into())));
        assert_eq!(checked(&policy, "", "http://a@93.184.215.14/"), Err(Refused::Credentials));
        assert_eq!(checked(&policy, "", "http://:b@93.184.215.14/"), Err(Refused::Credentials));
    }

    #[test]
    fn a_lease_opens_what_the_agent_lets_it() {
        let policy = Policy { allow: rules("127.0.0.1:9"), delegate: rules("10.1.0.0/16,*.internal:80") };
        assert_eq!(checked(&policy, "", "http://127.0.0.1:9/"), Ok(()));
        assert!(checked(&policy, "127.0.0.1", "http://127.0.0.1:10/").is_err());
        assert!(checked(&policy, "", "http://10.1.2.3/").is_err(), "no lease asks for it");
        assert_eq!(checked(&policy, "10.0.0.0/8", "http://10.1.2.3/"), Ok(()));
        let refused = checked(&policy, "10.0.0.0/8", "http://10.2.2.3/").expect_err("beyond what is let");
        assert!(refused.to_string().contains("ORRERY_EGRESS_DELEGATE=10.2.2.3"), "{refused}");
        let of_name = |port, lease| policy.reach(&rules(lease), port).open("DB.internal.", vec![[10, 9, 9, 9].into()]);
        assert_eq!(of_name(80, "db.internal"), Ok(vec![[10, 9, 9, 9].into()]));
        assert!(of_name(81, "db.internal").is_err());
        assert!(of_name(80, "other.internal").is_err());
    }

    #[test]
    fn the_open_ones_of_several_addresses_are_used() {
        let reach = Policy::default().reach(&Rules::default(), 80);
        let (public, private): (IpAddr, IpAddr) = ([1, 1, 1, 1].into(), [10, 0, 0, 1].into());
        assert_eq!(reach.open("a.example", vec![private, public, private]), Ok(vec![public]));
        assert_eq!(reach.open("a.example", vec![]), Ok(vec![]));
        let refused = reach.open("a.example", vec![private]).expect_err("closed").to_string();
        assert!(refused.starts_with("a.example resolves to a private address"), "{refused}");
        assert!(!refused.contains("10.0.0.1"), "the addresses of a network are not told: {refused}");
        assert!(reach.open("metadata.google.internal", vec![public]).is_err());
    }

    #[test]
    fn what_would_open_it_is_said() {
        let told = |url: &str| checked(&Policy::default(), "", url).expect_err(url).to_string();
        assert_eq!(
            told("http://0x7f.1:8080/"),
            "127.0.0.1 is a loopback address, which jobs may not call; ORRERY_EGRESS_ALLOW=127.0.0.1 of the agent would open it to all \
             jobs, the tenant's setting egress.allow to the tenant's"
        );
        assert!(
            told("http://169.254.169.254/")
                .ends_with("only ORRERY_EGRESS_ALLOW of the agent opens it, by this very address")
        );
    }

    #[test]
    fn what_the_lease_closes_is_closed_whatever_is_open() {
        let everything = Policy { allow: Rules::everything(), delegate: Rules::default() };
        let reach = |closed: &str, port| everything.reach(&Rules::default(), port).without(&rules(closed), port);
        let check = |closed: &str, url: &str| {
            let url = Url::parse(url).expect(url);
            reach(closed, url.port_or_known_default().unwrap_or(80)).check(&url)
        };
        for (closed, url) in [
            ("93.184.0.0/16", "http://93.184.215.14/"),
            ("10.0.0.0/8", "http://[::ffff:10.1.2.3]/"),
            ("10.0.0.0/8", "http://0x0a.1/"),
            ("*.example.com", "http://A.Example.com./"),
            ("example.com:443", "https://example.com/"),
        ] {
            assert!(matches!(check(closed, url), Err(Refused::Closed(_))), "{closed} {url}");
            assert!(rules(closed).close_url(url), "{closed} {url}");
        }
        for (closed, url) in [("example.com:443", "http://example.com/"), ("10.0.0.0/8", "http://11.0.0.1/")] {
            assert_eq!(check(closed, url), Ok(()), "{closed} {url}");
            assert!(!rules(closed).close_url(url), "{closed} {url}");
        }
        // On what a name resolves to as well.
        let (one, other): (IpAddr, IpAddr) = ([1, 1, 1, 1].into(), [2, 2, 2, 2].into());
        let open = |found: Vec<IpAddr>| reach("1.0.0.0/8", 80).open("a.example", found);
        assert_eq!(open(vec![one, other]), Ok(vec![other]));
        assert_eq!(open(vec![one]), Err(Refused::Closed("a.example".into())));
        assert_eq!(open(vec![]), Ok(vec![]));
    }
}
