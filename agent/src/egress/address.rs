//! What an address is, by the registries of special addresses. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

/// Why an address is not one of the public internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Stands for no address, or for this host: 0.0.0.0/8, ::.
    Unspecified,
    /// RFC 1918, and unique local addresses of IPv6 (RFC 4193).
    Private,
    /// This host.
    Loopback,
    /// The same wire only.
    LinkLocal,
    /// Of a carrier's translator (RFC 6598); clouds and overlay networks use it inside.
    Shared,
    /// Tells the credentials of the machine to whoever asks.
    Metadata,
    /// Many hosts at once.
    Multicast,
    /// All hosts of a network.
    Broadcast,
    /// Of examples (RFC 5737, 3849, 9637).
    Documentation,
    /// Of test beds (RFC 2544, 5180).
    Benchmarking,
    /// Holds an IPv4 address that a translator or tunnel connects to: mapped, compatible, NAT64, 6to4, Teredo, ISATAP.
    Translated,
    /// Anything else that is not assigned to the internet.
    Reserved,
}

impl Kind {
    /// Whether names may be opened to addresses of this kind: those that services of one's own have. The others are no service, or one
    /// that gives credentials away, and are only opened by their address.
    pub(super) fn is_own_network(self) -> bool {
        matches!(self, Self::Private | Self::Loopback | Self::Shared)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "an unspecified address",
            Self::Private => "a private address",
            Self::Loopback => "a loopback address",
            Self::LinkLocal => "a link-local address",
            Self::Shared => "an address of a carrier's or overlay network",
            Self::Metadata => "a cloud's metadata address",
            Self::Multicast => "a multicast address",
            Self::Broadcast => "a broadcast address",
            Self::Documentation => "an address of documentation",
            Self::Benchmarking => "an address of test beds",
            Self::Translated => "an IPv6 address that stands for an IPv4 one",
            Self::Reserved => "a reserved address",
        })
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

const fn v6(segments: [u16; 8], length: u8) -> Ipv6Net {
    let [a, b, c, d, e, f, g, h] = segments;
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), length)
}

/// The first that fits holds. From <https://www.iana.org/assignments/iana-ipv4-special-registry>; metadata from the documents of AWS, Azure,
/// Google, Alibaba, Oracle, Tencent and Scaleway.
const SPECIAL_V4: [(Ipv4Net, Kind); 23] = [
    (v4(169, 254, 169, 254, 32), Kind::Metadata),
    // Credentials of containers: ECS, and pods of EKS.
    (v4(169, 254, 170, 2, 32), Kind::Metadata),
    (v4(169, 254, 170, 23, 32), Kind::Metadata),
    (v4(169, 254, 0, 23, 32), Kind::Metadata),
    (v4(169, 254, 42, 42, 32), Kind::Metadata),
    (v4(100, 100, 100, 200, 32), Kind::Metadata),
    (v4(192, 0, 0, 192, 32), Kind::Metadata),
    // Azure's WireServer: among public addresses, and reached from every virtual machine.
    (v4(168, 63, 129, 16, 32), Kind::Metadata),
    (v4(0, 0, 0, 0, 8), Kind::Unspecified),
    (v4(10, 0, 0, 0, 8), Kind::Private),
    (v4(100, 64, 0, 0, 10), Kind::Shared),
    (v4(127, 0, 0, 0, 8), Kind::Loopback),
    (v4(169, 254, 0, 0, 16), Kind::LinkLocal),
    (v4(172, 16, 0, 0, 12), Kind::Private),
    (v4(192, 0, 0, 0, 24), Kind::Reserved),
    (v4(192, 0, 2, 0, 24), Kind::Documentation),
    // The anycast of 6to4 relays, withdrawn by RFC 7526.
    (v4(192, 88, 99, 0, 24), Kind::Translated),
    (v4(192, 168, 0, 0, 16), Kind::Private),
    (v4(198, 18, 0, 0, 15), Kind::Benchmarking),
    (v4(198, 51, 100, 0, 24), Kind::Documentation),
    (v4(203, 0, 113, 0, 24), Kind::Documentation),
    (v4(224, 0, 0, 0, 4), Kind::Multicast),
    (v4(255, 255, 255, 255, 32), Kind::Broadcast),
];

/// The same of <https://www.iana.org/assignments/iana-ipv6-special-registry>.
const SPECIAL_V6: [(Ipv6Net, Kind); 23] = [
    (v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128), Kind::Metadata),
    (v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23], 128), Kind::Metadata),
    (v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128), Kind::Metadata),
    (v6([0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42], 128), Kind::Metadata),
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 128), Kind::Unspecified),
    (v6([0, 0, 0, 0, 0, 0, 0, 1], 128), Kind::Loopback),
    // Mapped, translated by SIIT (RFC 2765), and compatible.
    (v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96), Kind::Translated),
    (v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96), Kind::Translated),
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 96), Kind::Translated),
    // NAT64 (RFC 6052, RFC 8215).
    (v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96), Kind::Translated),
    (v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48), Kind::Translated),
    // Teredo, and 6to4.
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32), Kind::Translated),
    (v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), Kind::Translated),
    (v6([0x2001, 2, 0, 0, 0, 0, 0, 0], 48), Kind::Benchmarking),
    (v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23), Kind::Reserved),
    (v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32), Kind::Documentation),
    (v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20), Kind::Documentation),
    (v6([0x3ffe, 0, 0, 0, 0, 0, 0, 0], 16), Kind::Reserved),
    (v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7), Kind::Private),
    (v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10), Kind::Private),
    (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), Kind::LinkLocal),
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), Kind::Multicast),
    (v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64), Kind::Reserved),
];

/// The only part of IPv6 that is given to the internet.
const GLOBAL_V6: Ipv6Net = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);

/// What an address is, where it is not one of the public internet. What is not known to be public is not.
pub fn kind(address: IpAddr) -> Option<Kind> {
    match address {
        IpAddr::V4(address) => kind_v4(address),
        IpAddr::V6(address) => kind_v6(address),
    }
}

fn kind_v4(address: Ipv4Addr) -> Option<Kind> {
    let special = SPECIAL_V4.iter().find(|(net, _)| net.contains(&address)).map(|(_, kind)| *kind);
    // 240.0.0.0/4 was never given to anybody.
    special.or_else(|| (address.octets()[0] >= 240).then_some(Kind::Reserved))
}

fn kind_v6(address: Ipv6Addr) -> Option<Kind> {
    let special = SPECIAL_V6.iter().find(|(net, _)| net.contains(&address)).map(|(_, kind)| *kind);
    special
        .or_else(|| is_isatap(address).then_some(Kind::Translated))
        .or_else(|| (!GLOBAL_V6.contains(&address)).then_some(Kind::Reserved))
}

/// The identifier of an interface that tunnels to the IPv4 address in its last 32 bits (RFC 5214, 6.1).
fn is_isatap(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    matches!(segments[4], 0 | 0x200) && segments[5] == 0x5efe
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<Kind> {
        kind(text.parse().unwrap_or_else(|_| panic!("{text} is no address")))
    }

    /// The first and the last address of each network, and their neighbours outside.
    #[test]
    fn networks_begin_and_end_where_the_registries_say() {
        for (first, last, expected) in [
            ("0.0.0.0", "0.255.255.255", Kind::Unspecified),
            ("10.0.0.0", "10.255.255.255", Kind::Private),
            ("100.64.0.0", "100.127.255.255", Kind::Shared),
            ("127.0.0.0", "127.255.255.255", Kind::Loopback),
            ("169.254.0.0", "169.254.255.255", Kind::LinkLocal),
            ("172.16.0.0", "172.31.255.255", Kind::Private),
            ("192.0.0.0", "192.0.0.255", Kind::Reserved),
            ("192.168.0.0", "192.168.255.255", Kind::Private),
            ("198.18.0.0", "198.19.255.255", Kind::Benchmarking),
            ("203.0.113.0", "203.0.113.255", Kind::Documentation),
        ] {
            assert_eq!((of(first), of(last)), (Some(expected), Some(expected)), "{first} to {last}");
            let (first, last): (Ipv4Addr, Ipv4Addr) = (first.parse().unwrap(), last.parse().unwrap());
            if let Some(before) = u32::from(first).checked_sub(1) {
                assert_eq!(kind(Ipv4Addr::from(before).into()), None, "before {first}");
            }
            assert_eq!(kind(Ipv4Addr::from(u32::from(last) + 1).into()), None, "after {last}");
        }
        assert_eq!(of("223.255.255.255"), None);
        assert_eq!(of("224.0.0.0"), Some(Kind::Multicast));
        assert_eq!(of("239.255.255.255"), Some(Kind::Multicast));
        assert_eq!(of("240.0.0.0"), Some(Kind::Reserved));
        assert_eq!(of("255.255.255.254"), Some(Kind::Reserved));
        assert_eq!(of("255.255.255.255"), Some(Kind::Broadcast));
    }

    #[test]
    fn addresses_of_version_six_are_told_apart() {
        for (text, expected) in [
            ("::", Kind::Unspecified),
            ("::1", Kind::Loopback),
            ("::7f00:1", Kind::Translated),
            ("::ffff:8.8.8.8", Kind::Translated),
            ("::ffff:0:127.0.0.1", Kind::Translated),
            ("64:ff9b::8.8.8.8", Kind::Translated),
            ("64:ff9b:1:fffe::1", Kind::Translated),
            ("64:ff9b:2::1", Kind::Reserved),
            ("100::1", Kind::Reserved),
            ("1fff:ffff::1", Kind::Reserved),
            ("2001::1", Kind::Translated),
            ("2001:2::1", Kind::Benchmarking),
            ("2001:20::1", Kind::Reserved),
            ("2001:db8::1", Kind::Documentation),
            ("2002:7f00:1::1", Kind::Translated),
            ("2606:4700::5efe:10.0.0.1", Kind::Translated),
            ("2606:4700::200:5efe:10.0.0.1", Kind::Translated),
            ("3fff:fff:ffff::1", Kind::Documentation),
            ("4000::1", Kind::Reserved),
            ("5f00::1", Kind::Reserved),
            ("fc00::1", Kind::Private),
            ("fdff:ffff::1", Kind::Private),
            ("fe80::1", Kind::LinkLocal),
            ("febf::1", Kind::LinkLocal),
            ("fec0::1", Kind::Private),
            ("ff02::1", Kind::Multicast),
            ("fd00:ec2::254", Kind::Metadata),
        ] {
            assert_eq!(of(text), Some(expected), "{text}");
        }
        for public in
            ["2001:4860:4860::8888", "2606:4700:4700::1111", "2400:cb00::1", "2a00:1450:4001::200e", "2003::1"]
        {
            assert_eq!(of(public), None, "{public}");
        }
    }

    #[test]
    fn metadata_is_metadata_wherever_it_lies() {
        for text in ["169.254.169.254", "169.254.170.2", "100.100.100.200", "192.0.0.192", "168.63.129.16"] {
            assert_eq!(of(text), Some(Kind::Metadata), "{text}");
        }
        assert_eq!(of("168.63.129.17"), None);
    }
}
