//! The chains of audit entries: what waits is sealed, and what is old is dropped.

use sqlx::{Row, SqliteExecutor};
use uuid::Uuid;

use super::rows::{before, micros};
use super::{SqliteStore, Work};
use crate::audit::{Head, IN_A_SEAL, Link, Place, Seal};
use crate::store::rows::{audit_entry, head, seal};
use crate::store::{AuditEntry, DropAudit, Result, SealAudit, Sealed, SignCheckpoint, Unsealed};

impl SqliteStore {
    pub(super) async fn waiting(&self) -> Result<Vec<Unsealed>> {
        let found: Vec<(Uuid, i64, i64)> = sqlx::query_as(
            "select w.tenant_id, w.entries, coalesce(?1 - (select e.at from audit_unsealed u \
                join audit_entries e on e.tenant_id = u.tenant_id and e.id = u.id \
                where u.tenant_id = w.tenant_id order by u.id limit 1), 0) \
             from (select tenant_id, count(*) as entries from audit_unsealed group by tenant_id) w",
        )
        .bind(micros(self.clock()))
        .fetch_all(&self.readers)
        .await?;
        Ok(found.into_iter().map(Unsealed::of).collect())
    }

    pub(super) async fn seal_next(&self, tenant: Uuid, seal: &SealAudit<'_>) -> Result<Option<Sealed>> {
        let mut work = self.write().await?;
        let found = sqlx::query(
            "select e.* from (select id from audit_unsealed where tenant_id = ?1 order by id limit ?2) u \
             join audit_entries e on e.tenant_id = ?1 and e.id = u.id order by e.id",
        )
        .bind(tenant)
        .bind(super::rows::count(IN_A_SEAL))
        .fetch_all(&mut *work.tx)
        .await?;
        let entries: Vec<AuditEntry> = found.iter().map(audit_entry).collect::<Result<_>>()?;
        if entries.is_empty() {
            return Ok(None);
        }
        let after = end_of(&mut work, tenant).await?;
        let (seal, head) = seal(after, &entries, work.now);
        insert_seal(&mut work, &seal).await?;
        put_place(&mut work, &head).await?;
        for entry in &entries {
            sqlx::query("delete from audit_unsealed where tenant_id = ? and id = ?")
                .bind(tenant)
                .bind(entry.id)
                .execute(&mut *work.tx)
                .await?;
        }
        work.commit().await?;
        Ok(Some(Sealed::of(&entries)))
    }

    pub(super) async fn seals_after(&self, tenant: Uuid, after: i64, limit: i64) -> Result<Vec<Seal>> {
        let found =
            sqlx::query("select * from audit_seals where tenant_id = ? and sequence > ? order by sequence limit ?")
                .bind(tenant)
                .bind(after)
                .bind(limit)
                .fetch_all(&self.readers)
                .await?;
        found.iter().map(seal).collect()
    }

    pub(super) async fn seals_around(&self, tenant: Uuid, id: Uuid) -> Result<Vec<Seal>> {
        let found = sqlx::query("select * from audit_seals where tenant_id = ?1 and last_id >= ?2 and first_id <= ?2")
            .bind(tenant)
            .bind(id)
            .fetch_all(&self.readers)
            .await?;
        found.iter().map(seal).collect()
    }

    pub(super) async fn place(&self, tenant: Uuid, place: Place) -> Result<Option<Head>> {
        read_place(&self.readers, tenant, place).await
    }

    pub(super) async fn drop_seals(
        &self,
        tenant: Uuid,
        drop: &DropAudit,
        checkpoint: &SignCheckpoint<'_>,
    ) -> Result<usize> {
        let mut work = self.write().await?;
        let found = sqlx::query(
            "select * from audit_seals where tenant_id = ?1 \
             and (not ?2 or sequence <= coalesce((select sequence from audit_copies where tenant_id = ?1), 0)) \
             and sequence < coalesce((select min(sequence) from audit_seals where tenant_id = ?1 and last_at >= ?3), \
             9223372036854775807) order by sequence limit ?4",
        )
        .bind(tenant)
        .bind(drop.only_copied)
        .bind(micros(before(work.now, drop.age)))
        .bind(drop.limit)
        .fetch_all(&mut *work.tx)
        .await?;
        let seals: Vec<Seal> = found.iter().map(seal).collect::<Result<_>>()?;
        let Some(last) = seals.last() else { return Ok(0) };
        let was = read_place(&mut *work.tx, tenant, Place::Checkpoint).await?.map(|head| head.link).unwrap_or_default();
        let link = seals.iter().fold(was, |link, seal| seal.link(link));
        let at = seals.iter().map(|seal| seal.last_at).max().unwrap_or(last.last_at);
        // First: the tables let nothing go that lies beyond it.
        put_place(&mut work, &checkpoint(link, at)).await?;
        for (id, _) in seals.iter().flat_map(|seal| &seal.entries) {
            sqlx::query("delete from audit_entries where tenant_id = ? and id = ?")
                .bind(tenant)
                .bind(id)
                .execute(&mut *work.tx)
                .await?;
        }
        sqlx::query("delete from audit_seals where tenant_id = ? and sequence <= ?")
            .bind(tenant)
            .bind(last.sequence)
            .execute(&mut *work.tx)
            .await?;
        work.commit().await?;
        Ok(seals.len())
    }
}

/// Where a chain ends: what its head says, so that a tail that was cut off leaves a gap; without a head, its last seal.
async fn end_of(work: &mut Work, tenant: Uuid) -> Result<Link> {
    if let Some(head) = read_place(&mut *work.tx, tenant, Place::Head).await? {
        return Ok(head.link);
    }
    let last = sqlx::query(
        "select s.*, (select sum(length(a.entries) / 48) from audit_seals a where a.tenant_id = ?1) as counted \
         from audit_seals s where s.tenant_id = ?1 order by s.sequence desc limit 1",
    )
    .bind(tenant)
    .fetch_optional(&mut *work.tx)
    .await?;
    let Some(row) = last else { return Ok(Link::default()) };
    let last = seal(&row)?;
    Ok(Link { sequence: last.sequence, hash: last.hash, entries: row.try_get("counted")? })
}

async fn insert_seal(work: &mut Work, seal: &Seal) -> Result<()> {
    let (first, last) = seal.ends();
    sqlx::query(
        "insert into audit_seals (tenant_id, sequence, sealed_at, entries, first_id, last_id, last_at, previous, hash) \
         values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(seal.tenant)
    .bind(seal.sequence)
    .bind(micros(seal.sealed_at))
    .bind(seal.packed())
    .bind(first)
    .bind(last)
    .bind(micros(seal.last_at))
    .bind(seal.previous.as_slice())
    .bind(seal.hash.as_slice())
    .execute(&mut *work.tx)
    .await?;
    Ok(())
}

async fn put_place(work: &mut Work, head: &Head) -> Result<()> {
    sqlx::query(
        "insert into audit_heads (tenant_id, kind, sequence, hash, entries, at, public_key, signature) \
         values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) on conflict (tenant_id, kind) do update set sequence = ?3, hash = ?4, \
         entries = ?5, at = ?6, public_key = ?7, signature = ?8",
    )
    .bind(head.tenant)
    .bind(head.place.as_str())
    .bind(head.link.sequence)
    .bind(head.link.hash.as_slice())
    .bind(head.link.entries)
    .bind(micros(head.at))
    .bind(&head.public_key)
    .bind(&head.signature)
    .execute(&mut *work.tx)
    .await?;
    Ok(())
}

async fn read_place(executor: impl SqliteExecutor<'_>, tenant: Uuid, place: Place) -> Result<Option<Head>> {
    let found = sqlx::query("select * from audit_heads where tenant_id = ? and kind = ?")
        .bind(tenant)
        .bind(place.as_str())
        .fetch_optional(executor)
        .await?;
    found.as_ref().map(|row| head(row, place)).transpose()
}
