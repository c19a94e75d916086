//! [`Logs`].

use std::collections::{BTreeMap, HashMap, HashSet};

use async_trait::async_trait;
use orrery_proto::v1::LogStream;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::apply::lock;
use super::bound::{Mode, Tx};
use super::commit::commit;
use super::reads::history;
use super::{PgStore, retried, rows};
use crate::execution::Execution;
use crate::store::{LogLine, Logs, RefusedResult, Result, text};

/// What an execution has printed so far.
#[derive(Clone, Copy, Default)]
struct Size {
    bytes: i64,
    cut: bool,
    touched: bool,
}

#[async_trait]
impl Logs for PgStore {
    async fn append_logs(&self, tenant: Option<Uuid>, lines: Vec<LogLine>, max_bytes: i64) -> Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        retried!(self, self.try_append(tenant, &lines, max_bytes))
    }

    async fn note_refused(&self, refused: &[RefusedResult]) -> Result<()> {
        retried!(self, self.try_note(refused))
    }

    async fn logs(&self, tenant: Uuid, execution: Uuid, after: i64, limit: i64) -> Result<Vec<LogLine>> {
        let read = move |mut tx: Tx| async move {
            match is_settled(&mut tx, tenant, execution).await? {
                true => printed(&mut tx, tenant, execution, after, limit).await.map(Some),
                false => Ok(None),
            }
        };
        match self.on_replica(tenant, Mode::Read, read).await.flatten() {
            Some(lines) => Ok(lines),
            None => printed(&mut *self.read_for(tenant).await?, tenant, execution, after, limit).await,
        }
    }
}

/// Whether an execution has been over for so long that all that it printed has come, here too.
async fn is_settled(connection: &mut PgConnection, tenant: Uuid, execution: Uuid) -> Result<bool> {
    let settled = "select exists (select 1 from job_executions
        where id = $1 and tenant_id = $2 and completed_at < clock_timestamp() - interval '1 minute')";
    Ok(sqlx::query_scalar(settled).bind(execution).bind(tenant).fetch_one(connection).await?)
}

async fn printed(
    connection: &mut PgConnection,
    tenant: Uuid,
    execution: Uuid,
    after: i64,
    limit: i64,
) -> Result<Vec<LogLine>> {
    let found = sqlx::query(
        "select execution_id, sequence, epoch, attempt, stream, at, text from execution_logs
         where execution_id = $2 and sequence > $3 and (
            exists (select 1 from live_executions where id = $2 and tenant_id = $1)
            or exists (select 1 from job_executions where id = $2 and tenant_id = $1))
         order by sequence limit $4",
    )
    .bind(tenant)
    .bind(execution)
    .bind(after)
    .bind(limit.max(0))
    .fetch_all(connection)
    .await?;
    let line = |row: &sqlx::postgres::PgRow| {
        let stream: i16 = row.try_get("stream")?;
        Ok(LogLine {
            execution_id: row.try_get("execution_id")?,
            sequence: row.try_get("sequence")?,
            epoch: row.try_get("epoch")?,
            attempt: row.try_get("attempt")?,
            stream: LogStream::try_from(i32::from(stream))
                .map_err(|_| rows::corrupt("execution_logs", "stream", stream))?,
            at: row.try_get("at")?,
            text: row.try_get("text")?,
        })
    };
    found.iter().map(line).collect()
}

impl PgStore {
    async fn try_append(&self, tenant: Option<Uuid>, lines: &[LogLine], max_bytes: i64) -> Result<()> {
        let mut tx = self.begin().await?;
        let known = known(&mut tx, tenant, lines).await?;
        let is_newest = |l: &&LogLine| known.get(&l.execution_id).is_some_and(|known| known.epoch == l.epoch);
        let mut lines: Vec<&LogLine> = lines.iter().filter(is_newest).collect();
        if lines.is_empty() {
            return Ok(());
        }
        lines.sort_by_key(|l| (l.execution_id, l.sequence));
        lines.dedup_by_key(|l| (l.execution_id, l.sequence));
        let mut sizes = lock_sizes(&mut tx, &lines).await?;
        // After the lock, so that what another call has just stored is seen.
        let stored = stored(&mut tx, &lines).await?;
        lines.retain(|l| !stored.contains(&(l.execution_id, l.sequence)));
        let budget = |execution: Uuid| match known.get(&execution).and_then(|known| known.max_bytes) {
            Some(0) => i64::MAX,
            own => own.unwrap_or(max_bytes),
        };
        let kept = within(&lines, &mut sizes, budget);
        let tenants = known.iter().map(|(execution, known)| (*execution, known.tenant)).collect();
        insert(&mut tx, &kept, &tenants).await?;
        save_sizes(&mut tx, &sizes).await?;
        commit(tx).await?;
        Ok(())
    }
}

impl PgStore {
    async fn try_note(&self, refused: &[RefusedResult]) -> Result<()> {
        let mut tx = self.begin().await?;
        let ids: Vec<Uuid> = refused.iter().map(|result| result.execution).collect();
        let mut known: Vec<Execution> =
            lock(&mut tx, &ids).await?.into_iter().map(|locked| *locked.execution).collect();
        known.extend(history(&mut tx, &ids).await?);
        let now = super::clock(&mut tx).await?;
        let lines = refused.iter().filter_map(|result| known.iter().find_map(|execution| result.line(execution, now)));
        let tenants = known.iter().map(|execution| (execution.id, execution.tenant_id)).collect();
        insert(&mut tx, &lines.collect::<Vec<_>>(), &tenants).await?;
        commit(tx).await?;
        Ok(())
    }
}

/// The lines that fit into the budgets of their executions. The first one that does not is replaced by a line that says so.
fn within(lines: &[&LogLine], sizes: &mut BTreeMap<Uuid, Size>, budget: impl Fn(Uuid) -> i64) -> Vec<LogLine> {
    let mut kept = Vec::with_capacity(lines.len());
    for line in lines {
        let max_bytes = budget(line.execution_id);
        let size = sizes.entry(line.execution_id).or_default();
        if size.cut {
            continue;
        }
        let bytes = i64::try_from(line.text.len()).unwrap_or(i64::MAX);
        size.touched = true;
        if size.bytes.saturating_add(bytes) <= max_bytes {
            size.bytes += bytes;
            kept.push(LogLine { text: text::plain(&line.text).into_owned(), ..(*line).clone() });
        } else {
            size.cut = true;
            let said = format!("the log is full at {max_bytes} bytes; what follows is dropped");
            kept.push(LogLine { stream: LogStream::System, text: said, ..(*line).clone() });
        }
    }
    kept
}

fn ids(lines: &[&LogLine]) -> Vec<Uuid> {
    let ids: HashSet<Uuid> = lines.iter().map(|l| l.execution_id).collect();
    let mut ids: Vec<Uuid> = ids.into_iter().collect();
    ids.sort_unstable();
    ids
}

/// What is known of an execution that prints.
struct Known {
    /// The newest.
    epoch: i64,
    tenant: Uuid,
    /// What its tenant lets it print, where it says so; 0 is no limit.
    max_bytes: Option<i64>,
}

/// The lines' executions, where they are those of the tenant.
async fn known(tx: &mut PgConnection, tenant: Option<Uuid>, lines: &[LogLine]) -> Result<HashMap<Uuid, Known>> {
    let found = sqlx::query(
        "select e.id, e.epoch, e.tenant_id, t.max_log_bytes from (
            select e.id, e.epoch, e.tenant_id from live_executions e where e.id = any($1) and ($2::uuid is null or e.tenant_id = $2)
            union all
            select h.id, h.epoch, h.tenant_id from unnest($1::uuid[]) as u(id)
            cross join lateral (select * from job_executions d where d.id = u.id limit 1) h
            where $2::uuid is null or h.tenant_id = $2
         ) e left join tenants t on t.id = e.tenant_id",
    )
    .bind(ids(&lines.iter().collect::<Vec<_>>()))
    .bind(tenant)
    .fetch_all(tx)
    .await?;
    let known = |row: &sqlx::postgres::PgRow| {
        let (epoch, tenant) = (row.try_get("epoch")?, row.try_get("tenant_id")?);
        Ok((row.try_get("id")?, Known { epoch, tenant, max_bytes: row.try_get("max_log_bytes")? }))
    };
    found.iter().map(known).collect()
}

async fn lock_sizes(tx: &mut PgConnection, lines: &[&LogLine]) -> Result<BTreeMap<Uuid, Size>> {
    let ids = ids(lines);
    sqlx::query("insert into execution_log_sizes (execution_id) select unnest($1::uuid[]) on conflict do nothing")
        .bind(&ids)
        .execute(&mut *tx)
        .await?;
    let found = sqlx::query(
        "select execution_id, bytes, cut from execution_log_sizes
         where execution_id = any($1) order by execution_id for no key update",
    )
    .bind(&ids)
    .fetch_all(tx)
    .await?;
    let size = |row: &sqlx::postgres::PgRow| {
        let size = Size { bytes: row.try_get("bytes")?, cut: row.try_get("cut")?, touched: false };
        Ok((row.try_get("execution_id")?, size))
    };
    found.iter().map(size).collect()
}

async fn stored(tx: &mut PgConnection, lines: &[&LogLine]) -> Result<HashSet<(Uuid, i64)>> {
    let found = sqlx::query(
        "select l.execution_id, l.sequence from unnest($1::uuid[], $2::bigint[]) as u(execution_id, sequence)
         join execution_logs l on l.execution_id = u.execution_id and l.sequence = u.sequence",
    )
    .bind(lines.iter().map(|l| l.execution_id).collect::<Vec<_>>())
    .bind(lines.iter().map(|l| l.sequence).collect::<Vec<_>>())
    .fetch_all(tx)
    .await?;
    found.iter().map(|row| Ok((row.try_get("execution_id")?, row.try_get("sequence")?))).collect()
}

async fn insert(tx: &mut PgConnection, lines: &[LogLine], tenants: &HashMap<Uuid, Uuid>) -> Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    let stream = |l: &LogLine| i16::try_from(l.stream as i32).unwrap_or_default();
    sqlx::query(
        "insert into execution_logs (execution_id, sequence, epoch, attempt, stream, at, text, tenant_id)
         select * from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::integer[], $5::smallint[], $6::timestamptz[], $7::text[],
            $8::uuid[])
         on conflict do nothing",
    )
    .bind(lines.iter().map(|l| l.execution_id).collect::<Vec<_>>())
    .bind(lines.iter().map(|l| l.sequence).collect::<Vec<_>>())
    .bind(lines.iter().map(|l| l.epoch).collect::<Vec<_>>())
    .bind(lines.iter().map(|l| l.attempt).collect::<Vec<_>>())
    .bind(lines.iter().map(stream).collect::<Vec<_>>())
    .bind(lines.iter().map(|l| l.at).collect::<Vec<_>>())
    .bind(lines.iter().map(|l| l.text.as_str()).collect::<Vec<_>>())
    .bind(lines.iter().map(|l| tenants.get(&l.execution_id).copied()).collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}

async fn save_sizes(tx: &mut PgConnection, sizes: &BTreeMap<Uuid, Size>) -> Result<()> {
    let touched: Vec<(&Uuid, &Size)> = sizes.iter().filter(|(_, size)| size.touched).collect();
    sqlx::query(
        "update execution_log_sizes s set bytes = u.bytes, cut = u.cut
         from unnest($1::uuid[], $2::bigint[], $3::boolean[]) as u(id, bytes, cut) where s.execution_id = u.id",
    )
    .bind(touched.iter().map(|(id, _)| **id).collect::<Vec<_>>())
    .bind(touched.iter().map(|(_, s)| s.bytes).collect::<Vec<_>>())
    .bind(touched.iter().map(|(_, s)| s.cut).collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}
