//! Sums.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, QueryBuilder, Row};
use uuid::Uuid;

use super::counts;
use super::tallies::{self, Scope};
use crate::store::{Result, Stats};

/// Sums of one database. In one snapshot: an execution that ends meanwhile is either live or over in it, and in its tally or not yet, and
/// never neither.
pub(super) async fn read_stats(
    tx: &mut PgConnection,
    tenant: Uuid,
    job: Option<Uuid>,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
) -> Result<Stats> {
    let scope = Scope { tenant, job };
    let now = super::clock(tx).await?;
    let mut stats = tallies::over(tx, scope, (from, to), now).await?.stats();
    stats.pending = counts::waiting_in(tx, scope, from, to).await?;
    let mut query = QueryBuilder::new("select count(*) from live_executions");
    scope.push(&mut query);
    query.push(" and session_id is not null");
    query.push(" and scheduled_at >= ").push_bind(from).push(" and scheduled_at < ").push_bind(to);
    stats.running = query.build_query_scalar().fetch_one(&mut *tx).await?;
    let mut query = QueryBuilder::new("select coalesce(sum(count), 0)::bigint as omitted from fire_omissions");
    scope.push(&mut query);
    query.push(" and from_at >= ").push_bind(from).push(" and from_at < ").push_bind(to);
    stats.omitted = query.build().fetch_one(&mut *tx).await?.try_get("omitted")?;
    Ok(stats)
}
