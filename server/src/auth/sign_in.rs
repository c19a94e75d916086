//! People who sign in: from a password to a session, and from a session's tokens to a principal.
//!
//! A session is begun by [`SignIn::begin`], whatever proved who somebody is. Today that is a password. A login by OpenID Connect would
//! come in beside [`SignIn::login`]: a callback that has exchanged its code and checked the ID token (nonce, `iss`, `aud`, signature, with what
//! [`super::jwt`] has for it) finds or makes the user of that subject, and ends in `begin` as well. Nothing after it knows the difference.

use std::time::Duration;

use uuid::Uuid;

use super::claim::claims;
use super::keyring::Keyring;
use super::password::{self, Passwords};
use super::principal::Kind;
use super::recent::Recent;
use super::{Origin, Principal, access_token, grants, refresh_token, unauthenticated};
use crate::config::Identity;
use crate::error::{Error, Kind as ErrorKind};
use crate::store::{DynStore, NewUserSession, Rotation, StoreError, User, UserChange, UserSession};

/// How long a session that was looked up is good without asking again; one that was ended elsewhere lives so much longer, and roles that
/// were changed count from then on.
const KEPT: Duration = Duration::from_secs(10);

/// No name and no password has more bytes; longer ones are not worth a look.
const LONGEST: usize = 1024;

/// Signs people in and out.
pub(crate) struct SignIn {
    store: DynStore,
    keyring: Keyring,
    passwords: Passwords,
    audience: String,
    access_life: Duration,
    session_life: Duration,
    /// By session; `None`: it is over.
    sessions: Recent<Uuid, Option<UserSession>>,
}

/// What somebody who signed in is given.
pub(crate) struct Signed {
    pub(crate) access_token: String,
    pub(crate) access_life: Duration,
    pub(crate) refresh_token: String,
    /// Until when the session lives, however often it is refreshed.
    pub(crate) session: UserSession,
}

impl SignIn {
    pub(super) fn new(store: DynStore, keyring: Keyring, identity: &Identity) -> Self {
        Self {
            store,
            keyring,
            passwords: Passwords::default(),
            audience: identity.jwt_audience.clone(),
            access_life: Duration::from_secs(60 * identity.access_token_minutes),
            session_life: Duration::from_secs(86_400 * identity.session_days),
            sessions: Recent::default(),
        }
    }

    /// Signs in by a password. That there is no such user, that it is disabled and that the password is wrong are one answer, after the same
    /// time.
    ///
    /// # Errors
    /// WRONG_CREDENTIALS; TOO_MANY_LOGINS.
    pub(crate) async fn login(
        &self,
        tenant: Uuid,
        name: &str,
        password: String,
        from: &Origin,
    ) -> Result<Signed, Error> {
        if name.len() > LONGEST || password.len() > LONGEST {
            claims(None);
            return Err(wrong_login());
        }
        let user = self.store.user_by_name(tenant, &name.to_lowercase()).await?;
        claims(user.as_ref());
        let hash = user.as_ref().map(|user| user.password_hash.clone());
        let right = self.passwords.is_right(password, hash).await?;
        match user.filter(|user| right && user.disabled_at.is_none()) {
            Some(user) => self.begin(user, from).await,
            None => Err(wrong_login()),
        }
    }

    /// Begins a session of somebody who has proved who they are.
    ///
    /// # Errors
    /// WRONG_CREDENTIALS where the user has been disabled meanwhile.
    async fn begin(&self, user: User, from: &Origin) -> Result<Signed, Error> {
        let (refresh_token, refresh_hash) = refresh_token::generate();
        let new = NewUserSession {
            id: Uuid::now_v7(),
            tenant_id: user.tenant_id,
            user_id: user.id,
            address: from.address.map(|address| address.to_string()).unwrap_or_default(),
            refresh_hash,
            life: self.session_life,
        };
        if !self.store.begin_user_session(&new).await? {
            return Err(wrong_login());
        }
        let session = self.store.user_session(new.id).await?.ok_or_else(wrong_login)?;
        self.signed(session, refresh_token)
    }

    /// Gives new tokens for a refresh token, which is good no more.
    ///
    /// # Errors
    /// UNKNOWN_REFRESH_TOKEN where it is none, or its session is over; REFRESH_TOKEN_REUSED where it was used before: two have it, nobody knows
    /// which of them is the thief, and the session ends for both (RFC 9700, 4.14.2).
    pub(crate) async fn refresh(&self, token: &str) -> Result<Signed, Error> {
        let (next, next_hash) = refresh_token::generate();
        let hash = refresh_token::hash(token).ok_or_else(wrong_refresh_token)?;
        match self.store.rotate_refresh_token(&hash, &next_hash).await? {
            Rotation::Unknown => Err(wrong_refresh_token()),
            Rotation::Reused { session, user } => {
                self.sessions.forget(|id, _| *id == session);
                tracing::warn!(%session, %user, "a refresh token came a second time; its session is ended");
                let message = "the refresh token was used before, so that the session is ended; sign in again";
                Err(Error::new(ErrorKind::Unauthenticated, "REFRESH_TOKEN_REUSED", message))
            }
            Rotation::Rotated(session) => self.signed(*session, next),
        }
    }

    /// Ends the session of a refresh token. One that nobody was given is no error (RFC 7009, 2.2).
    ///
    /// # Errors
    /// Where the database is away.
    pub(crate) async fn logout(&self, token: &str) -> Result<(), Error> {
        let Some(hash) = refresh_token::hash(token) else { return Ok(()) };
        if let Some(session) = self.store.end_user_session(&hash).await? {
            self.sessions.forget(|id, _| *id == session);
        }
        Ok(())
    }

    /// Who calls with an access token.
    ///
    /// # Errors
    /// UNAUTHENTICATED.
    pub(super) async fn principal(&self, token: &str) -> Result<Principal, Error> {
        let over =
            || unauthenticated("the access token is not valid, or its session is over; refresh it, or sign in again");
        let (user, session) = access_token::session(&self.keyring, &self.audience, token).ok_or_else(over)?;
        let found = match self.sessions.get(&session) {
            Some(known) => known,
            None => {
                let found = self.store.user_session(session).await?;
                self.sessions.put(session, found.clone(), KEPT);
                found
            }
        };
        let found = found.filter(|found| found.user.id == user).ok_or_else(over)?;
        Ok(principal(&found.user))
    }

    /// Sets a user's own password. All sessions that were begun with the old one end, and a new one begins.
    ///
    /// # Errors
    /// WRONG_CREDENTIALS where the current password is wrong, or whoever calls has none; INVALID_PASSWORD.
    pub(crate) async fn change_password(
        &self,
        caller: &Principal,
        current: String,
        new: String,
        from: &Origin,
    ) -> Result<Signed, Error> {
        let user = self.store.user(caller.tenant(), caller.subject).await?;
        let hash = user.as_ref().map(|user| user.password_hash.clone());
        let right = self.passwords.is_right(current, hash).await?;
        let Some(user) = user.filter(|_| right) else {
            let message = "currentPassword: is wrong, or whoever calls is no user with a password";
            return Err(Error::new(ErrorKind::Denied, "WRONG_CREDENTIALS", message));
        };
        let password_hash = Some(self.hash("newPassword", new, &user.name).await?);
        let change = UserChange { password_hash, ..UserChange::default() };
        let user = self.change(user.tenant_id, user.id, &change).await?;
        self.begin(user, from).await
    }

    /// The hash of a password that is given to a user.
    ///
    /// # Errors
    /// INVALID_PASSWORD under the name of the field.
    pub(crate) async fn hash(&self, field: &str, password: String, user: &str) -> Result<String, Error> {
        password::check(field, &password, user)?;
        self.passwords.hash(password).await
    }

    /// Changes a user; what is remembered of its sessions is forgotten, so that it counts at once, here.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub(crate) async fn change(&self, tenant: Uuid, id: Uuid, change: &UserChange) -> Result<User, StoreError> {
        let user = self.store.change_user(tenant, id, change).await?;
        self.sessions.forget(|_, session| session.as_ref().is_some_and(|session| session.user.id == id));
        Ok(user)
    }

    fn signed(&self, session: UserSession, refresh_token: String) -> Result<Signed, Error> {
        let access_token =
            access_token::sign(&self.keyring, &self.audience, session.user.id, session.id, self.access_life)?;
        Ok(Signed { access_token, access_life: self.access_life, refresh_token, session })
    }
}

/// A user as a caller.
pub(crate) fn principal(user: &User) -> Principal {
    Principal {
        kind: Kind::User,
        tenant_id: Some(user.tenant_id),
        subject: user.id,
        name: user.name.clone(),
        roles: user.roles.clone(),
        permissions: grants::permissions(None, &user.roles),
        tagged: Vec::new(),
    }
}

fn wrong_login() -> Error {
    Error::new(
        ErrorKind::Unauthenticated,
        "WRONG_CREDENTIALS",
        "the name or the password is wrong, or the user is disabled",
    )
}

fn wrong_refresh_token() -> Error {
    let message = "the refresh token is unknown, or its session is over; sign in again";
    Error::new(ErrorKind::Unauthenticated, "UNKNOWN_REFRESH_TOKEN", message)
}
