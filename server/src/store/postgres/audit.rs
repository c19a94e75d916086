//! [`Audit`]: entries, as they are written and read.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::PgArguments;
use sqlx::{PgConnection, Postgres, QueryBuilder};
use uuid::Uuid;

use super::commit::{commit, in_time};
use super::{PgStore, micros};
use crate::audit::{Head, Place, Seal};
use crate::execution::manual_id;
use crate::store::rows::{audit_entry, audit_row};
use crate::store::{
    Audit, AuditEntry, AuditFilter, AuditRow, DropAudit, Notes, Page, Result, SealAudit, Sealed, SignCheckpoint,
    Uncopied, Unsealed, text,
};

/// `select` of what [`audit_row`] reads.
macro_rules! select_entries {
    () => {
        "select e.*, not exists (select from audit_unsealed u where u.tenant_id = e.tenant_id and u.id = e.id) as is_sealed
         from audit_entries e where e.tenant_id = "
    };
}

#[async_trait]
impl Audit for PgStore {
    async fn record(&self, entries: &[AuditEntry]) -> Result<()> {
        let mut tx = self.begin_identity().await?;
        note(&mut tx, entries).await?;
        commit(tx).await
    }

    async fn audit_entries(&self, tenant: Uuid, filter: &AuditFilter, page: &Page) -> Result<Vec<AuditRow>> {
        let mut query = QueryBuilder::<Postgres>::new(select_entries!());
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
            query.push(" and e.at >= ").push_bind(from);
        }
        if let Some(to) = filter.to {
            query.push(" and e.at < ").push_bind(to);
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
                query.push(column).push_bind(text::plain(wanted).into_owned());
            }
        }
        if let Some(prefix) = filter.action_prefix() {
            query.push(" and starts_with(e.action, ").push_bind(text::plain(prefix).into_owned()).push(")");
        }
        query.push(" order by e.id desc limit ").push_bind(page.limit.max(0));
        let found = query.build().fetch_all(&mut *self.read_for(tenant).await?).await?;
        found.iter().map(audit_row).collect()
    }

    async fn audit_entry(&self, tenant: Uuid, id: Uuid) -> Result<Option<AuditRow>> {
        let found = sqlx::query(concat!(select_entries!(), "$1 and e.id = $2"))
            .bind(tenant)
            .bind(id)
            .fetch_optional(&mut *self.read_for(tenant).await?)
            .await?;
        found.as_ref().map(audit_row).transpose()
    }

    async fn unsealed(&self) -> Result<Vec<Unsealed>> {
        in_time(self.waiting()).await
    }

    async fn seal_audit(&self, tenant: Uuid, seal: &SealAudit<'_>) -> Result<Option<Sealed>> {
        in_time(self.seal_next(tenant, seal)).await
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
        let found = sqlx::query("select * from audit_entries where tenant_id = $1 and id = any($2)")
            .bind(tenant)
            .bind(ids)
            .fetch_all(&mut *self.read_for(tenant).await?)
            .await?;
        found.iter().map(audit_entry).collect()
    }

    async fn audit_ids(&self, tenant: Uuid, after: Uuid, through: Option<Uuid>, limit: i64) -> Result<Vec<Uuid>> {
        let found = sqlx::query_scalar(
            "select e.id from audit_entries e where e.tenant_id = $1 and e.id > $2 and ($3::uuid is null or e.id <= $3)
                and not exists (select from audit_unsealed u where u.tenant_id = e.tenant_id and u.id = e.id)
             order by e.id limit $4",
        )
        .bind(tenant)
        .bind(after)
        .bind(through)
        .bind(limit)
        .fetch_all(&mut *self.read_for(tenant).await?)
        .await?;
        Ok(found)
    }

    async fn highest_sealed(&self, tenant: Uuid, sequence: i64) -> Result<Uuid> {
        let highest =
            "select last_id from audit_seals where tenant_id = $1 and sequence <= $2 order by last_id desc limit 1";
        let found = sqlx::query_scalar(highest)
            .bind(tenant)
            .bind(sequence)
            .fetch_optional(&mut *self.read_for(tenant).await?)
            .await?;
        Ok(found.unwrap_or_default())
    }

    async fn left_unsealed(&self, tenant: Uuid, age: Duration, limit: i64) -> Result<Vec<(Uuid, bool)>> {
        let found = sqlx::query_as(
            "select u.id, e.id is not null from audit_unsealed u
             left join audit_entries e on e.tenant_id = u.tenant_id and e.id = u.id
             where u.tenant_id = $1 and (e.id is null or e.at < clock_timestamp() - $2 * interval '1 microsecond')
             order by u.id limit $3",
        )
        .bind(tenant)
        .bind(micros(age))
        .bind(limit)
        .fetch_all(&mut *self.read_for(tenant).await?)
        .await?;
        Ok(found)
    }

    async fn drop_audit(&self, tenant: Uuid, drop: &DropAudit, checkpoint: &SignCheckpoint<'_>) -> Result<usize> {
        in_time(self.drop_seals(tenant, drop, checkpoint)).await
    }

    async fn audited_tenants(&self) -> Result<Vec<Uuid>> {
        let tenants = "select tenant_id from audit_heads where kind = 'head' order by tenant_id";
        Ok(sqlx::query_scalar(tenants).fetch_all(self.audit()).await?)
    }

    async fn uncopied(&self) -> Result<Vec<Uncopied>> {
        let found: Vec<(Uuid, i64, i64)> = sqlx::query_as(
            "select h.tenant_id, coalesce(c.sequence, 0),
                coalesce((select (extract(epoch from clock_timestamp() - s.sealed_at) * 1000000)::bigint from audit_seals s
                    where s.tenant_id = h.tenant_id and s.sequence > coalesce(c.sequence, 0) order by s.sequence limit 1), 0)
             from audit_heads h left join audit_copies c using (tenant_id)
             where h.kind = 'head' and h.sequence > coalesce(c.sequence, 0) order by h.tenant_id",
        )
        .fetch_all(self.audit())
        .await?;
        Ok(found.into_iter().map(Uncopied::of).collect())
    }

    async fn copied(&self, tenant: Uuid, sequence: i64) -> Result<()> {
        sqlx::query(
            "insert into audit_copies (tenant_id, sequence, copied_at) values ($1, $2, clock_timestamp())
             on conflict (tenant_id) do update set sequence = greatest(audit_copies.sequence, excluded.sequence),
                copied_at = excluded.copied_at",
        )
        .bind(tenant)
        .bind(sequence)
        .execute(self.audit())
        .await?;
        Ok(())
    }
}

impl PgStore {
    /// What the call that is being served may have to write down; to be asked for before its transaction.
    pub(super) fn notes(&self) -> Notes {
        Notes::of_call(|| self.note_id())
    }

    /// What a call has to write down that somebody becomes known by; to be asked for before its transaction.
    pub(super) fn credential_notes(&self) -> Notes {
        Notes::of_credentials(self.note_id())
    }

    /// An id for an entry.
    pub(super) fn note_id(&self) -> Uuid {
        self.estimate().map_or_else(Uuid::now_v7, manual_id)
    }
}

/// Writes entries, in the transaction of what they tell of. Those that are there already stay as they are: a transaction is being repeated.
pub(super) async fn note<'a>(
    connection: &mut PgConnection,
    entries: impl IntoIterator<Item = &'a AuditEntry>,
) -> Result<()> {
    let entries: Vec<&AuditEntry> = entries.into_iter().collect();
    if entries.is_empty() {
        return Ok(());
    }
    let json = |of: fn(&AuditEntry) -> Option<&str>| -> Vec<Option<String>> {
        entries.iter().map(|entry| of(entry).map(|json| text::plain(json).into_owned())).collect()
    };
    let query = sqlx::query(
        "with noted as (
            insert into audit_entries (tenant_id, id, at, actor_kind, actor_id, actor_name, action, resource_type, resource_id,
                resource_name, address, request_id, outcome, before, after)
            select tenant_id, id, clock_timestamp(), actor_kind, actor_id, actor_name, action, resource_type, resource_id,
                resource_name, address, request_id, outcome, before, after
            from unnest($1::uuid[], $2::uuid[], $3::text[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
                $10::text[], $11::text[], $12::text[], $13::text[], $14::text[]) as u(tenant_id, id, actor_kind, actor_id, actor_name,
                action, resource_type, resource_id, resource_name, address, request_id, outcome, before, after)
            on conflict do nothing returning tenant_id, id
         )
         insert into audit_unsealed (tenant_id, id) select tenant_id, id from noted",
    )
    .bind(entries.iter().map(|entry| entry.deed.tenant).collect::<Vec<_>>());
    bind_entries(query, &entries)
        .bind(entries.iter().map(|entry| entry.outcome.as_json_str()).collect::<Vec<_>>())
        .bind(json(|entry| entry.deed.before.as_deref()))
        .bind(json(|entry| entry.deed.after.as_deref()))
        .execute(connection)
        .await?;
    Ok(())
}

type Query<'q> = sqlx::query::Query<'q, Postgres, PgArguments>;

/// Binds what all statements that write entries have of them: id, actor_kind, actor_id, actor_name, action, resource_type, resource_id,
/// resource_name, address and request_id.
pub(super) fn bind_entries<'q>(query: Query<'q>, entries: &[&AuditEntry]) -> Query<'q> {
    let texts = |of: fn(&AuditEntry) -> &str| -> Vec<String> {
        entries.iter().map(|entry| text::plain(of(entry)).into_owned()).collect()
    };
    query
        .bind(entries.iter().map(|entry| entry.id).collect::<Vec<_>>())
        .bind(texts(|entry| &entry.author.kind))
        .bind(entries.iter().map(|entry| entry.author.id).collect::<Vec<_>>())
        .bind(texts(|entry| &entry.author.name))
        .bind(texts(|entry| &entry.deed.action))
        .bind(texts(|entry| &entry.deed.resource.kind))
        .bind(texts(|entry| &entry.deed.resource.id))
        .bind(texts(|entry| &entry.deed.resource.name))
        .bind(texts(|entry| &entry.author.address))
        .bind(texts(|entry| &entry.author.request_id))
}
