//! What can be opened beside the public internet, as operators write it. Pure.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use url::Host;

use super::address::Kind;

/// One thing that is opened: a network, an address or a host, at every port or at one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rule {
    target: Target,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Target {
    Net(IpNet),
    /// In ASCII and small letters, without a dot at its end.
    Host(String),
    /// All hosts below this one.
    Below(String),
}

/// Several rules; what any of them opens is open.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rules(Vec<Rule>);

/// Why a text is no rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} opens nothing: {reason}; write a network (10.0.0.0/8), an address, or a host (db.internal, *.svc.internal), each with :PORT where only that one"
)]
pub struct RuleError {
    text: String,
    reason: &'static str,
}

impl Rule {
    /// Whether this opens `address`, which is of `kind`, to a call of `name`; to one of the address itself where there is none. To be asked
    /// of a rule that holds at the call's port.
    pub(super) fn opens(&self, name: Option<&str>, address: IpAddr, kind: Kind) -> bool {
        match &self.target {
            // Whoever opens a wide network thinks of its services, not of the credentials of the machine among them.
            Target::Net(net) if kind == Kind::Metadata => {
                net.contains(&address) && net.prefix_len() == net.max_prefix_len()
            }
            Target::Net(net) => net.contains(&address),
            _ => kind.is_own_network() && name.is_some_and(|name| self.names(name)),
        }
    }

    /// Whether this closes an address, or the name that was called.
    fn closes(&self, name: Option<&str>, address: Option<IpAddr>) -> bool {
        match &self.target {
            // IPv4 is closed in the clothes of version six as well.
            Target::Net(net) => address.is_some_and(|ip| net.contains(&ip) || net.contains(&ip.to_canonical())),
            _ => name.is_some_and(|name| self.names(name)),
        }
    }

    /// Whether this names a host.
    pub(super) fn names(&self, name: &str) -> bool {
        match &self.target {
            Target::Net(_) => false,
            Target::Host(host) => host == name,
            Target::Below(domain) => name.strip_suffix(domain.as_str()).is_some_and(|below| below.ends_with('.')),
        }
    }
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let wrong = |reason| RuleError { text: text.to_owned(), reason };
        let (target, port) = split(text.trim()).map_err(wrong)?;
        let target = target_of(target).map_err(wrong)?;
        Ok(Self { target, port })
    }
}

/// What stands before the port, and the port.
fn split(text: &str) -> Result<(&str, Option<u16>), &'static str> {
    let port = |digits: &str| {
        let number = digits.parse::<u16>().ok().filter(|port| *port > 0 && digits.bytes().all(|b| b.is_ascii_digit()));
        number.map(Some).ok_or("its port is none")
    };
    if let Some(rest) = text.strip_prefix('[') {
        let (inner, after) = rest.split_once(']').ok_or("a bracket is missing")?;
        return match after.strip_prefix(':') {
            Some(digits) => Ok((inner, port(digits)?)),
            None if after.is_empty() => Ok((inner, None)),
            None => Err("something stands behind the bracket"),
        };
    }
    match text.split_once(':') {
        // With more than one colon it is an address of version six.
        Some((before, digits)) if !digits.contains(':') => Ok((before, port(digits)?)),
        _ => Ok((text, None)),
    }
}

fn target_of(text: &str) -> Result<Target, &'static str> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Target::Net(address.into()));
    }
    if text.contains('/') {
        let net: IpNet = text.parse().map_err(|_| "it is no network")?;
        // 10.1.2.3/8 could mean either.
        return if net == net.trunc() { Ok(Target::Net(net)) } else { Err("it has bits beyond its prefix") };
    }
    let (below, name) = text.strip_prefix("*.").map_or((false, text), |domain| (true, domain));
    if name.is_empty() || name.contains('*') {
        return Err("it is no host");
    }
    match Host::parse(name) {
        Ok(Host::Domain(domain)) if below => Ok(Target::Below(plain(&domain).to_owned())),
        Ok(Host::Domain(domain)) => Ok(Target::Host(plain(&domain).to_owned())),
        // Such as 0x7f.1: an address in another spelling.
        Ok(Host::Ipv4(address)) if !below => Ok(Target::Net(IpAddr::from(address).into())),
        _ => Err("it is no host"),
    }
}

/// A name without the dot that says that it is whole.
pub(super) fn plain(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

impl Rules {
    /// Every address, but those of metadata.
    pub fn everything() -> Self {
        let all =
            |address: IpAddr| IpNet::new(address, 0).ok().map(|net| Rule { target: Target::Net(net), port: None });
        let unspecified = [IpAddr::from([0_u8; 4]), IpAddr::from([0_u8; 16])];
        Self(unspecified.into_iter().filter_map(all).collect())
    }

    /// This host itself.
    pub fn loopback() -> Self {
        let net = |address: [u8; 4]| IpNet::new(IpAddr::from(address), 8).ok();
        let version_six = IpAddr::from(std::net::Ipv6Addr::LOCALHOST).into();
        let nets = net([127, 0, 0, 0]).into_iter().chain([version_six]);
        Self(nets.map(|net| Rule { target: Target::Net(net), port: None }).collect())
    }

    /// What is in either.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self(self.0.iter().chain(&other.0).cloned().collect())
    }

    /// Whether nothing is opened.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The rules that hold at a port, as if they held at all.
    pub(super) fn at(&self, port: u16) -> Self {
        let hold = self.0.iter().filter(|rule| rule.port.is_none_or(|own| own == port));
        Self(hold.map(|rule| Rule { port: None, ..rule.clone() }).collect())
    }

    pub(super) fn open(&self, name: Option<&str>, address: IpAddr, kind: Kind) -> bool {
        self.0.iter().any(|rule| rule.opens(name, address, kind))
    }

    /// Whether any of them closes an address, or the name that was called.
    pub(super) fn close(&self, name: Option<&str>, address: Option<IpAddr>) -> bool {
        self.0.iter().any(|rule| rule.closes(name, address))
    }

    /// Whether, as what is closed, they close a URL as it is written: by its host, or by its address where it names one.
    pub fn close_url(&self, url: &str) -> bool {
        let Ok(url) = url::Url::parse(url) else { return false };
        let rules = self.at(url.port_or_known_default().unwrap_or_default());
        match url.host() {
            Some(Host::Ipv4(address)) => rules.close(None, Some(address.into())),
            Some(Host::Ipv6(address)) => rules.close(None, Some(address.into())),
            Some(Host::Domain(name)) => rules.close(Some(&plain(name).to_ascii_lowercase()), None),
            None => false,
        }
    }

    pub(super) fn name(&self, host: &str) -> bool {
        self.0.iter().any(|rule| rule.names(host))
    }

    /// Each as it is written.
    pub fn texts(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(ToString::to_string)
    }
}

impl FromIterator<Rule> for Rules {
    fn from_iter<I: IntoIterator<Item = Rule>>(rules: I) -> Self {
        Self(rules.into_iter().collect())
    }
}

impl FromStr for Rules {
    type Err = RuleError;

    /// Reads rules that are separated by commas; an empty text is none.
    fn from_str(text: &str) -> Result<Self, RuleError> {
        text.split(',').filter(|rule| !rule.trim().is_empty()).map(str::parse).collect()
    }
}

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.texts().collect::<Vec<_>>().join(","))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = match &self.target {
            Target::Net(net) if net.prefix_len() == net.max_prefix_len() => net.addr().to_string(),
            Target::Net(net) => net.to_string(),
            Target::Host(host) => host.clone(),
            Target::Below(domain) => format!("*.{domain}"),
        };
        match self.port {
            Some(port) if target.contains(':') => write!(f, "[{target}]:{port}"),
            Some(port) => write!(f, "{target}:{port}"),
            None => f.write_str(&target),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::kind;
    use super::*;

    fn opens(rule: &str, name: Option<&str>, address: &str) -> bool {
        let rule: Rule = rule.parse().expect(rule);
        let address = address.parse().expect(address);
        rule.opens(name, address, kind(address).expect("an address that is closed"))
    }

    #[test]
    fn rules_are_read_and_written_again() {
        for (text, written) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            (" 10.1.2.3 ", "10.1.2.3"),
            ("10.1.2.3:8080", "10.1.2.3:8080"),
            ("10.0.0.0/8:80", "10.0.0.0/8:80"),
            ("fd00::1", "fd00::1"),
            ("fd00::/8", "fd00::/8"),
            ("[fd00::1]:443", "[fd00::1]:443"),
            ("[fd00::/8]:443", "[fd00::/8]:443"),
            ("DB.Internal.", "db.internal"),
            ("db.internal:5432", "db.internal:5432"),
            ("*.Svc.internal", "*.svc.internal"),
            ("bücher.internal", "xn--bcher-kva.internal"),
            ("0x7f.1", "127.0.0.1"),
        ] {
            let rule: Rule = text.parse().expect(text);
            assert_eq!(rule.to_string(), written);
            assert_eq!(written.parse::<Rule>().as_ref(), Ok(&rule));
        }
        for bad in [
            "*",
            "10.1.2.3/8",
            "10.0.0.0/33",
            "a b",
            "db:0",
            "db:x",
            "db:+1",
            "[fd00::1",
            "[fd00::1]x",
            "*.*.a",
            "*.10.0.0.1",
            "http://a",
            ":80",
        ] {
            assert!(bad.parse::<Rule>().is_err(), "{bad}");
        }
        let rules: Rules = " 10.0.0.0/8 , ,db.internal:1,".parse().expect("rules");
        assert_eq!(rules.to_string(), "10.0.0.0/8,db.internal:1");
        assert!("".parse::<Rules>().expect("none").is_empty());
    }

    #[test]
    fn a_rule_opens_what_it_names_and_no_more() {
        assert!(opens("10.0.0.0/8", None, "10.255.0.1"));
        assert!(opens("10.0.0.0/8", Some("any.example"), "10.255.0.1"));
        assert!(!opens("10.0.0.0/8", None, "172.16.0.1"));
        assert!(opens("db.internal", Some("db.internal"), "10.0.0.1"));
        assert!(!opens("db.internal", None, "10.0.0.1"));
        assert!(!opens("db.internal", Some("xdb.internal"), "10.0.0.1"));
        assert!(!opens("db.internal", Some("db.internal.evil.example"), "10.0.0.1"));
        assert!(opens("*.internal", Some("a.b.internal"), "10.0.0.1"));
        assert!(!opens("*.internal", Some("internal"), "10.0.0.1"));
        assert!(!opens("*.internal", Some("xinternal"), "10.0.0.1"));
    }

    #[test]
    fn metadata_is_opened_by_its_own_address_only() {
        for wide in ["169.254.0.0/16", "0.0.0.0/0", "metadata.internal", "*.internal"] {
            assert!(!opens(wide, Some("metadata.internal"), "169.254.169.254"), "{wide}");
        }
        assert!(opens("169.254.169.254", None, "169.254.169.254"));
        assert!(!Rules::everything().open(None, "fd00:ec2::254".parse().expect("an address"), Kind::Metadata));
        // A name opens services, and nothing that is none.
        assert!(!opens("db.internal", Some("db.internal"), "224.0.0.1"));
        assert!(!opens("db.internal", Some("db.internal"), "169.254.1.1"));
        assert!(!opens("db.internal", Some("db.internal"), "::ffff:10.0.0.1"));
    }

    #[test]
    fn a_port_narrows_a_rule() {
        let rules: Rules = "db.internal:5432,10.0.0.0/8".parse().expect("rules");
        assert_eq!(rules.at(5432).to_string(), "db.internal,10.0.0.0/8");
        assert_eq!(rules.at(80).to_string(), "10.0.0.0/8");
    }
}
