//! People who sign in with a password, and their sessions.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::{Row, Sqlite, SqliteExecutor, Transaction};
use uuid::Uuid;

use super::audit::note;
use super::roles::require_roles;
use super::rows::{after, before, micros, to_json};
use super::{SqliteStore, Work};
use crate::audit::Deed;
use crate::error::Error;
use crate::store::rows::{audited_session, user, user_session};
use crate::store::text::plain;
use crate::store::{
    NewUserSession, Page, Result, Rotation, SessionDeed, SessionEnd, StoreError, User, UserChange, UserSession, Users,
};

const TABLE: &str = "users";
const DAY: std::time::Duration = std::time::Duration::from_secs(86_400);

#[async_trait]
impl Users for SqliteStore {
    async fn create_user(&self, user: &User, made_roles: &[String]) -> Result<()> {
        let notes = self.notes();
        let mut work = self.write().await?;
        require_roles(&mut work, user.tenant_id, made_roles).await?;
        let made = sqlx::query(
            "insert into users (id, tenant_id, name, display_name, password_hash, roles, created_by, created_at, updated_at) \
             values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8) on conflict (tenant_id, name) do nothing",
        )
        .bind(user.id)
        .bind(user.tenant_id)
        .bind(plain(&user.name))
        .bind(plain(&user.display_name))
        .bind(&user.password_hash)
        .bind(to_json(TABLE, &user.roles)?)
        .bind(user.created_by)
        .bind(micros(user.created_at))
        .execute(&mut *work.tx)
        .await?;
        if made.rows_affected() == 0 {
            return Err(StoreError::Refused(Box::new(Error::user_name_taken(&user.name))));
        }
        note(&mut work, &notes.changed(0, || Deed::user_created(user))).await?;
        work.commit().await
    }

    async fn user(&self, tenant: Uuid, id: Uuid) -> Result<Option<User>> {
        let row = sqlx::query("select * from users where tenant_id = ? and id = ?")
            .bind(tenant)
            .bind(id)
            .fetch_optional(&self.readers)
            .await?;
        row.as_ref().map(user).transpose()
    }

    async fn user_by_name(&self, tenant: Uuid, name: &str) -> Result<Option<User>> {
        let row = sqlx::query("select * from users where tenant_id = ? and name = ?")
            .bind(tenant)
            .bind(plain(name))
            .fetch_optional(&self.readers)
            .await?;
        row.as_ref().map(user).transpose()
    }

    async fn users(&self, tenant: Uuid, page: &Page) -> Result<Vec<User>> {
        let rows = sqlx::query(
            "select * from users where tenant_id = ?1 and (?2 is null or id < ?2) order by id desc limit ?3",
        )
        .bind(tenant)
        .bind(page.after)
        .bind(page.limit.max(0))
        .fetch_all(&self.readers)
        .await?;
        rows.iter().map(user).collect()
    }

    async fn change_user(&self, tenant: Uuid, id: Uuid, change: &UserChange) -> Result<User> {
        let notes = self.notes();
        let mut work = self.write().await?;
        let before = sqlx::query("select * from users where tenant_id = ? and id = ?")
            .bind(tenant)
            .bind(id)
            .fetch_optional(&mut *work.tx)
            .await?;
        let before = before.as_ref().map(user).ok_or(StoreError::NotFound)??;
        require_roles(&mut work, tenant, &change.made_roles).await?;
        let roles = change.roles.as_ref().map(|roles| to_json(TABLE, roles)).transpose()?;
        let row = sqlx::query(
            "update users set display_name = coalesce(?3, display_name), roles = coalesce(?4, roles), \
             password_hash = coalesce(?5, password_hash), \
             disabled_at = case when ?6 is null then disabled_at when ?6 then coalesce(disabled_at, ?7) end, \
             updated_at = ?7 where tenant_id = ?1 and id = ?2 returning *",
        )
        .bind(tenant)
        .bind(id)
        .bind(change.display_name.as_deref().map(plain))
        .bind(roles)
        .bind(&change.password_hash)
        .bind(change.disabled)
        .bind(micros(work.now))
        .fetch_optional(&mut *work.tx)
        .await?;
        let changed = row.as_ref().map(user).ok_or(StoreError::NotFound)??;
        let why = match (change.disabled, &change.password_hash) {
            (Some(true), _) => Some(SessionEnd::Disabled),
            (_, Some(_)) => Some(SessionEnd::Password),
            _ => None,
        };
        if let Some(why) = why {
            sqlx::query("update user_sessions set ended_at = ?, end_reason = ? where user_id = ? and ended_at is null")
                .bind(micros(work.now))
                .bind(why.as_str())
                .bind(id)
                .execute(&mut *work.tx)
                .await?;
        }
        let deed = || Deed::user_changed(&before, &changed, change.password_hash.is_some());
        note(&mut work, &notes.changed(0, deed)).await?;
        work.commit().await?;
        Ok(changed)
    }

    async fn begin_user_session(&self, new: &NewUserSession) -> Result<bool> {
        let notes = self.notes();
        let mut work = self.write().await?;
        let name: Option<String> = sqlx::query_scalar(
            "update users set last_login_at = ? where tenant_id = ? and id = ? and disabled_at is null returning name",
        )
        .bind(micros(work.now))
        .bind(new.tenant_id)
        .bind(new.user_id)
        .fetch_optional(&mut *work.tx)
        .await?;
        let Some(name) = name else { return Ok(false) };
        sqlx::query(
            "insert into user_sessions (id, tenant_id, user_id, address, created_at, expires_at) values (?, ?, ?, ?, ?, ?)",
        )
        .bind(new.id)
        .bind(new.tenant_id)
        .bind(new.user_id)
        .bind(plain(&new.address))
        .bind(micros(work.now))
        .bind(micros(after(work.now, new.life)))
        .execute(&mut *work.tx)
        .await?;
        add_token(&mut work.tx, &new.refresh_hash, new.id, new.tenant_id, work.now).await?;
        note(&mut work, &notes.signed_in(new, &name)).await?;
        work.commit().await?;
        Ok(true)
    }

    async fn user_session(&self, id: Uuid) -> Result<Option<UserSession>> {
        living(&self.readers, id, self.clock()).await
    }

    async fn rotate_refresh_token(&self, hash: &[u8; 32], next: &[u8; 32]) -> Result<Rotation> {
        let notes = self.credential_notes();
        let mut work = self.write().await?;
        let shown = sqlx::query(
            "select s.id, r.used_at is not null as used, s.tenant_id, s.user_id, s.ended_at is null as living, \
             coalesce((select u.name from users u where u.id = s.user_id), '') as user_name from refresh_tokens r \
             join user_sessions s on s.id = r.session_id where r.hash = ?",
        )
        .bind(hash.as_slice())
        .fetch_optional(&mut *work.tx)
        .await?;
        let Some(shown) = shown else { return Ok(Rotation::Unknown) };
        let known = audited_session(&shown)?;
        if shown.try_get("used")? {
            end_session(&mut work, known.id, SessionEnd::Reuse).await?;
            if shown.try_get("living")? {
                note(&mut work, &notes.of_session(SessionDeed::Reused, &known)).await?;
            }
            work.commit().await?;
            return Ok(Rotation::Reused { session: known.id, user: known.user_id });
        }
        let Some(living) = living(&mut *work.tx, known.id, work.now).await? else { return Ok(Rotation::Unknown) };
        sqlx::query("update refresh_tokens set used_at = ? where hash = ?")
            .bind(micros(work.now))
            .bind(hash.as_slice())
            .execute(&mut *work.tx)
            .await?;
        add_token(&mut work.tx, next, known.id, known.tenant_id, work.now).await?;
        note(&mut work, &notes.of_session(SessionDeed::Refreshed, &known)).await?;
        work.commit().await?;
        Ok(Rotation::Rotated(Box::new(living)))
    }

    async fn end_user_session(&self, hash: &[u8; 32]) -> Result<Option<Uuid>> {
        let notes = self.credential_notes();
        let mut work = self.write().await?;
        let found = sqlx::query(
            "select s.id, s.tenant_id, s.user_id, s.ended_at is null as living, \
             coalesce((select u.name from users u where u.id = s.user_id), '') as user_name \
             from refresh_tokens r join user_sessions s on s.id = r.session_id where r.hash = ?",
        )
        .bind(hash.as_slice())
        .fetch_optional(&mut *work.tx)
        .await?;
        let Some(found) = found else { return Ok(None) };
        let session = audited_session(&found)?;
        if found.try_get("living")? {
            end_session(&mut work, session.id, SessionEnd::Logout).await?;
            note(&mut work, &notes.of_session(SessionDeed::Ended, &session)).await?;
        }
        work.commit().await?;
        Ok(Some(session.id))
    }

    async fn forget_user_sessions(&self) -> Result<u64> {
        let mut work = self.write().await?;
        let gone = sqlx::query(
            "delete from user_sessions where id in (select id from user_sessions where expires_at < ? limit 1000)",
        )
        .bind(micros(before(work.now, DAY)))
        .execute(&mut *work.tx)
        .await?;
        work.commit().await?;
        Ok(gone.rows_affected())
    }
}

async fn living(executor: impl SqliteExecutor<'_>, id: Uuid, now: DateTime<Utc>) -> Result<Option<UserSession>> {
    let row = sqlx::query(
        "select s.id as session_id, s.expires_at, u.* from user_sessions s join users u on u.id = s.user_id \
         where s.id = ? and s.ended_at is null and s.expires_at > ? and u.disabled_at is null",
    )
    .bind(id)
    .bind(micros(now))
    .fetch_optional(executor)
    .await?;
    row.as_ref().map(user_session).transpose()
}

async fn add_token(
    tx: &mut Transaction<'static, Sqlite>,
    hash: &[u8; 32],
    session: Uuid,
    tenant: Uuid,
    now: DateTime<Utc>,
) -> Result<()> {
    sqlx::query("insert into refresh_tokens (hash, tenant_id, session_id, created_at) values (?, ?, ?, ?)")
        .bind(hash.as_slice())
        .bind(tenant)
        .bind(session)
        .bind(micros(now))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

async fn end_session(work: &mut Work, id: Uuid, why: SessionEnd) -> Result<()> {
    sqlx::query("update user_sessions set ended_at = ?, end_reason = ? where id = ? and ended_at is null")
        .bind(micros(work.now))
        .bind(why.as_str())
        .bind(id)
        .execute(&mut *work.tx)
        .await?;
    Ok(())
}
