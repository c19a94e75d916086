//! [`Secrets`].

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::audit::note;
use super::commit::commit;
use super::{PgStore, retried};
use crate::audit::Deed;
use crate::job::Job;
use crate::store::rows::sealed_secret;
use crate::store::{
    EncryptionKey, KEPT_VERSIONS, Notes, Result, SealSecret, SealedSecret, SecretRow, Secrets, StaleSecrets,
    StoreError, WantedSecret,
};

/// A secret with the versions that are kept of it.
macro_rules! secret_rows {
    ($rest:literal) => {
        concat!(
            "select s.name, s.version, s.created_at, s.updated_at, s.updated_by,
                array(select v.version from secret_versions v
                      where v.tenant_id = s.tenant_id and v.name = s.name order by v.version) as versions
             from secrets s where s.tenant_id = $1 and s.deleted_at is null and s.job_id is null ",
            $rest
        )
    };
}

#[async_trait]
impl Secrets for PgStore {
    async fn encryption_keys(&self) -> Result<Vec<EncryptionKey>> {
        let found = sqlx::query("select id, proof from secret_keys order by id").fetch_all(self.pool()).await?;
        found.iter().map(|row| Ok(EncryptionKey { id: row.try_get("id")?, proof: row.try_get("proof")? })).collect()
    }

    async fn retire_keys(&self, current: &str) -> Result<Vec<String>> {
        let ids: Vec<String> = sqlx::query_scalar("select id from secret_keys where id <> $1")
            .bind(current)
            .fetch_all(self.pool())
            .await?;
        let mut retired = Vec::new();
        for id in ids {
            // The foreign key sees the secrets of all tenants, whoever asks: it refuses what is in use.
            match sqlx::query("delete from secret_keys where id = $1").bind(&id).execute(self.pool()).await {
                Ok(_) => retired.push(id),
                Err(error) if error.as_database_error().is_some_and(|db| db.is_foreign_key_violation()) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(retired)
    }

    async fn put_secret(&self, tenant: Uuid, name: &str, by: Uuid, seal: &SealSecret<'_>) -> Result<SecretRow> {
        // A repeat after an unknown outcome makes another version of the same value, which does no harm.
        let notes = self.notes();
        retried!(self, self.try_put_secret((tenant, name), by, seal, &notes))
    }

    async fn list_secrets(&self, tenant: Uuid, after: Option<&str>, limit: i64) -> Result<Vec<SecretRow>> {
        let mut tx = self.read_for(tenant).await?;
        // By bytes, as page tokens compare, whatever the database's collation.
        let found = sqlx::query(secret_rows!(
            r#"and ($2::text is null or s.name collate "C" > $2) order by s.name collate "C" limit $3"#
        ))
        .bind(tenant)
        .bind(after)
        .bind(limit)
        .fetch_all(&mut *tx)
        .await?;
        found.iter().map(secret_row).collect()
    }

    async fn secrets_named(&self, tenant: Uuid, names: &[String]) -> Result<Vec<SecretRow>> {
        let mut tx = self.read_for(tenant).await?;
        let found =
            sqlx::query(secret_rows!("and s.name = any($2)")).bind(tenant).bind(names).fetch_all(&mut *tx).await?;
        found.iter().map(secret_row).collect()
    }

    async fn delete_secret(&self, tenant: Uuid, name: &str, version: Option<i64>, by: Uuid) -> Result<()> {
        let notes = self.notes();
        retried!(self, self.try_delete_secret((tenant, name), version, by, &notes))
    }

    async fn sealed_secrets(&self, tenant: Uuid, wanted: &[WantedSecret]) -> Result<Vec<(WantedSecret, SealedSecret)>> {
        let mut tx = self.read_for(tenant).await?;
        let found = sqlx::query(
            "select v.*, k.proof, w.version as asked
             from unnest($2::text[], $3::bigint[]) as w(name, version)
             join secrets s on s.tenant_id = $1 and s.name = w.name and s.deleted_at is null
             join secret_versions v on v.tenant_id = $1 and v.name = w.name and v.version = coalesce(w.version, s.version)
             join secret_keys k on k.id = v.key_id",
        )
        .bind(tenant)
        .bind(wanted.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>())
        .bind(wanted.iter().map(|(_, version)| *version).collect::<Vec<_>>())
        .fetch_all(&mut *tx)
        .await?;
        let asked = |row: &PgRow| Ok(((row.try_get("name")?, row.try_get("asked")?), sealed_secret(row)?));
        found.iter().map(asked).collect()
    }

    async fn stale_secrets(&self, stale: &StaleSecrets<'_>) -> Result<Vec<SealedSecret>> {
        let mut tx = self.read_for(stale.tenant).await?;
        let (after, version) = stale.after.clone().unzip();
        let found = sqlx::query(
            r#"select v.*, k.proof from secret_versions v join secret_keys k on k.id = v.key_id
             where v.tenant_id = $1 and ($2::text is null or v.key_id <> $2)
               and ($3::text is null or (v.name collate "C", v.version) > ($3, $4))
             order by v.name collate "C", v.version limit $5"#,
        )
        .bind(stale.tenant)
        .bind(stale.other_than)
        .bind(after)
        .bind(version)
        .bind(stale.limit)
        .fetch_all(&mut *tx)
        .await?;
        found.iter().map(sealed_secret).collect()
    }

    async fn replace_sealed(&self, pairs: &[(SealedSecret, SealedSecret)]) -> Result<u64> {
        let notes = self.notes();
        retried!(self, self.try_replace_sealed(pairs, &notes))
    }

    async fn tenants_with_secrets(&self) -> Result<Vec<Uuid>> {
        Ok(sqlx::query_scalar("select distinct tenant_id from secret_versions").fetch_all(self.pool()).await?)
    }
}

impl PgStore {
    async fn try_put_secret(
        &self,
        (tenant, name): (Uuid, &str),
        by: Uuid,
        seal: &SealSecret<'_>,
        notes: &Notes,
    ) -> Result<SecretRow> {
        let mut tx = self.begin_for(tenant).await?;
        let now = super::clock(&mut tx).await?;
        // Locks the row, so that versions are given one by one.
        let version: i64 = sqlx::query_scalar(
            "insert into secrets (tenant_id, name, version, created_at, updated_at, updated_by) values ($1, $2, 1, $3, $3, $4)
             on conflict (tenant_id, name) do update set version = secrets.version + 1, updated_at = $3, updated_by = $4,
                 deleted_at = null, created_at = case when secrets.deleted_at is null then secrets.created_at else $3 end
             returning version",
        )
        .bind(tenant)
        .bind(name)
        .bind(now)
        .bind(by)
        .fetch_one(&mut *tx)
        .await?;
        let sealed = seal(version).map_err(|error| StoreError::Refused(Box::new(error)))?;
        insert_versions(&mut tx, &[&sealed], by, now).await?;
        sqlx::query(
            "delete from secret_versions v where v.tenant_id = $1 and v.name = $2 and v.version <=
                (select version from secret_versions where tenant_id = $1 and name = $2 order by version desc offset $3 limit 1)",
        )
        .bind(tenant)
        .bind(name)
        .bind(KEPT_VERSIONS)
        .execute(&mut *tx)
        .await?;
        let row = sqlx::query(secret_rows!("and s.name = $2")).bind(tenant).bind(name).fetch_one(&mut *tx).await?;
        let row = secret_row(&row)?;
        // By its version: a repeat puts another one.
        let nth = usize::try_from(row.version).unwrap_or_default();
        note(&mut tx, &notes.changed(nth, || Deed::secret_put(tenant, &row))).await?;
        commit(tx).await?;
        Ok(row)
    }

    async fn try_delete_secret(
        &self,
        (tenant, name): (Uuid, &str),
        version: Option<i64>,
        by: Uuid,
        notes: &Notes,
    ) -> Result<()> {
        let mut tx = self.begin_for(tenant).await?;
        let newest: Option<i64> = sqlx::query_scalar(
            "select version from secrets
             where tenant_id = $1 and name = $2 and deleted_at is null and job_id is null for update",
        )
        .bind(tenant)
        .bind(name)
        .fetch_optional(&mut *tx)
        .await?;
        let newest = newest.ok_or(StoreError::NotFound)?;
        crate::store::refuse_newest(name, version, newest)?;
        let deleted = sqlx::query(
            "delete from secret_versions where tenant_id = $1 and name = $2 and ($3::bigint is null or version = $3)",
        )
        .bind(tenant)
        .bind(name)
        .bind(version)
        .execute(&mut *tx)
        .await?;
        if version.is_none() {
            sqlx::query(
                "update secrets set deleted_at = clock_timestamp(), updated_at = clock_timestamp(), updated_by = $3
                 where tenant_id = $1 and name = $2",
            )
            .bind(tenant)
            .bind(name)
            .bind(by)
            .execute(&mut *tx)
            .await?;
        } else if deleted.rows_affected() == 0 {
            return Err(StoreError::NotFound);
        }
        note(&mut tx, &notes.changed(0, || Deed::secret_deleted(tenant, name, version, newest))).await?;
        commit(tx).await
    }

    async fn try_replace_sealed(&self, pairs: &[(SealedSecret, SealedSecret)], notes: &Notes) -> Result<u64> {
        let mut tx = self.begin_all(pairs.iter().map(|(_, new)| new.tenant_id)).await?;
        let now = super::clock(&mut tx).await?;
        let fresh: Vec<&SealedSecret> = pairs.iter().map(|(_, new)| new).collect();
        insert_keys(&mut tx, &fresh, now).await?;
        let replaced = sqlx::query(
            "update secret_versions v set key_id = u.key_id, wrapped_key = u.wrapped_key, ciphertext = u.ciphertext
             from unnest($1::uuid[], $2::text[], $3::bigint[], $4::bytea[], $5::text[], $6::bytea[], $7::bytea[])
                 as u(tenant_id, name, version, old, key_id, wrapped_key, ciphertext)
             where v.tenant_id = u.tenant_id and v.name = u.name and v.version = u.version and v.wrapped_key = u.old",
        )
        .bind(fresh.iter().map(|new| new.tenant_id).collect::<Vec<_>>())
        .bind(fresh.iter().map(|new| new.name.as_str()).collect::<Vec<_>>())
        .bind(fresh.iter().map(|new| new.version).collect::<Vec<_>>())
        .bind(pairs.iter().map(|(old, _)| old.wrapped_key.as_slice()).collect::<Vec<_>>())
        .bind(fresh.iter().map(|new| new.key.id.as_str()).collect::<Vec<_>>())
        .bind(fresh.iter().map(|new| new.wrapped_key.as_slice()).collect::<Vec<_>>())
        .bind(fresh.iter().map(|new| new.ciphertext.as_slice()).collect::<Vec<_>>())
        .execute(&mut *tx)
        .await?
        .rows_affected();
        if let Some(first) = fresh.first().filter(|_| replaced > 0) {
            let deed = || Deed::secrets_rotated(first.tenant_id, replaced, &first.key.id);
            note(&mut tx, &notes.changed(0, deed)).await?;
        }
        commit(tx).await?;
        Ok(replaced)
    }
}

/// Stores the values of sensitive fields with the jobs that have them, in the transaction that writes the jobs.
pub(super) async fn insert_of_jobs(tx: &mut PgConnection, jobs: &[&Job]) -> Result<()> {
    for job in jobs.iter().filter(|job| !job.spec.sealed.is_empty()) {
        let sealed: Vec<&SealedSecret> = job.spec.sealed.iter().collect();
        sqlx::query(
            "insert into secrets (tenant_id, name, version, job_id, created_at, updated_at, updated_by)
             select $1, name, version, $2, $3, $3, $4 from unnest($5::text[], $6::bigint[]) as u(name, version)",
        )
        .bind(job.tenant_id)
        .bind(job.id)
        .bind(job.updated_at)
        .bind(job.created_by)
        .bind(sealed.iter().map(|one| one.name.as_str()).collect::<Vec<_>>())
        .bind(sealed.iter().map(|one| one.version).collect::<Vec<_>>())
        .execute(&mut *tx)
        .await?;
        insert_versions(tx, &sealed, job.created_by, job.updated_at).await?;
    }
    Ok(())
}

async fn insert_versions(tx: &mut PgConnection, sealed: &[&SealedSecret], by: Uuid, now: DateTime<Utc>) -> Result<()> {
    insert_keys(tx, sealed, now).await?;
    for one in sealed {
        sqlx::query(
            "insert into secret_versions (tenant_id, name, version, key_id, wrapped_key, ciphertext, created_at, created_by)
             values ($1, $2, $3, $4, $5, $6, $7, $8)",
        )
        .bind(one.tenant_id)
        .bind(&one.name)
        .bind(one.version)
        .bind(&one.key.id)
        .bind(&one.wrapped_key)
        .bind(&one.ciphertext)
        .bind(now)
        .bind(by)
        .execute(&mut *tx)
        .await?;
    }
    Ok(())
}

/// Names the keys that are used from now on. One that is being retired meanwhile is waited for.
async fn insert_keys(tx: &mut PgConnection, sealed: &[&SealedSecret], now: DateTime<Utc>) -> Result<()> {
    let keys: std::collections::BTreeMap<&str, &[u8]> =
        sealed.iter().map(|one| (one.key.id.as_str(), one.key.proof.as_slice())).collect();
    for (id, proof) in keys {
        sqlx::query("insert into secret_keys (id, proof, created_at) values ($1, $2, $3) on conflict (id) do nothing")
            .bind(id)
            .bind(proof)
            .bind(now)
            .execute(&mut *tx)
            .await?;
    }
    Ok(())
}

fn secret_row(row: &PgRow) -> Result<SecretRow> {
    Ok(SecretRow {
        name: row.try_get("name")?,
        version: row.try_get("version")?,
        versions: row.try_get("versions")?,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
        updated_by: row.try_get("updated_by")?,
    })
}
