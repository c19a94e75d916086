use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// Networks and addresses, as a setting lists them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Vec<IpNet>);

/// Why a text is no list of networks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} {reason}; write an address, or a network such as 10.0.0.0/8 or 2001:db8::/32")]
pub struct NotANetwork {
    text: String,
    reason: &'static str,
}

impl Networks {
    /// Whether none is named.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an address is in one of them. IPv4 is compared as itself where a socket of version six wraps it.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// One that nobody calls from: the address that stands for none.
    pub fn nowhere() -> Self {
        Self(vec![IpAddr::from([0_u8; 4]).into()])
    }

    /// Reads each text.
    ///
    /// # Errors
    /// The first that is no network.
    pub fn of<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, NotANetwork> {
        texts.into_iter().map(network).collect::<Result<_, _>>().map(Self)
    }
}

fn network(text: &str) -> Result<IpNet, NotANetwork> {
    let wrong = |reason| NotANetwork { text: text.to_owned(), reason };
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.to_canonical().into());
    }
    let network: IpNet = text.parse().map_err(|_| wrong("is no network"))?;
    // 10.1.2.3/8 could mean either.
    if network == network.trunc() { Ok(network) } else { Err(wrong("has bits beyond its prefix")) }
}

impl FromStr for Networks {
    type Err = NotANetwork;

    /// Reads what is separated by commas; an empty text is none.
    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        Self::of(text.split(',').map(str::trim).filter(|part| !part.is_empty()))
    }
}

impl fmt::Display for Networks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read() {
        let networks: Networks = " 10.0.0.0/8, 192.0.2.7 ,,2001:db8::/32".parse().unwrap();
        assert_eq!(networks.to_string(), "10.0.0.0/8,192.0.2.7/32,2001:db8::/32");
        for inside in ["10.255.1.2", "192.0.2.7", "2001:db8:ffff::1", "::ffff:10.1.1.1"] {
            assert!(networks.contains(inside.parse().unwrap()), "{inside}");
        }
        for outside in ["11.0.0.0", "192.0.2.8", "2001:db9::1", "::10.1.1.1"] {
            assert!(!networks.contains(outside.parse().unwrap()), "{outside}");
        }
        for bad in ["x", "10.0.0.1/8", "10.0.0.0/33", "10.0.0", "localhost"] {
            assert!(bad.parse::<Networks>().unwrap_err().to_string().contains(bad), "{bad}");
        }
        assert!("".parse::<Networks>().unwrap().is_empty());
    }
}
