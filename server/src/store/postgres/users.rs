//! [`Users`].

use async_trait::async_trait;
use sqlx::{PgConnection, Row};
use uuid::Uuid;

use super::audit::note;
use super::commit::commit;
use super::roles::keep_roles;
use super::{PgStore, micros, retried, violated};
use crate::audit::Deed;
use crate::error::Error;
use crate::store::rows::{audited_session, user, user_session};
use crate::store::{
    NewUserSession, Notes, Page, Result, Rotation, SessionDeed, SessionEnd, StoreError, User, UserChange, UserSession,
    Users, text,
};

/// What [`user`] reads.
macro_rules! columns {
    () => {
        "u.id, u.tenant_id, u.name, u.display_name, u.password_hash, u.roles, u.created_by, u.created_at, u.updated_at,
         u.last_login_at, u.disabled_at"
    };
}

/// `select` of a living session with its user.
macro_rules! select_session {
    ($rest:literal) => {
        concat!(
            "select s.id as session_id, s.expires_at, ",
            columns!(),
            " from user_sessions s join users u on u.id = s.user_id
             where s.ended_at is null and s.expires_at > clock_timestamp() and u.disabled_at is null ",
            $rest
        )
    };
}

#[async_trait]
impl Users for PgStore {
    async fn create_user(&self, user: &User, made_roles: &[String]) -> Result<()> {
        let notes = self.notes();
        let mut tx = self.begin_identity().await?;
        keep_roles(&mut tx, user.tenant_id, made_roles).await?;
        let made = sqlx::query(
            "insert into users (id, tenant_id, name, display_name, password_hash, roles, created_by, created_at, updated_at)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $8)",
        )
        .bind(user.id)
        .bind(user.tenant_id)
        .bind(text::plain(&user.name))
        .bind(text::plain(&user.display_name))
        .bind(&user.password_hash)
        .bind(&user.roles)
        .bind(user.created_by)
        .bind(user.created_at)
        .execute(&mut *tx)
        .await;
        match made {
            Err(error) if violated(&error) == Some("users_name") => {
                return Err(StoreError::Refused(Box::new(Error::user_name_taken(&user.name))));
            }
            made => made?,
        };
        note(&mut tx, &notes.changed(0, || Deed::user_created(user))).await?;
        commit(tx).await
    }

    async fn user(&self, tenant: Uuid, id: Uuid) -> Result<Option<User>> {
        let found = sqlx::query(concat!("select ", columns!(), " from users u where u.tenant_id = $1 and u.id = $2"))
            .bind(tenant)
            .bind(id)
            .fetch_optional(self.identity())
            .await?;
        found.as_ref().map(user).transpose()
    }

    async fn user_by_name(&self, tenant: Uuid, name: &str) -> Result<Option<User>> {
        let found = sqlx::query(concat!("select ", columns!(), " from users u where u.tenant_id = $1 and u.name = $2"))
            .bind(tenant)
            .bind(text::plain(name))
            .fetch_optional(self.identity())
            .await?;
        found.as_ref().map(user).transpose()
    }

    async fn users(&self, tenant: Uuid, page: &Page) -> Result<Vec<User>> {
        let found = sqlx::query(concat!(
            "select ",
            columns!(),
            " from users u where u.tenant_id = $1 and ($2::uuid is null or u.id < $2) order by u.id desc limit $3"
        ))
        .bind(tenant)
        .bind(page.after)
        .bind(page.limit.max(0))
        .fetch_all(self.identity())
        .await?;
        found.iter().map(user).collect()
    }

    async fn change_user(&self, tenant: Uuid, id: Uuid, change: &UserChange) -> Result<User> {
        let notes = self.notes();
        retried!(self, self.try_change_user(tenant, id, change, &notes))
    }

    async fn begin_user_session(&self, session: &NewUserSession) -> Result<bool> {
        let notes = self.notes();
        retried!(self, self.try_begin_user_session(session, &notes))
    }

    async fn user_session(&self, id: Uuid) -> Result<Option<UserSession>> {
        let found = sqlx::query(select_session!("and s.id = $1")).bind(id).fetch_optional(self.identity()).await?;
        found.as_ref().map(user_session).transpose()
    }

    async fn rotate_refresh_token(&self, hash: &[u8; 32], next: &[u8; 32]) -> Result<Rotation> {
        let notes = self.credential_notes();
        retried!(self, self.try_rotate(hash, next, &notes))
    }

    async fn end_user_session(&self, hash: &[u8; 32]) -> Result<Option<Uuid>> {
        let notes = self.credential_notes();
        let mut tx = self.begin_identity().await?;
        let found = sqlx::query(
            "select s.id, s.tenant_id, s.user_id, s.ended_at is null as living,
                coalesce((select u.name from users u where u.id = s.user_id), '') as user_name
             from refresh_tokens r join user_sessions s on s.id = r.session_id where r.hash = $1 for update of s",
        )
        .bind(&hash[..])
        .fetch_optional(&mut *tx)
        .await?;
        let Some(found) = found else { return Ok(None) };
        let session = audited_session(&found)?;
        if found.try_get("living")? {
            end_session(&mut tx, session.id, SessionEnd::Logout).await?;
            note(&mut tx, &notes.of_session(SessionDeed::Ended, &session)).await?;
        }
        commit(tx).await?;
        Ok(Some(session.id))
    }

    async fn forget_user_sessions(&self) -> Result<u64> {
        let gone = sqlx::query(
            "delete from user_sessions where id in
             (select id from user_sessions where expires_at < clock_timestamp() - interval '1 day' limit 1000)",
        )
        .execute(self.identity())
        .await?;
        Ok(gone.rows_affected())
    }
}

impl PgStore {
    async fn try_change_user(&self, tenant: Uuid, id: Uuid, change: &UserChange, notes: &Notes) -> Result<User> {
        let mut tx = self.begin_identity().await?;
        let before = sqlx::query(concat!(
            "select ",
            columns!(),
            " from users u where u.tenant_id = $1 and u.id = $2 for no key update"
        ))
        .bind(tenant)
        .bind(id)
        .fetch_optional(&mut *tx)
        .await?;
        let before = before.as_ref().map(user).ok_or(StoreError::NotFound)??;
        keep_roles(&mut tx, tenant, &change.made_roles).await?;
        let changed = sqlx::query(concat!(
            "update users u set display_name = coalesce($3, u.display_name), roles = coalesce($4, u.roles),
                 password_hash = coalesce($5, u.password_hash),
                 disabled_at = case when $6::boolean is null then u.disabled_at when $6::boolean then coalesce(u.disabled_at, clock_timestamp()) end,
                 updated_at = clock_timestamp()
             where u.tenant_id = $1 and u.id = $2 returning ",
            columns!()
        ))
        .bind(tenant)
        .bind(id)
        .bind(change.display_name.as_deref().map(text::plain))
        .bind(&change.roles)
        .bind(&change.password_hash)
        .bind(change.disabled)
        .fetch_optional(&mut *tx)
        .await?;
        let changed = changed.as_ref().map(user).ok_or(StoreError::NotFound)??;
        let why = match (change.disabled, &change.password_hash) {
            (Some(true), _) => Some(SessionEnd::Disabled),
            (_, Some(_)) => Some(SessionEnd::Password),
            _ => None,
        };
        if let Some(why) = why {
            end_sessions(&mut tx, id, why).await?;
        }
        let deed = || Deed::user_changed(&before, &changed, change.password_hash.is_some());
        note(&mut tx, &notes.changed(0, deed)).await?;
        commit(tx).await?;
        Ok(changed)
    }

    async fn try_begin_user_session(&self, new: &NewUserSession, notes: &Notes) -> Result<bool> {
        let mut tx = self.begin_identity().await?;
        // Locks the user, so that disabling it either sees this session or comes first.
        let name: Option<String> = sqlx::query_scalar(
            "update users set last_login_at = clock_timestamp() where tenant_id = $1 and id = $2 and disabled_at is null
             returning name",
        )
        .bind(new.tenant_id)
        .bind(new.user_id)
        .fetch_optional(&mut *tx)
        .await?;
        let Some(name) = name else { return Ok(false) };
        // A repeat whose first try was committed after all finds its rows.
        sqlx::query(
            "insert into user_sessions (id, tenant_id, user_id, address, created_at, expires_at)
             values ($1, $2, $3, $4, clock_timestamp(), clock_timestamp() + $5 * interval '1 microsecond')
             on conflict (id) do nothing",
        )
        .bind(new.id)
        .bind(new.tenant_id)
        .bind(new.user_id)
        .bind(text::plain(&new.address))
        .bind(micros(new.life))
        .execute(&mut *tx)
        .await?;
        add_token(&mut tx, &new.refresh_hash, new.id, new.tenant_id).await?;
        // Its own id is the entry's as well, for whoever signs in is not known before.
        let entry = notes.signed_in(new, &name);
        note(&mut tx, &entry).await?;
        commit(tx).await?;
        Ok(true)
    }

    async fn try_rotate(&self, hash: &[u8; 32], next: &[u8; 32], notes: &Notes) -> Result<Rotation> {
        let mut tx = self.begin_identity().await?;
        // The lock lets one of two that come at once be the first.
        let shown = sqlx::query(
            "select s.id, r.used_at is not null as used, s.tenant_id, s.user_id, s.ended_at is null as living,
                 coalesce((select u.name from users u where u.id = s.user_id), '') as user_name,
                 exists (select from refresh_tokens n where n.hash = $2) as repeated
             from refresh_tokens r join user_sessions s on s.id = r.session_id where r.hash = $1 for update of r",
        )
        .bind(&hash[..])
        .bind(&next[..])
        .fetch_optional(&mut *tx)
        .await?;
        let Some(shown) = shown else { return Ok(Rotation::Unknown) };
        let known = audited_session(&shown)?;
        let (used, repeated): (bool, bool) = (shown.try_get("used")?, shown.try_get("repeated")?);
        if used && !repeated {
            end_session(&mut tx, known.id, SessionEnd::Reuse).await?;
            if shown.try_get("living")? {
                note(&mut tx, &notes.of_session(SessionDeed::Reused, &known)).await?;
            }
            commit(tx).await?;
            return Ok(Rotation::Reused { session: known.id, user: known.user_id });
        }
        let living = sqlx::query(select_session!("and s.id = $1")).bind(known.id).fetch_optional(&mut *tx).await?;
        let Some(living) = living.as_ref().map(user_session).transpose()? else { return Ok(Rotation::Unknown) };
        sqlx::query("update refresh_tokens set used_at = coalesce(used_at, clock_timestamp()) where hash = $1")
            .bind(&hash[..])
            .execute(&mut *tx)
            .await?;
        add_token(&mut tx, next, known.id, known.tenant_id).await?;
        note(&mut tx, &notes.of_session(SessionDeed::Refreshed, &known)).await?;
        commit(tx).await?;
        Ok(Rotation::Rotated(Box::new(living)))
    }
}

async fn add_token(connection: &mut PgConnection, hash: &[u8; 32], session: Uuid, tenant: Uuid) -> Result<()> {
    sqlx::query(
        "insert into refresh_tokens (hash, tenant_id, session_id, created_at) values ($1, $2, $3, clock_timestamp())
         on conflict (hash) do nothing",
    )
    .bind(&hash[..])
    .bind(tenant)
    .bind(session)
    .execute(connection)
    .await?;
    Ok(())
}

async fn end_session(connection: &mut PgConnection, id: Uuid, why: SessionEnd) -> Result<()> {
    sqlx::query(
        "update user_sessions set ended_at = clock_timestamp(), end_reason = $2 where id = $1 and ended_at is null",
    )
    .bind(id)
    .bind(why.as_str())
    .execute(connection)
    .await?;
    Ok(())
}

async fn end_sessions(connection: &mut PgConnection, user: Uuid, why: SessionEnd) -> Result<()> {
    sqlx::query(
        "update user_sessions set ended_at = clock_timestamp(), end_reason = $2 where user_id = $1 and ended_at is null",
    )
    .bind(user)
    .bind(why.as_str())
    .execute(connection)
    .await?;
    Ok(())
}
