//! Where rows are.

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgRow, PgTypeInfo};
use sqlx::{ColumnIndex, Encode, Postgres, Row, Type};

use crate::store::Result;

/// The place of a row's version (`ctid`): whoever holds its lock finds the row there without a look into an index. It moves with every
/// change of the row, so it is good for the transaction that has the lock, and for nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    block: u32,
    offset: u16,
}

impl Place {
    /// The one that a column holds.
    pub(super) fn of(row: &PgRow, column: impl ColumnIndex<PgRow>) -> Result<Self> {
        let text: &str = row.try_get(column)?;
        Self::parse(text).ok_or_else(|| super::rows::corrupt("live_executions", "ctid", text))
    }

    fn parse(text: &str) -> Option<Self> {
        let (block, offset) = text.strip_prefix('(')?.strip_suffix(')')?.split_once(',')?;
        Some(Self { block: block.parse().ok()?, offset: offset.parse().ok()? })
    }
}

/// `tid`, as PostgreSQL has it since ever.
impl Type<Postgres> for Place {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(27))
    }
}

impl PgHasArrayType for Place {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(Oid(1010))
    }
}

impl Encode<'_, Postgres> for Place {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> std::result::Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(&self.block.to_be_bytes());
        buffer.extend_from_slice(&self.offset.to_be_bytes());
        Ok(IsNull::No)
    }

    fn size_hint(&self) -> usize {
        6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_postgresql_writes_them() {
        assert_eq!(Place::parse("(0,1)"), Some(Place { block: 0, offset: 1 }));
        assert_eq!(Place::parse("(4294967294,65535)"), Some(Place { block: 4_294_967_294, offset: 65_535 }));
        for bad in ["", "0,1", "(0,1", "(0)", "(0,-1)", "(a,1)"] {
            assert_eq!(Place::parse(bad), None, "{bad}");
        }
    }
}
