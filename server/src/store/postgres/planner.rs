//! What PostgreSQL's planner is told, where it cannot know.

use sqlx::PgConnection;

use crate::store::Result;

/// Whether it may sort, from here on in this transaction: `on` or `off`. Without, it takes an index that has the order, where there is one.
pub(super) async fn sorting(connection: &mut PgConnection, value: &'static str) -> Result<()> {
    let set = "select set_config('enable_sort', $1, true), set_config('enable_incremental_sort', $1, true)";
    sqlx::query(set).bind(value).execute(connection).await?;
    Ok(())
}
