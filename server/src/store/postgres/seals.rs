//! The chains of audit entries: what waits is sealed, and what is old is dropped, by the role that may.

use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::commit::commit;
use super::{PgStore, micros, number_of};
use crate::audit::{Head, IN_A_SEAL, Link, Place, Seal};
use crate::store::rows::{audit_entry, head, seal};
use crate::store::{AuditEntry, DropAudit, Result, SealAudit, Sealed, SignCheckpoint, Unsealed};

impl PgStore {
    pub(super) async fn waiting(&self) -> Result<Vec<Unsealed>> {
        let found: Vec<(Uuid, i64, i64)> = sqlx::query_as(
            "select w.tenant_id, w.entries, coalesce((extract(epoch from clock_timestamp() - f.at) * 1000000)::bigint, 0)
             from (select tenant_id, count(*) as entries from audit_unsealed group by tenant_id) w
             left join lateral (
                select e.at from (
                    select tenant_id, id from audit_unsealed where tenant_id = w.tenant_id order by id limit 1) u
                join audit_entries e on e.tenant_id = u.tenant_id and e.id = u.id limit 1) f on true",
        )
        .fetch_all(self.audit())
        .await?;
        Ok(found.into_iter().map(Unsealed::of).collect())
    }

    pub(super) async fn seal_next(&self, tenant: Uuid, seal: &SealAudit<'_>) -> Result<Option<Sealed>> {
        let mut tx = self.begin_audit().await?;
        if !self.lock_chain(&mut tx, tenant).await? {
            return Ok(None);
        }
        // Each by its key: a join reads all entries of the tenant where statistics are old.
        let found = sqlx::query(
            "select e.* from (select id from audit_unsealed where tenant_id = $1 order by id limit $2) u
             cross join lateral (select * from audit_entries a where a.tenant_id = $1 and a.id = u.id limit 1) e order by e.id",
        )
        .bind(tenant)
        .bind(i64::try_from(IN_A_SEAL).unwrap_or(i64::MAX))
        .fetch_all(&mut *tx)
        .await?;
        let entries: Vec<AuditEntry> = found.iter().map(audit_entry).collect::<Result<_>>()?;
        if entries.is_empty() {
            // The chain is let go before the answer: who comes next is not to find it taken by nobody.
            tx.rollback().await?;
            return Ok(None);
        }
        let after = end_of(&mut tx, tenant).await?;
        let now = super::clock(&mut tx).await?;
        let (seal, head) = seal(after, &entries, now);
        insert_seal(&mut tx, &seal).await?;
        put_place(&mut tx, &head).await?;
        sqlx::query("delete from audit_unsealed where tenant_id = $1 and id = any($2)")
            .bind(tenant)
            .bind(entries.iter().map(|entry| entry.id).collect::<Vec<_>>())
            .execute(&mut *tx)
            .await?;
        commit(tx).await?;
        Ok(Some(Sealed::of(&entries)))
    }

    /// Keeps other coordinators from the same chain until the transaction ends. Whoever writes entries waits for nothing here.
    async fn lock_chain(&self, tx: &mut PgConnection, tenant: Uuid) -> Result<bool> {
        let key = self.inner.scope ^ number_of(format!("audit chain {tenant}").as_bytes());
        Ok(sqlx::query_scalar("select pg_try_advisory_xact_lock($1)").bind(key).fetch_one(tx).await?)
    }

    pub(super) async fn seals_after(&self, tenant: Uuid, after: i64, limit: i64) -> Result<Vec<Seal>> {
        let found =
            sqlx::query("select * from audit_seals where tenant_id = $1 and sequence > $2 order by sequence limit $3")
                .bind(tenant)
                .bind(after)
                .bind(limit)
                .fetch_all(&mut *self.read_for(tenant).await?)
                .await?;
        found.iter().map(seal).collect()
    }

    pub(super) async fn seals_around(&self, tenant: Uuid, id: Uuid) -> Result<Vec<Seal>> {
        let found = sqlx::query("select * from audit_seals where tenant_id = $1 and last_id >= $2 and first_id <= $2")
            .bind(tenant)
            .bind(id)
            .fetch_all(&mut *self.read_for(tenant).await?)
            .await?;
        found.iter().map(seal).collect()
    }

    pub(super) async fn place(&self, tenant: Uuid, place: Place) -> Result<Option<Head>> {
        read_place(&mut *self.read_for(tenant).await?, tenant, place).await
    }

    pub(super) async fn drop_seals(
        &self,
        tenant: Uuid,
        drop: &DropAudit,
        checkpoint: &SignCheckpoint<'_>,
    ) -> Result<usize> {
        let mut tx = self.begin_audit().await?;
        if !self.lock_chain(&mut tx, tenant).await? {
            return Ok(0);
        }
        let found = sqlx::query(
            "select * from audit_seals where tenant_id = $1
                and ($2::boolean is not true or sequence <= coalesce((select sequence from audit_copies where tenant_id = $1), 0))
                and sequence < coalesce((select min(sequence) from audit_seals where tenant_id = $1
                    and last_at >= clock_timestamp() - $3 * interval '1 microsecond'), 9223372036854775807)
             order by sequence limit $4",
        )
        .bind(tenant)
        .bind(drop.only_copied)
        .bind(micros(drop.age))
        .bind(drop.limit)
        .fetch_all(&mut *tx)
        .await?;
        let seals: Vec<Seal> = found.iter().map(seal).collect::<Result<_>>()?;
        let Some(last) = seals.last() else {
            tx.rollback().await?;
            return Ok(0);
        };
        let before = read_place(&mut tx, tenant, Place::Checkpoint).await?.map(|head| head.link).unwrap_or_default();
        let link = seals.iter().fold(before, |link, seal| seal.link(link));
        let at = seals.iter().map(|seal| seal.last_at).max().unwrap_or(last.last_at);
        put_place(&mut tx, &checkpoint(link, at)).await?;
        let ids: Vec<Uuid> = seals.iter().flat_map(|seal| seal.entries.iter().map(|(id, _)| *id)).collect();
        sqlx::query("delete from audit_entries where tenant_id = $1 and id = any($2)")
            .bind(tenant)
            .bind(ids)
            .execute(&mut *tx)
            .await?;
        sqlx::query("delete from audit_seals where tenant_id = $1 and sequence <= $2")
            .bind(tenant)
            .bind(last.sequence)
            .execute(&mut *tx)
            .await?;
        commit(tx).await?;
        Ok(seals.len())
    }
}

/// Where a chain ends: what its head says, so that a tail that was cut off leaves a gap; without a head, its last seal.
async fn end_of(tx: &mut PgConnection, tenant: Uuid) -> Result<Link> {
    if let Some(head) = read_place(tx, tenant, Place::Head).await? {
        return Ok(head.link);
    }
    let last = sqlx::query(
        "select s.*, (select sum(octet_length(a.entries) / 48)::bigint from audit_seals a where a.tenant_id = $1) as counted
         from audit_seals s where s.tenant_id = $1 order by s.sequence desc limit 1",
    )
    .bind(tenant)
    .fetch_optional(tx)
    .await?;
    let Some(row) = last else { return Ok(Link::default()) };
    let last = seal(&row)?;
    Ok(Link { sequence: last.sequence, hash: last.hash, entries: row.try_get("counted")? })
}

async fn insert_seal(tx: &mut PgConnection, seal: &Seal) -> Result<()> {
    let (first, last) = seal.ends();
    sqlx::query(
        "insert into audit_seals (tenant_id, sequence, sealed_at, entries, first_id, last_id, last_at, previous, hash)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(seal.tenant)
    .bind(seal.sequence)
    .bind(seal.sealed_at)
    .bind(seal.packed())
    .bind(first)
    .bind(last)
    .bind(seal.last_at)
    .bind(&seal.previous[..])
    .bind(&seal.hash[..])
    .execute(tx)
    .await?;
    Ok(())
}

async fn put_place(tx: &mut PgConnection, head: &Head) -> Result<()> {
    sqlx::query(
        "insert into audit_heads (tenant_id, kind, sequence, hash, entries, at, public_key, signature)
         values ($1, $2, $3, $4, $5, $6, $7, $8)
         on conflict (tenant_id, kind) do update set sequence = excluded.sequence, hash = excluded.hash,
            entries = excluded.entries, at = excluded.at, public_key = excluded.public_key, signature = excluded.signature",
    )
    .bind(head.tenant)
    .bind(head.place.as_str())
    .bind(head.link.sequence)
    .bind(&head.link.hash[..])
    .bind(head.link.entries)
    .bind(head.at)
    .bind(&head.public_key)
    .bind(&head.signature)
    .execute(tx)
    .await?;
    Ok(())
}

async fn read_place(tx: &mut PgConnection, tenant: Uuid, place: Place) -> Result<Option<Head>> {
    let found = sqlx::query("select * from audit_heads where tenant_id = $1 and kind = $2")
        .bind(tenant)
        .bind(place.as_str())
        .fetch_optional(tx)
        .await?;
    found.as_ref().map(|row| head(row, place)).transpose()
}
