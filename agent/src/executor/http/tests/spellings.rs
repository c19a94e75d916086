//! The ways to write an address that is not for jobs.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::*;

/// What stands for the inside of a network: this host, metadata, and one of each range.
const INSIDE: [Ipv4Addr; 7] = [
    Ipv4Addr::new(127, 0, 0, 1),
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(10, 0, 0, 1),
    Ipv4Addr::new(172, 16, 0, 1),
    Ipv4Addr::new(192, 168, 1, 1),
    Ipv4Addr::new(100, 64, 0, 1),
    Ipv4Addr::new(0, 0, 0, 0),
];

/// An IPv4 address in every way that a parser of URLs takes it, or that a system's own would (inet_aton).
fn version_four(address: Ipv4Addr) -> Vec<String> {
    let [a, b, c, d] = address.octets();
    let (whole, low_24, low_16) = (u32::from(address), u32::from(address) & 0xff_ffff, u32::from(address) & 0xffff);
    let dotted = address.to_string();
    let replaced = |digit: fn(u32) -> char, dot: char| -> String {
        let one = |c: char| c.to_digit(10).map_or(dot, digit);
        dotted.chars().map(one).collect()
    };
    let wide = |digit: u32| char::from_u32(0xff10 + digit).expect("a wide digit");
    let circled = |digit: u32| char::from_u32(if digit == 0 { 0x24ea } else { 0x245f + digit }).expect("a digit");
    let bold = |digit: u32| char::from_u32(0x1d7ce + digit).expect("a bold digit");
    vec![
        format!("{dotted}."),
        whole.to_string(),
        format!("{whole:#x}"),
        format!("0X{whole:X}"),
        format!("{whole:#010x}"),
        format!("0{whole:o}"),
        format!("000000{whole:o}"),
        format!("{a:#x}.{b:#x}.{c:#x}.{d:#x}"),
        format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"),
        format!("000{a:o}.000{b:o}.000{c:o}.000{d:o}"),
        format!("{a}.{low_24}"),
        format!("{a:#x}.{low_24}"),
        format!("{a}.{low_24:#x}"),
        format!("{a}.{b}.{low_16}"),
        format!("0{a:o}.{b:#x}.{low_16}"),
        format!("{a:#x}.{b}.0{c:o}.{d}"),
        format!("{whole}."),
        format!("{a}.{low_24}."),
        dotted.chars().map(|c| format!("%{:02x}", u32::from(c))).collect(),
        dotted.replace('.', "%2e"),
        dotted.replace('.', "\u{3002}"),
        dotted.replace('.', "\u{ff0e}"),
        dotted.replace('.', "\u{ff61}"),
        replaced(wide, '.'),
        replaced(wide, '\u{3002}'),
        replaced(circled, '.'),
        replaced(bold, '.'),
        format!("\u{ad}{dotted}"),
        dotted.clone(),
    ]
}

/// The IPv6 addresses that a translator or tunnel, or the system itself, takes for an IPv4 one.
fn version_six(address: Ipv4Addr) -> Vec<String> {
    let octets = address.octets();
    let [high, low] = [0, 2].map(|at| u16::from_be_bytes([octets[at], octets[at + 1]]));
    let six = |segments: [u16; 8]| Ipv6Addr::from(segments).to_string();
    vec![
        format!("::ffff:{address}"),
        format!("::FFFF:{high:x}:{low:x}"),
        format!("0:0:0:0:0:ffff:{high:04x}:{low:04x}"),
        format!("::{address}"),
        format!("::ffff:0:{address}"),
        format!("64:ff9b::{address}"),
        format!("64:ff9b::{high:x}:{low:x}"),
        format!("64:ff9b:1::{address}"),
        six([0x64, 0xff9b, 1, 0xfffe, 0, 0, high, low]),
        six([0x2002, high, low, 0, 0, 0, 0, 1]),
        six([0x2002, 0x808, 0x808, 0, 0, 0, high, low]),
        // Teredo writes its client's address the other way round.
        six([0x2001, 0, 0x808, 0x808, 0, 0, !high, !low]),
        six([0x2606, 0x4700, 0, 0, 0, 0x5efe, high, low]),
        six([0x2606, 0x4700, 0, 0, 0x200, 0x5efe, high, low]),
    ]
    .into_iter()
    .map(|address| format!("[{address}]"))
    .collect()
}

/// Hosts that stand for one thing only, and names; every name is at 127.0.0.1.
const OTHERS: [&str; 56] = [
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[0000:0000:0000:0000:0000:0000:0000:0001]",
    "[::]",
    "[0::0]",
    "[fe80::1]",
    "[fe80::1%25eth0]",
    "[fe80::1%eth0]",
    "[febf:ffff::1]",
    "[fec0::1]",
    "[fc00::1]",
    "[fd00::1]",
    "[FDFF:FFFF::1]",
    "[fd00:ec2::254]",
    "[fd00:0ec2:0:0:0:0:0:0254]",
    "[fd20:ce::254]",
    "[ff02::1]",
    "[ff05::2]",
    "[100::1]",
    "[2001:db8::1]",
    "[3fff::1]",
    "[2001:10::1]",
    "[4000::1]",
    "[5f00::1]",
    "127.1",
    "127.255.255.255",
    "0",
    "0.0.0.1",
    "00000",
    "0x0",
    "10.255.255.255",
    "172.31.255.255",
    "192.168.0.0",
    "100.127.255.255",
    "100.100.100.200",
    "168.63.129.16",
    "169.254.170.2",
    "192.0.0.192",
    "192.0.2.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "0xffffffff",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "\u{24db}ocalhost",
    "a.localhost",
    "127.0.0.1.nip.example",
    "metadata.google.internal",
    "metadata",
    "b\u{fc}cher.example",
];

/// Ways to hide where the host begins or ends, with the place of host and port.
const HIDDEN: [&str; 13] = [
    "http://93.184.215.14@{}/",
    "http://93.184.215.14:80@{}/",
    "http://a:b@{}/",
    "http://@{}/",
    "http://93.184.215.14%40{}/",
    "http://{}\\@93.184.215.14/",
    "http://{}#@93.184.215.14/",
    "http://{}?@93.184.215.14/",
    "HTTP://{}/",
    "http:\\\\{}\\",
    "http://\t{}/",
    "http:///{}/",
    " http://{}/",
];

#[tokio::test]
async fn no_spelling_of_an_inner_address_is_called() {
    let target = Target::start(ok()).await;
    let port = target.port();
    let hosts: Vec<String> = INSIDE
        .into_iter()
        .flat_map(|address| [version_four(address), version_six(address)].concat())
        .chain(OTHERS.map(ToOwned::to_owned))
        .collect();
    let urls: Vec<String> = hosts
        .iter()
        .flat_map(|host| [format!("http://{host}:{port}/"), format!("https://{host}:{port}/")])
        .chain(HIDDEN.map(|hidden| hidden.replace("{}", &format!("127.0.0.1:{port}"))))
        .collect();
    assert!(hosts.len() >= 200, "{}", hosts.len());
    let table = Table::of("*", &[&["127.0.0.1"]]);
    let http = allowing("", &table);
    for url in &urls {
        let outcome = get(&http, url).await;
        let failure = outcome.failure.unwrap_or_else(|| panic!("{url} was called"));
        assert_eq!(failure.error_type, ErrorType::ValidationError, "{url}: {}", failure.message);
        assert!(failure.message.starts_with("config.url "), "{url}: {}", failure.message);
    }
    assert_eq!(target.connections(), 0);
    // What is refused is refused for where it is: the same server is called where that is open.
    let open = allowing("127.0.0.1", &table);
    for host in ["127.0.0.1", "0x7f.1", "2130706433", "\u{ff11}\u{ff12}\u{ff17}.0.0.1", "127.0.0.1."] {
        assert_eq!(get(&open, format!("http://{host}:{port}/")).await.failure, None, "{host}");
    }
}
