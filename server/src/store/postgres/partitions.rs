//! Months of history. What has a partition is found, and dropped, by its month; what comes for a month without one waits in the default
//! partition.

use chrono::{DateTime, Datelike, Months, NaiveDate, Utc};
use sqlx::{AssertSqlSafe, PgConnection};
use uuid::Uuid;

use super::bound::Tx;
use super::isolation::NONE;
use super::{PgStore, tables};
use crate::execution::month_bounds;
use crate::store::{Result, StoreError};

/// Partitioned tables with the column that they are partitioned by.
pub(super) const EXECUTIONS: [(&str, &str); 1] = [("job_executions", "id")];
pub(super) const LOGS: [(&str, &str); 2] =
    [("execution_logs", "execution_id"), ("execution_log_sizes", "execution_id")];

/// The lowest id of an instant, to the millisecond.
pub(super) fn floor_id(at: DateTime<Utc>) -> Uuid {
    let milliseconds = u128::try_from(at.timestamp_millis()).unwrap_or(0);
    Uuid::from_u128((milliseconds & 0xffff_ffff_ffff) << 80)
}

/// The partition of a month.
fn name_of(table: &str, month: DateTime<Utc>) -> String {
    format!("{table}_{:04}_{:02}", month.year(), month.month())
}

/// The first instant after the month of a partition; `None` for the default one.
fn end_of(table: &str, partition: &str) -> Option<DateTime<Utc>> {
    let (year, month) = partition.strip_prefix(table)?.strip_prefix('_')?.split_once('_')?;
    let first = NaiveDate::from_ymd_opt(year.parse().ok()?, month.parse().ok()?, 1)?;
    Some(first.checked_add_months(Months::new(1))?.and_hms_opt(0, 0, 0)?.and_utc())
}

impl PgStore {
    /// Tables are made and dropped by their owner, who is the user that has logged in.
    async fn begin_as_owner(&self) -> Result<Tx> {
        let mut tx = self.begin().await?;
        sqlx::query("select set_config('role', $1, true)").bind(NONE).execute(&mut *tx).await?;
        Ok(tx)
    }

    /// Makes the partitions of this month and `ahead` further ones; answers with the new ones.
    pub(super) async fn make_partitions(&self, ahead: u32) -> Result<Vec<String>> {
        let now: DateTime<Utc> = sqlx::query_scalar("select clock_timestamp()").fetch_one(self.pool()).await?;
        let mut made = Vec::new();
        for month in 0..=ahead {
            // From the first of the month: a month after the 31st there may be no 31st.
            let first = now - chrono::Days::new(u64::from(now.day0()));
            let month = first.checked_add_months(Months::new(month)).unwrap_or(first);
            for (table, column) in EXECUTIONS.into_iter().chain(LOGS) {
                made.extend(self.make_partition(table, column, month).await?);
            }
        }
        Ok(made)
    }

    async fn make_partition(&self, table: &str, column: &str, month: DateTime<Utc>) -> Result<Option<String>> {
        let name = name_of(table, month);
        let mut tx = self.begin_as_owner().await?;
        // Coordinators that start together make it once.
        let alone = "select set_config('lock_timeout', '14s', true), set_config('statement_timeout', '60s', true),
            pg_advisory_xact_lock($1), set_config('lock_timeout', '5s', true)";
        sqlx::query(alone).bind(self.inner.scope.wrapping_add(1)).execute(&mut *tx).await?;
        let exists: bool =
            sqlx::query_scalar("select to_regclass($1) is not null").bind(&name).fetch_one(&mut *tx).await?;
        if exists {
            return Ok(None);
        }
        let (from, to) = month_bounds(month);
        let range = format!("{column} >= '{from}' and {column} < '{to}'");
        let columns = columns(&mut tx, table).await?;
        let listed = tables::listed(table).ok_or_else(|| StoreError::Unusable(format!("{table} is in no list")))?;
        // Made apart and then attached: to attach takes a weaker lock of the table than to make it in place. What of this month has
        // come into the default partition moves, by the role that sees the rows; the owner sees none.
        let statements = [
            format!("create table {name} (like {table} including defaults including generated including constraints)"),
            listed.isolate(&name, true, &[]),
            format!("lock table {table}_default in access exclusive mode"),
            format!("set local role {}", listed.mover()),
            format!(
                "with moved as (delete from {table}_default where {range} returning {columns})
                 insert into {name} ({columns}) select {columns} from moved"
            ),
            "set local role none".to_owned(),
            format!("alter table {table} attach partition {name} for values from ('{from}') to ('{to}')"),
        ];
        for statement in statements {
            sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(Some(name))
    }

    /// Drops the partitions that end before an instant; answers with them.
    pub(super) async fn drop_partitions(&self, table: &str, before: DateTime<Utc>) -> Result<Vec<String>> {
        let names: Vec<String> = sqlx::query_scalar(
            "select c.relname::text from pg_inherits i join pg_class c on c.oid = i.inhrelid
             where i.inhparent = $1::text::regclass order by 1",
        )
        .bind(table)
        .fetch_all(self.pool())
        .await?;
        let mut dropped = Vec::new();
        for name in names {
            if end_of(table, &name).is_none_or(|end| end > before) {
                continue;
            }
            let mut tx = self.begin_as_owner().await?;
            // Readers are not to queue for long behind this.
            sqlx::query("select set_config('lock_timeout', '2s', true)").execute(&mut *tx).await?;
            let drop = format!("drop table if exists {name}");
            sqlx::query(AssertSqlSafe(drop)).persistent(false).execute(&mut *tx).await?;
            tx.commit().await?;
            dropped.push(name);
        }
        Ok(dropped)
    }
}

/// The columns that can be written.
async fn columns(connection: &mut PgConnection, table: &str) -> Result<String> {
    Ok(sqlx::query_scalar(
        "select string_agg(quote_ident(attname), ', ' order by attnum) from pg_attribute
         where attrelid = $1::text::regclass and attnum > 0 and not attisdropped and attgenerated = ''",
    )
    .bind(table)
    .fetch_one(connection)
    .await?)
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone;

    use super::*;

    #[test]
    fn a_partition_is_named_by_its_month() {
        let december = Utc.with_ymd_and_hms(2026, 12, 31, 23, 0, 0).unwrap();
        let name = name_of("job_executions", december);
        assert_eq!(name, "job_executions_2026_12");
        assert_eq!(end_of("job_executions", &name), Some(Utc.with_ymd_and_hms(2027, 1, 1, 0, 0, 0).unwrap()));
        assert_eq!(end_of("job_executions", "job_executions_default"), None);
    }

    #[test]
    fn the_lowest_id_of_an_instant_begins_its_month() {
        let first = Utc.with_ymd_and_hms(2026, 12, 1, 0, 0, 0).unwrap();
        assert_eq!(floor_id(first), month_bounds(first).0);
    }
}
