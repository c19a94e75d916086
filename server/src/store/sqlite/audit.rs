//! What was done, by whom: entries, as they are written and read.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::{QueryBuilder, Sqlite};
use uuid::Uuid;

use super::rows::{before, micros};
use super::{SqliteStore, Work};
use crate::audit::{Head, Place, Seal};
use crate::execution::manual_id;
use crate::store::rows::{audit_entry, audit_row};
use crate::store::text::plain;
use crate::store::{
    Audit, AuditEntry, AuditFilter, AuditRow, DropAudit, Notes, Page, Result, SealAudit, Sealed, SignCheckpoint,
    Uncopied, Unsealed,
};

/// `select` of what [`audit_row`] reads.
macro_rules! select_entries {
    () => {
        "select e.*, not exists (select 1 from audit_unsealed u where u.tenant_id = e.tenant_id and u.id = e.id) as is_sealed \
         from audit_entries e where e.tenant_id = "
    };
}

#[async_trait]
impl Audit for SqliteStore {
    async fn record(&self, entries: &[AuditEntry]) -> Result<()> {
        let mut work = self.write().await?;
        note(&mut work, entries).await?;
        work.commit().await
    }

    async fn audit_entries(&self, tenant: Uuid, filter: &AuditFilter, page: &Page) -> Result<Vec<AuditRow>> {
        let mut query = QueryBuilder::<Sqlite>::new(select_entries!());
        query.push_bind(tenant);
        let (least, most) = filter.ids();
        if let Some(after) = page.after {
            query.push(" and e.id < ").push_bind(after);
        }
        if let Some(least) = least {
            query.push(" and e.id >= ").push_bind(least);
        }
        if let Some(most) = most {
            query.push(" and e.id <= ").push_bind(most);
        }
        if let Some(from) = filter.from {
            query.push(" and e.at >= ").push_bind(micros(from));
        }
        if let Some(to) = filter.to {
            query.push(" and e.at < ").push_bind(micros(to));
        }
        if let Some(id) = filter.actor_id() {
            query.push(" and e.actor_id = ").push_bind(id);
        }
        let texts = [
            (" and e.actor_name = ", filter.actor_name()),
            (" and e.action = ", filter.exact_action()),
            (" and e.resource_type = ", filter.resource_type.as_deref()),
            (" and e.resource_id = ", filter.resource_id.as_deref()),
            (" and e.outcome = ", filter.outcome.map(|outcome| outcome.as_json_str())),
        ];
        for (column, wanted) in texts {
            if let Some(wanted) = wanted {
                query.push(column).push_bind(plain(wanted).into_owned());
            }
        }
        if let Some(prefix) = filter.action_prefix() {
            query.push(" and instr(e.action, ").push_bind(plain(prefix).into_owned()).push(") = 1");
        }
        query.push(" order by e.id desc limit ").push_bind(page.limit.max(0));
        let found = query.build().fetch_all(&self.readers).await?;
        found.iter().map(audit_row).collect()
    }

    async fn audit_entry(&self, tenant: Uuid, id: Uuid) -> Result<Option<AuditRow>> {
        let found = sqlx::query(concat!(select_entries!(), "? and e.id = ?"))
            .bind(tenant)
            .bind(id)
            .fetch_optional(&self.readers)
            .await?;
        found.as_ref().map(audit_row).transpose()
    }

    async fn unsealed(&self) -> Result<Vec<Unsealed>> {
        self.waiting().await
    }

    async fn seal_audit(&self, tenant: Uuid, seal: &SealAudit<'_>) -> Result<Option<Sealed>> {
        self.seal_next(tenant, seal).await
    }

    async fn audit_seals(&self, tenant: Uuid, after: i64, limit: i64) -> Result<Vec<Seal>> {
        self.seals_after(tenant, after, limit).await
    }

    async fn audit_seals_around(&self, tenant: Uuid, entry: Uuid) -> Result<Vec<Seal>> {
        self.seals_around(tenant, entry).await
    }

    async fn audit_head(&self, tenant: Uuid, place: Place) -> Result<Option<Head>> {
        self.place(tenant, place).await
    }

    async fn audit_entries_of(&self, tenant: Uuid, ids: &[Uuid]) -> Result<Vec<AuditEntry>> {
        let mut work = self.read().await?;
        let mut entries = Vec::with_capacity(ids.len());
        for id in ids {
            let found = sqlx::query("select * from audit_entries where tenant_id = ? and id = ?")
                .bind(tenant)
                .bind(id)
                .fetch_optional(&mut *work.tx)
                .await?;
            entries.extend(found.as_ref().map(audit_entry).transpose()?);
        }
        Ok(entries)
    }

    async fn audit_ids(&self, tenant: Uuid, after: Uuid, through: Option<Uuid>, limit: i64) -> Result<Vec<Uuid>> {
        let found = sqlx::query_scalar(
            "select e.id from audit_entries e where e.tenant_id = ?1 and e.id > ?2 and (?3 is null or e.id <= ?3) \
             and not exists (select 1 from audit_unsealed u where u.tenant_id = e.tenant_id and u.id = e.id) \
             order by e.id limit ?4",
        )
        .bind(tenant)
        .bind(after)
        .bind(through)
        .bind(limit)
        .fetch_all(&self.readers)
        .await?;
        Ok(found)
    }

    async fn highest_sealed(&self, tenant: Uuid, sequence: i64) -> Result<Uuid> {
        let highest =
            "select last_id from audit_seals where tenant_id = ? and sequence <= ? order by last_id desc limit 1";
        let found = sqlx::query_scalar(highest).bind(tenant).bind(sequence).fetch_optional(&self.readers).await?;
        Ok(found.unwrap_or_default())
    }

    async fn left_unsealed(&self, tenant: Uuid, age: Duration, limit: i64) -> Result<Vec<(Uuid, bool)>> {
        let found = sqlx::query_as(
            "select u.id, e.id is not null from audit_unsealed u \
             left join audit_entries e on e.tenant_id = u.tenant_id and e.id = u.id \
             where u.tenant_id = ?1 and (e.id is null or e.at < ?2) order by u.id limit ?3",
        )
        .bind(tenant)
        .bind(micros(before(self.clock(), age)))
        .bind(limit)
        .fetch_all(&self.readers)
        .await?;
        Ok(found)
    }

    async fn drop_audit(&self, tenant: Uuid, drop: &DropAudit, checkpoint: &SignCheckpoint<'_>) -> Result<usize> {
        self.drop_seals(tenant, drop, checkpoint).await
    }

    async fn audited_tenants(&self) -> Result<Vec<Uuid>> {
        let tenants = "select tenant_id from audit_heads where kind = 'head' order by tenant_id";
        Ok(sqlx::query_scalar(tenants).fetch_all(&self.readers).await?)
    }

    async fn uncopied(&self) -> Result<Vec<Uncopied>> {
        let found: Vec<(Uuid, i64, i64)> = sqlx::query_as(
            "select h.tenant_id, coalesce(c.sequence, 0), coalesce(?1 - (select s.sealed_at from audit_seals s \
                where s.tenant_id = h.tenant_id and s.sequence > coalesce(c.sequence, 0) order by s.sequence limit 1), 0) \
             from audit_heads h left join audit_copies c using (tenant_id) \
             where h.kind = 'head' and h.sequence > coalesce(c.sequence, 0) order by h.tenant_id",
        )
        .bind(micros(self.clock()))
        .fetch_all(&self.readers)
        .await?;
        Ok(found.into_iter().map(Uncopied::of).collect())
    }

    async fn copied(&self, tenant: Uuid, sequence: i64) -> Result<()> {
        let mut work = self.write().await?;
        sqlx::query(
            "insert into audit_copies (tenant_id, sequence, copied_at) values (?1, ?2, ?3) \
             on conflict (tenant_id) do update set sequence = max(sequence, ?2), copied_at = ?3",
        )
        .bind(tenant)
        .bind(sequence)
        .bind(micros(work.now))
        .execute(&mut *work.tx)
        .await?;
        work.commit().await
    }
}

impl SqliteStore {
    /// What the call that is being served may have to write down.
    pub(super) fn notes(&self) -> Notes {
        Notes::of_call(|| self.note_id())
    }

    /// What a call has to write down that somebody becomes known by.
    pub(super) fn credential_notes(&self) -> Notes {
        Notes::of_credentials(self.note_id())
    }

    /// An id for an entry.
    pub(super) fn note_id(&self) -> Uuid {
        manual_id(self.clock())
    }
}

/// Writes entries, in the transaction of what they tell of.
pub(super) async fn note<'a>(work: &mut Work, entries: impl IntoIterator<Item = &'a AuditEntry>) -> Result<()> {
    for entry in entries {
        let AuditEntry { id, author, deed, outcome, .. } = entry;
        sqlx::query(
            "insert into audit_entries (tenant_id, id, at, actor_kind, actor_id, actor_name, action, resource_type, resource_id, \
             resource_name, address, request_id, outcome, before, after) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(deed.tenant)
        .bind(id)
        .bind(micros(work.now))
        .bind(plain(&author.kind))
        .bind(author.id)
        .bind(plain(&author.name))
        .bind(plain(&deed.action))
        .bind(plain(&deed.resource.kind))
        .bind(plain(&deed.resource.id))
        .bind(plain(&deed.resource.name))
        .bind(plain(&author.address))
        .bind(plain(&author.request_id))
        .bind(outcome.as_json_str())
        .bind(deed.before.as_deref().map(plain))
        .bind(deed.after.as_deref().map(plain))
        .execute(&mut *work.tx)
        .await?;
        sqlx::query("insert into audit_unsealed (tenant_id, id) values (?, ?)")
            .bind(deed.tenant)
            .bind(id)
            .execute(&mut *work.tx)
            .await?;
    }
    Ok(())
}
