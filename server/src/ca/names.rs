//! What the authority and its certificates share: instants, serial numbers and names.

use chrono::{DateTime, Utc};
use rcgen::{DistinguishedName, DnType, SerialNumber};
use time::OffsetDateTime;

/// An instant as a certificate has it: whole seconds (RFC 5280, 4.1.2.5).
pub(super) fn instant(at: DateTime<Utc>) -> OffsetDateTime {
    // Out of its range are years that no certificate of ours names.
    OffsetDateTime::from_unix_timestamp(at.timestamp()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// 127 random bits: positive, and of no more than 20 bytes (RFC 5280, 4.1.2.2).
pub(super) fn serial() -> [u8; 16] {
    let mut serial: [u8; 16] = rand::random();
    // Neither negative nor shorter than it looks.
    serial[0] = (serial[0] & 0x7f) | 0x40;
    serial
}

pub(super) fn serial_number(serial: &[u8; 16]) -> SerialNumber {
    SerialNumber::from_slice(serial)
}

pub(super) fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Orrery");
    name.push(DnType::CommonName, common);
    name
}
