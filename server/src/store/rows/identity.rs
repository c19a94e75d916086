use super::Columns;
use crate::store::{AuditedSession, Result, User, UserSession};

const USERS: &str = "users";
const SESSIONS: &str = "user_sessions";

pub(in crate::store) fn user(row: &impl Columns) -> Result<User> {
    Ok(User {
        id: row.id("id")?,
        tenant_id: row.id("tenant_id")?,
        name: row.text("name")?,
        display_name: row.text("display_name")?,
        password_hash: row.text("password_hash")?,
        roles: row.texts(USERS, "roles")?,
        created_by: row.maybe_id("created_by")?,
        created_at: row.instant(USERS, "created_at")?,
        updated_at: row.instant(USERS, "updated_at")?,
        last_login_at: row.maybe_instant(USERS, "last_login_at")?,
        disabled_at: row.maybe_instant(USERS, "disabled_at")?,
    })
}

/// A living session, with its user.
pub(in crate::store) fn user_session(row: &impl Columns) -> Result<UserSession> {
    Ok(UserSession { id: row.id("session_id")?, expires_at: row.instant(SESSIONS, "expires_at")?, user: user(row)? })
}

/// A session of any state, as far as entries tell of it.
pub(in crate::store) fn audited_session(row: &impl Columns) -> Result<AuditedSession> {
    Ok(AuditedSession {
        id: row.id("id")?,
        tenant_id: row.id("tenant_id")?,
        user_id: row.id("user_id")?,
        user_name: row.text("user_name")?,
    })
}
