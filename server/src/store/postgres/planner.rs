//! What PostgreSQL's planner is told, where it cannot know.

use sqlx::PgConnection;

use crate::store::Result;

/// Whether it may sort, from here on in this transaction: `on` or `off`. Without, it takes an index that has the order, where there is one.
pub(super) async fn sorting(connection: &mut PgConnection, value: &'static str) -> Result<()> {
    let set = "select set_config('enable_sort', $1, true), set_config('enable_incremental_sort', $1, true)";
    sqlx::query(set).bind(value).execute(connection).await?;
    Ok(())
}

/// Held by a session, in words by which the index of sessions is entered as by a key. `session_id is not null` only lets it be read from end to
/// end, which the planner takes for reading the whole table, so that it would rather read all that waits in another index.
macro_rules! leased {
    ($execution:literal) => {
        concat!($execution, ".session_id >= '00000000-0000-0000-0000-000000000000'")
    };
}

pub(super) use leased;
