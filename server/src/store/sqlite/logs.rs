//! What executions print.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use async_trait::async_trait;
use orrery_proto::v1::LogStream;
use sqlx::Row;
use uuid::Uuid;

use super::rows::{instant, micros, named};
use super::{SqliteStore, Work, executions};
use crate::store::text::plain;
use crate::store::{LogLine, Logs, RefusedResult, Result};

/// What is known of an execution's log.
struct Size {
    /// The execution's newest epoch; `None` where there is no such execution (of the tenant).
    epoch: Option<i64>,
    bytes: i64,
    full: bool,
    /// What its tenant lets it print, where it says so; 0 is no limit.
    own_most: Option<i64>,
}

#[async_trait]
impl Logs for SqliteStore {
    async fn append_logs(&self, tenant: Option<Uuid>, mut lines: Vec<LogLine>, max_bytes: i64) -> Result<()> {
        lines.sort_by_key(|line| (line.execution_id, line.sequence));
        let mut work = self.write().await?;
        let mut sizes: HashMap<Uuid, Size> = HashMap::new();
        for line in lines {
            let id = line.execution_id;
            let size = match sizes.entry(id) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(size(&mut work, tenant, id).await?),
            };
            if size.epoch == Some(line.epoch) {
                let most = match size.own_most {
                    Some(0) => i64::MAX,
                    own => own.unwrap_or(max_bytes),
                };
                append(&mut work, line, size, most).await?;
            }
        }
        for (id, size) in sizes.iter().filter(|(_, size)| size.epoch.is_some()) {
            sqlx::query(
                "insert into execution_log_sizes (execution_id, bytes, full) values (?, ?, ?) \
                 on conflict (execution_id) do update set bytes = excluded.bytes, full = excluded.full",
            )
            .bind(id)
            .bind(size.bytes)
            .bind(size.full)
            .execute(&mut *work.tx)
            .await?;
        }
        work.commit().await
    }

    async fn note_refused(&self, refused: &[RefusedResult]) -> Result<()> {
        let mut work = self.write().await?;
        for result in refused {
            let execution = executions::any(&mut work.tx, result.execution).await?;
            if let Some(line) = execution.and_then(|execution| result.line(&execution, work.now)) {
                insert(&mut work, &line).await?;
            }
        }
        work.commit().await
    }

    async fn logs(&self, tenant: Uuid, execution: Uuid, after: i64, limit: i64) -> Result<Vec<LogLine>> {
        const TABLE: &str = "execution_logs";
        let found = sqlx::query(
            "select sequence, epoch, attempt, stream, at, text from execution_logs where execution_id = ?1 and sequence > ?2 \
             and (exists (select 1 from live_executions where id = ?1 and tenant_id = ?3) \
             or exists (select 1 from job_executions where id = ?1 and tenant_id = ?3)) order by sequence limit ?4",
        )
        .bind(execution)
        .bind(after)
        .bind(tenant)
        .bind(limit.max(0))
        .fetch_all(&self.readers)
        .await?;
        let line = |row: &sqlx::sqlite::SqliteRow| {
            Ok(LogLine {
                execution_id: execution,
                sequence: row.try_get("sequence")?,
                epoch: row.try_get("epoch")?,
                attempt: row.try_get("attempt")?,
                stream: named(row, TABLE, "stream", LogStream::from_json_str)?,
                at: instant(row, TABLE, "at")?,
                text: row.try_get("text")?,
            })
        };
        found.iter().map(line).collect()
    }
}

async fn size(work: &mut Work, tenant: Option<Uuid>, execution: Uuid) -> Result<Size> {
    let (epoch, bytes, full, own_most) = sqlx::query_as(
        "select coalesce((select epoch from live_executions where id = ?1 and (?2 is null or tenant_id = ?2)), \
         (select epoch from job_executions where id = ?1 and (?2 is null or tenant_id = ?2))), \
         coalesce((select bytes from execution_log_sizes where execution_id = ?1), 0), \
         coalesce((select full from execution_log_sizes where execution_id = ?1), 0), \
         (select t.max_log_bytes from tenants t where t.id = coalesce((select tenant_id from live_executions where id = ?1), \
         (select tenant_id from job_executions where id = ?1)))",
    )
    .bind(execution)
    .bind(tenant)
    .fetch_one(&mut *work.tx)
    .await?;
    Ok(Size { epoch, bytes, full, own_most })
}

async fn append(work: &mut Work, mut line: LogLine, size: &mut Size, max_bytes: i64) -> Result<()> {
    if size.full {
        return Ok(());
    }
    let bytes = i64::try_from(line.text.len()).unwrap_or(i64::MAX);
    line.text = plain(&line.text).into_owned();
    let total = size.bytes.saturating_add(bytes);
    if total <= max_bytes {
        if insert(work, &line).await? {
            size.bytes = total;
        }
        return Ok(());
    }
    // The word on what is dropped takes the place of the first line that is, unless that one had been stored.
    line.stream = LogStream::System;
    line.text = format!("the log is full at {max_bytes} bytes; what follows is dropped");
    size.full = insert(work, &line).await?;
    Ok(())
}

/// `false` where the line is there already.
async fn insert(work: &mut Work, line: &LogLine) -> Result<bool> {
    let done = sqlx::query(
        "insert into execution_logs (execution_id, sequence, epoch, attempt, stream, at, text) values (?, ?, ?, ?, ?, ?, ?) \
         on conflict do nothing",
    )
    .bind(line.execution_id)
    .bind(line.sequence)
    .bind(line.epoch)
    .bind(line.attempt)
    .bind(line.stream.as_json_str())
    .bind(micros(line.at))
    .bind(&line.text)
    .execute(&mut *work.tx)
    .await?;
    Ok(done.rows_affected() == 1)
}
