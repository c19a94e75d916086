//! Secrets.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, Sqlite, Transaction};
use uuid::Uuid;

use super::audit::note;
use super::rows::{instant, micros};
use super::{SqliteStore, Work};
use crate::audit::Deed;
use crate::job::Job;
use crate::store::rows::sealed_secret;
use crate::store::{
    EncryptionKey, KEPT_VERSIONS, Result, SealSecret, SealedSecret, SecretRow, Secrets, StaleSecrets, StoreError,
    WantedSecret,
};

const TABLE: &str = "secrets";

/// A secret and one version of it, a row for each version that is kept.
macro_rules! secret_rows {
    ($rest:literal) => {
        concat!(
            "select s.name, s.version, s.created_at, s.updated_at, s.updated_by, v.version as kept \
             from secrets s join secret_versions v on v.tenant_id = s.tenant_id and v.name = s.name \
             where s.tenant_id = ?1 and s.deleted_at is null and s.job_id is null ",
            $rest,
            " order by s.name, v.version"
        )
    };
}

#[async_trait]
impl Secrets for SqliteStore {
    async fn encryption_keys(&self) -> Result<Vec<EncryptionKey>> {
        let found = sqlx::query("select id, proof from secret_keys order by id").fetch_all(&self.readers).await?;
        found.iter().map(|row| Ok(EncryptionKey { id: row.try_get("id")?, proof: row.try_get("proof")? })).collect()
    }

    async fn retire_keys(&self, current: &str) -> Result<Vec<String>> {
        let mut work = self.write().await?;
        let retired = sqlx::query_scalar(
            "delete from secret_keys where id <> ? \
             and not exists (select 1 from secret_versions v where v.key_id = secret_keys.id) returning id",
        )
        .bind(current)
        .fetch_all(&mut *work.tx)
        .await?;
        work.commit().await?;
        Ok(retired)
    }

    async fn put_secret(&self, tenant: Uuid, name: &str, by: Uuid, seal: &SealSecret<'_>) -> Result<SecretRow> {
        let notes = self.notes();
        let mut work = self.write().await?;
        let version: i64 = sqlx::query_scalar(
            "insert into secrets (tenant_id, name, version, created_at, updated_at, updated_by) values (?1, ?2, 1, ?3, ?3, ?4) \
             on conflict (tenant_id, name) do update set version = version + 1, updated_at = ?3, updated_by = ?4, \
             created_at = case when deleted_at is null then created_at else ?3 end, deleted_at = null returning version",
        )
        .bind(tenant)
        .bind(name)
        .bind(micros(work.now))
        .bind(by)
        .fetch_one(&mut *work.tx)
        .await?;
        let sealed = seal(version).map_err(|error| StoreError::Refused(Box::new(error)))?;
        insert_version(&mut work.tx, &sealed, by, work.now).await?;
        sqlx::query(
            "delete from secret_versions where tenant_id = ?1 and name = ?2 and version <= \
             (select version from secret_versions where tenant_id = ?1 and name = ?2 order by version desc limit 1 offset ?3)",
        )
        .bind(tenant)
        .bind(name)
        .bind(KEPT_VERSIONS)
        .execute(&mut *work.tx)
        .await?;
        let rows =
            sqlx::query(secret_rows!("and s.name = ?2")).bind(tenant).bind(name).fetch_all(&mut *work.tx).await?;
        let row = secret_rows(&rows)?.pop().ok_or(StoreError::NotFound)?;
        note(&mut work, &notes.changed(0, || Deed::secret_put(tenant, &row))).await?;
        work.commit().await?;
        Ok(row)
    }

    async fn list_secrets(&self, tenant: Uuid, after: Option<&str>, limit: i64) -> Result<Vec<SecretRow>> {
        let rows = sqlx::query(secret_rows!(
            "and s.name in (select name from secrets where tenant_id = ?1 and deleted_at is null and job_id is null \
             and (?2 is null or name > ?2) order by name limit ?3)"
        ))
        .bind(tenant)
        .bind(after)
        .bind(limit)
        .fetch_all(&self.readers)
        .await?;
        secret_rows(&rows)
    }

    async fn secrets_named(&self, tenant: Uuid, names: &[String]) -> Result<Vec<SecretRow>> {
        let rows = sqlx::query(secret_rows!("and s.name in (select value from json_each(?2))"))
            .bind(tenant)
            .bind(super::rows::to_json(TABLE, &names)?)
            .fetch_all(&self.readers)
            .await?;
        secret_rows(&rows)
    }

    async fn delete_secret(&self, tenant: Uuid, name: &str, version: Option<i64>, by: Uuid) -> Result<()> {
        let notes = self.notes();
        let mut work = self.write().await?;
        let newest: Option<i64> = sqlx::query_scalar(
            "select version from secrets where tenant_id = ? and name = ? and deleted_at is null and job_id is null",
        )
        .bind(tenant)
        .bind(name)
        .fetch_optional(&mut *work.tx)
        .await?;
        let newest = newest.ok_or(StoreError::NotFound)?;
        crate::store::refuse_newest(name, version, newest)?;
        let deleted = sqlx::query(
            "delete from secret_versions where tenant_id = ?1 and name = ?2 and (?3 is null or version = ?3)",
        )
        .bind(tenant)
        .bind(name)
        .bind(version)
        .execute(&mut *work.tx)
        .await?;
        if version.is_none() {
            sqlx::query(
                "update secrets set deleted_at = ?3, updated_at = ?3, updated_by = ?4 where tenant_id = ?1 and name = ?2",
            )
            .bind(tenant)
            .bind(name)
            .bind(micros(work.now))
            .bind(by)
            .execute(&mut *work.tx)
            .await?;
        } else if deleted.rows_affected() == 0 {
            return Err(StoreError::NotFound);
        }
        note(&mut work, &notes.changed(0, || Deed::secret_deleted(tenant, name, version, newest))).await?;
        work.commit().await
    }

    async fn sealed_secrets(&self, tenant: Uuid, wanted: &[WantedSecret]) -> Result<Vec<(WantedSecret, SealedSecret)>> {
        let mut work = self.read().await?;
        let mut found = Vec::with_capacity(wanted.len());
        for (name, version) in wanted {
            let row = sqlx::query(
                "select v.*, k.proof from secrets s \
                 join secret_versions v on v.tenant_id = s.tenant_id and v.name = s.name and v.version = coalesce(?3, s.version) \
                 join secret_keys k on k.id = v.key_id where s.tenant_id = ?1 and s.name = ?2 and s.deleted_at is null",
            )
            .bind(tenant)
            .bind(name)
            .bind(version)
            .fetch_optional(&mut *work.tx)
            .await?;
            if let Some(row) = row {
                found.push(((name.clone(), *version), sealed_secret(&row)?));
            }
        }
        Ok(found)
    }

    async fn stale_secrets(&self, stale: &StaleSecrets<'_>) -> Result<Vec<SealedSecret>> {
        let (after, version) = stale.after.clone().unzip();
        let rows = sqlx::query(
            "select v.*, k.proof from secret_versions v join secret_keys k on k.id = v.key_id \
             where v.tenant_id = ?1 and (?2 is null or v.key_id <> ?2) and (?3 is null or (v.name, v.version) > (?3, ?4)) \
             order by v.name, v.version limit ?5",
        )
        .bind(stale.tenant)
        .bind(stale.other_than)
        .bind(after)
        .bind(version)
        .bind(stale.limit)
        .fetch_all(&self.readers)
        .await?;
        rows.iter().map(sealed_secret).collect()
    }

    async fn replace_sealed(&self, pairs: &[(SealedSecret, SealedSecret)]) -> Result<u64> {
        let notes = self.notes();
        let mut work = self.write().await?;
        let mut replaced = 0;
        for (old, new) in pairs {
            insert_key(&mut work, new).await?;
            let done = sqlx::query(
                "update secret_versions set key_id = ?, wrapped_key = ?, ciphertext = ? \
                 where tenant_id = ? and name = ? and version = ? and wrapped_key = ?",
            )
            .bind(&new.key.id)
            .bind(&new.wrapped_key)
            .bind(&new.ciphertext)
            .bind(new.tenant_id)
            .bind(&new.name)
            .bind(new.version)
            .bind(&old.wrapped_key)
            .execute(&mut *work.tx)
            .await?;
            replaced += done.rows_affected();
        }
        if let Some((_, first)) = pairs.first().filter(|_| replaced > 0) {
            let deed = || Deed::secrets_rotated(first.tenant_id, replaced, &first.key.id);
            note(&mut work, &notes.changed(0, deed)).await?;
        }
        work.commit().await?;
        Ok(replaced)
    }

    async fn tenants_with_secrets(&self) -> Result<Vec<Uuid>> {
        Ok(sqlx::query_scalar("select distinct tenant_id from secret_versions").fetch_all(&self.readers).await?)
    }
}

/// Stores the values of sensitive fields with the job that has them, in the transaction that writes the job.
pub(super) async fn insert_of_job(work: &mut Work, job: &Job) -> Result<()> {
    for sealed in &job.spec.sealed {
        sqlx::query(
            "insert into secrets (tenant_id, name, version, job_id, created_at, updated_at, updated_by) \
             values (?1, ?2, ?3, ?4, ?5, ?5, ?6)",
        )
        .bind(job.tenant_id)
        .bind(&sealed.name)
        .bind(sealed.version)
        .bind(job.id)
        .bind(micros(work.now))
        .bind(job.created_by)
        .execute(&mut *work.tx)
        .await?;
        let now = work.now;
        insert_version(&mut work.tx, sealed, job.created_by, now).await?;
    }
    Ok(())
}

async fn insert_version(
    tx: &mut Transaction<'static, Sqlite>,
    sealed: &SealedSecret,
    by: Uuid,
    now: DateTime<Utc>,
) -> Result<()> {
    name_key(tx, sealed, now).await?;
    sqlx::query(
        "insert into secret_versions (tenant_id, name, version, key_id, wrapped_key, ciphertext, created_at, created_by) \
         values (?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(sealed.tenant_id)
    .bind(&sealed.name)
    .bind(sealed.version)
    .bind(&sealed.key.id)
    .bind(&sealed.wrapped_key)
    .bind(&sealed.ciphertext)
    .bind(micros(now))
    .bind(by)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

async fn insert_key(work: &mut Work, sealed: &SealedSecret) -> Result<()> {
    let now = work.now;
    name_key(&mut work.tx, sealed, now).await
}

/// Names the key that is used from now on.
async fn name_key(tx: &mut Transaction<'static, Sqlite>, sealed: &SealedSecret, now: DateTime<Utc>) -> Result<()> {
    sqlx::query("insert into secret_keys (id, proof, created_at) values (?, ?, ?) on conflict (id) do nothing")
        .bind(&sealed.key.id)
        .bind(&sealed.key.proof)
        .bind(micros(now))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Secrets from rows by name and version.
fn secret_rows(rows: &[SqliteRow]) -> Result<Vec<SecretRow>> {
    let mut secrets: Vec<SecretRow> = Vec::new();
    for row in rows {
        let (name, kept): (String, i64) = (row.try_get("name")?, row.try_get("kept")?);
        match secrets.last_mut().filter(|secret| secret.name == name) {
            Some(secret) => secret.versions.push(kept),
            None => secrets.push(SecretRow {
                name,
                version: row.try_get("version")?,
                versions: vec![kept],
                created_at: instant(row, TABLE, "created_at")?,
                updated_at: instant(row, TABLE, "updated_at")?,
                updated_by: row.try_get("updated_by")?,
            }),
        }
    }
    Ok(secrets)
}
