//! Whom a proxy speaks for. Pure.

use std::net::{IpAddr, SocketAddr};

use clap::ValueEnum;
use http::{HeaderMap, HeaderName};

use super::Networks;

/// The header in which the proxies name whom they speak for. Only one is read: a proxy that writes one of them hands the other on as its
/// caller has made it up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For: CLIENT, PROXY`.
    #[default]
    XForwardedFor,
    /// `Forwarded: for=CLIENT, for=PROXY` (RFC 7239).
    Forwarded,
}

/// Who has called a peer. Each proxy appends whom it has heard, so that the list is read from its end, and as far as those who wrote it are
/// trusted: what stands before was written by anybody.
pub(super) fn caller(peer: IpAddr, headers: &HeaderMap, header: ForwardedHeader, trusted: &Networks) -> IpAddr {
    let mut caller = peer.to_canonical();
    if !trusted.contains(caller) {
        return caller;
    }
    for hop in hops(headers, header).into_iter().rev() {
        // What is unreadable hides whoever stands before it. The proxy that wrote it is who is known.
        let Some(address) = hop else { break };
        caller = address;
        if !trusted.contains(caller) {
            break;
        }
    }
    caller
}

/// Every address that is named, in order; `None` for what is none.
fn hops(headers: &HeaderMap, header: ForwardedHeader) -> Vec<Option<IpAddr>> {
    let name = match header {
        ForwardedHeader::XForwardedFor => HeaderName::from_static("x-forwarded-for"),
        ForwardedHeader::Forwarded => http::header::FORWARDED,
    };
    // Several lines of a header are one list.
    let lines = headers.get_all(name).iter().map(|line| line.to_str().unwrap_or("?"));
    let elements = lines.flat_map(|line| outside_quotes(line, ','));
    elements
        .map(|element| match header {
            ForwardedHeader::XForwardedFor => address(element),
            ForwardedHeader::Forwarded => {
                let named = outside_quotes(element, ';').into_iter().find_map(|pair| {
                    let (name, value) = pair.split_once('=')?;
                    name.trim().eq_ignore_ascii_case("for").then_some(value)
                });
                address(named?.trim().trim_matches('"'))
            }
        })
        .collect()
}

/// An address, with a port or without.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let address = text.parse().ok().or_else(bracketed);
    address.or_else(|| Some(text.parse::<SocketAddr>().ok()?.ip())).map(|address: IpAddr| address.to_canonical())
}

fn outside_quotes(text: &str, separator: char) -> Vec<&str> {
    let mut quoted = false;
    text.split(move |c| {
        quoted ^= c == '"';
        c == separator && !quoted
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller_of(peer: &str, header: ForwardedHeader, lines: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            let (name, value) = line.split_once(": ").unwrap();
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        let trusted = "10.0.0.0/8,2001:db8::/32".parse().unwrap();
        caller(peer.parse().unwrap(), &headers, header, &trusted).to_string()
    }

    #[test]
    fn the_last_one_that_no_trusted_proxy_is_has_called() {
        let of = |peer: &str, lines: &[&str]| caller_of(peer, ForwardedHeader::XForwardedFor, lines);
        for (peer, lines, expected) in [
            ("10.0.0.1", &["x-forwarded-for: 203.0.113.7"][..], "203.0.113.7"),
            ("::ffff:10.0.0.1", &["x-forwarded-for: 203.0.113.7"], "203.0.113.7"),
            ("10.0.0.1", &["x-forwarded-for: 1.1.1.1, 203.0.113.7, 10.0.0.2"], "203.0.113.7"),
            ("10.0.0.1", &["x-forwarded-for: 1.1.1.1", "x-forwarded-for: 203.0.113.7,10.0.0.2"], "203.0.113.7"),
            ("10.0.0.1", &["x-forwarded-for: 10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", &["x-forwarded-for: 203.0.113.7:4711"], "203.0.113.7"),
            ("10.0.0.1", &["x-forwarded-for: [2001:db9::1]:80"], "2001:db9::1"),
            ("10.0.0.1", &["x-forwarded-for: [2001:db9::1]"], "2001:db9::1"),
            ("10.0.0.1", &[], "10.0.0.1"),
            // What is made up is not read, nor is what stands before.
            ("10.0.0.1", &["x-forwarded-for: 203.0.113.7, unknown"], "10.0.0.1"),
            ("10.0.0.1", &["x-forwarded-for: 203.0.113.7, bad, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["x-forwarded-for: "], "10.0.0.1"),
            ("10.0.0.1", &["forwarded: for=203.0.113.7"], "10.0.0.1"),
            // Nobody believes a stranger.
            ("203.0.113.9", &["x-forwarded-for: 10.0.0.1"], "203.0.113.9"),
        ] {
            assert_eq!(of(peer, lines), expected, "{peer} {lines:?}");
        }
    }

    #[test]
    fn the_standard_header_is_read_where_it_is_chosen() {
        let of = |lines: &[&str]| caller_of("10.0.0.1", ForwardedHeader::Forwarded, lines);
        assert_eq!(of(&["forwarded: for=203.0.113.7;proto=https;by=10.0.0.1"]), "203.0.113.7");
        assert_eq!(
            of(&["forwarded: for=1.1.1.1, For=\"[2001:db9::17]:4711\" ; host=\"a,b;for=9.9.9.9\""]),
            "2001:db9::17"
        );
        assert_eq!(of(&["forwarded: for=203.0.113.7, for=_hidden"]), "10.0.0.1");
        assert_eq!(of(&["forwarded: for=203.0.113.7, proto=http"]), "10.0.0.1");
        assert_eq!(of(&["x-forwarded-for: 203.0.113.7"]), "10.0.0.1");
    }
}
