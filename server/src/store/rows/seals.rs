use super::Columns;
use crate::audit::chain::unpacked;
use crate::audit::{Head, Link, Place, Seal};
use crate::store::Result;

const SEALS: &str = "audit_seals";
const HEADS: &str = "audit_heads";

pub(in crate::store) fn seal(row: &impl Columns) -> Result<Seal> {
    Ok(Seal {
        tenant: row.id("tenant_id")?,
        sequence: row.number("sequence")?,
        sealed_at: row.instant(SEALS, "sealed_at")?,
        entries: unpacked(&row.bytes("entries")?),
        last_at: row.instant(SEALS, "last_at")?,
        previous: row.hash(SEALS, "previous")?,
        hash: row.hash(SEALS, "hash")?,
    })
}

/// The signed place that was asked for.
pub(in crate::store) fn head(row: &impl Columns, place: Place) -> Result<Head> {
    let link =
        Link { sequence: row.number("sequence")?, hash: row.hash(HEADS, "hash")?, entries: row.number("entries")? };
    Ok(Head {
        tenant: row.id("tenant_id")?,
        place,
        link,
        at: row.instant(HEADS, "at")?,
        public_key: row.bytes("public_key")?,
        signature: row.bytes("signature")?,
    })
}
