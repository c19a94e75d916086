use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::store::{Result, StoreError};

/// The columns of a row by their names. `table` is what an error names.
pub(in crate::store) trait Columns {
    fn id(&self, column: &str) -> Result<Uuid>;
    fn maybe_id(&self, column: &str) -> Result<Option<Uuid>>;
    fn text(&self, column: &str) -> Result<String>;
    fn maybe_text(&self, column: &str) -> Result<Option<String>>;
    fn small(&self, column: &str) -> Result<i32>;
    fn number(&self, column: &str) -> Result<i64>;
    fn maybe_small(&self, column: &str) -> Result<Option<i32>>;
    fn maybe_number(&self, column: &str) -> Result<Option<i64>>;
    fn flag(&self, column: &str) -> Result<bool>;
    fn bytes(&self, column: &str) -> Result<Vec<u8>>;
    fn instant(&self, table: &'static str, column: &str) -> Result<DateTime<Utc>>;
    fn maybe_instant(&self, table: &'static str, column: &str) -> Result<Option<DateTime<Utc>>>;
    fn texts(&self, table: &'static str, column: &str) -> Result<Vec<String>>;

    /// JSON text.
    fn json<T: DeserializeOwned>(&self, table: &'static str, column: &str) -> Result<T> {
        serde_json::from_str(&self.text(column)?).map_err(|error| corrupt(table, column, error))
    }

    /// The name of an enum's value.
    fn named<T>(&self, table: &'static str, column: &str, of: fn(&str) -> Option<T>) -> Result<T> {
        let text = self.text(column)?;
        of(&text).ok_or_else(|| corrupt(table, column, text))
    }

    /// A SHA-256.
    fn hash(&self, table: &'static str, column: &str) -> Result<[u8; 32]> {
        let bytes = self.bytes(column)?;
        <[u8; 32]>::try_from(bytes).map_err(|bytes| corrupt(table, column, format!("{} bytes long", bytes.len())))
    }
}

fn corrupt(table: &'static str, column: &str, what: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt { table, reason: format!("{column} is {what}") }
}

/// The columns of [`Columns`] whose types every engine has.
macro_rules! plain_columns {
    () => {
        $crate::store::rows::plain_columns! {
            id: uuid::Uuid, maybe_id: Option<uuid::Uuid>, text: String, maybe_text: Option<String>, small: i32,
            maybe_small: Option<i32>, number: i64, maybe_number: Option<i64>, flag: bool, bytes: Vec<u8>
        }
    };
    ($($name:ident: $type:ty),+) => {
        $(fn $name(&self, column: &str) -> $crate::store::Result<$type> {
            Ok(sqlx::Row::try_get(self, column)?)
        })+
    };
}
pub(in crate::store) use plain_columns;
