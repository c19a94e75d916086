//! Passwords: argon2id with the parameters that OWASP's cheat sheet on password storage names first after 46 MiB (19 MiB, two passes, one
//! lane). Hashing takes tens of milliseconds and that memory, so that few are hashed at once, and those that would wait long are sent away.

use std::sync::LazyLock;

use argon2::password_hash::phc::PasswordHash;
use argon2::{Argon2, PasswordHasher, PasswordVerifier};
use tokio::sync::Semaphore;

use crate::error::{Error, Kind};

/// The fewest characters of a password: NIST SP 800-63B asks for 8 at least, and for more where it is the only factor.
const LEAST: usize = 12;
/// The most. Long texts cost nothing here, but are no passwords either.
const MOST: usize = 256;
/// Hashed at once; each takes 19 MiB.
const AT_ONCE: usize = 2;
/// Waiting for their turn or having it; who comes beyond is told to come again.
const QUEUE: usize = 64;
/// Passwords that lists of broken ones begin with, of the length that is allowed, without digits and signs at their end.
const COMMON: [&str; 14] = [
    "password",
    "passwort",
    "passw0rd",
    "p@ssw0rd",
    "qwertyuiop",
    "qwertzuiop",
    "letmein",
    "iloveyou",
    "administrator",
    "adminadmin",
    "welcome",
    "changeme",
    "orrery",
    "secret",
];

/// Hashes and compares passwords.
#[derive(Debug)]
pub(crate) struct Passwords {
    turns: Semaphore,
    queue: Semaphore,
}

impl Default for Passwords {
    fn default() -> Self {
        Self { turns: Semaphore::new(AT_ONCE), queue: Semaphore::new(QUEUE) }
    }
}

/// What is compared with where there is no such user, so that this takes as long. Nobody knows its password.
static NOBODY: LazyLock<String> =
    LazyLock::new(|| hashed(&format!("{:?}", rand::random::<[u64; 4]>())).unwrap_or_default());

impl Passwords {
    /// The hash of a new password, in the PHC string format.
    ///
    /// # Errors
    /// TOO_MANY_LOGINS where too many wait; INTERNAL_ERROR.
    pub(crate) async fn hash(&self, password: String) -> Result<String, Error> {
        let hash = self.in_turn(move || hashed(&password)).await?;
        hash.ok_or_else(|| Error::new(Kind::Internal, "INTERNAL_ERROR", "the password could not be hashed"))
    }

    /// Whether this is the password of a hash. Where there is none it takes the same time, and is not.
    ///
    /// # Errors
    /// TOO_MANY_LOGINS where too many wait.
    pub(crate) async fn is_right(&self, password: String, hash: Option<String>) -> Result<bool, Error> {
        self.in_turn(move || {
            let known = hash.is_some();
            let right = is_of(&password, hash.as_deref().unwrap_or(&NOBODY));
            known && right
        })
        .await
    }

    async fn in_turn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
        let busy = || {
            Error::new(
                Kind::Exhausted,
                "TOO_MANY_LOGINS",
                "too many passwords are being checked; try again in a second",
            )
            .with(crate::limiter::RETRY_AFTER, 1)
        };
        let _place = self.queue.try_acquire().map_err(|_| busy())?;
        let _turn = self.turns.acquire().await.map_err(|_| busy())?;
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|_| Error::new(Kind::Internal, "INTERNAL_ERROR", "the password could not be checked"))
    }
}

fn hashed(password: &str) -> Option<String> {
    Argon2::default().hash_password(password.as_bytes()).ok().map(|hash| hash.to_string())
}

fn is_of(password: &str, hash: &str) -> bool {
    PasswordHash::new(hash).is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
}

/// Refuses passwords that others could guess. Nothing is asked of its characters: length counts (NIST SP 800-63B, 5.1.1.2).
///
/// # Errors
/// INVALID_PASSWORD under the name of the field.
pub(crate) fn check(field: &str, password: &str, user: &str) -> Result<(), Error> {
    let refused = |why: String| Err(Error::field("INVALID_PASSWORD", field, why));
    let length = password.chars().count();
    if !(LEAST..=MOST).contains(&length) {
        return refused(format!("has {length} characters; give {LEAST} to {MOST}"));
    }
    let lower = password.to_lowercase();
    let stem = lower.trim_end_matches(|c: char| !c.is_alphabetic());
    let mut characters: Vec<char> = lower.chars().collect();
    characters.sort_unstable();
    characters.dedup();
    if COMMON.iter().any(|common| stem.strip_prefix(common).is_some_and(|rest| rest.is_empty() || rest == *common))
        || characters.len() < 5
        || (!user.is_empty() && stem == user)
        || "0123456789012345678901234567890123456789".contains(&lower)
    {
        return refused("is one of those that are tried first; give another one, such as four random words".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_is_kept_as_argon2id_and_found_again() {
        let passwords = Passwords::default();
        let hash = passwords.hash("correct horse battery".into()).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        assert_ne!(hash, passwords.hash("correct horse battery".into()).await.unwrap());
        assert!(passwords.is_right("correct horse battery".into(), Some(hash.clone())).await.unwrap());
        assert!(!passwords.is_right("correct horse batterx".into(), Some(hash)).await.unwrap());
        assert!(!passwords.is_right("correct horse battery".into(), None).await.unwrap());
        assert!(!passwords.is_right("x".into(), Some("no hash".into())).await.unwrap());
    }

    #[tokio::test]
    async fn those_who_would_wait_long_are_sent_away() {
        let passwords = std::sync::Arc::new(Passwords::default());
        let turns = passwords.turns.acquire_many(u32::try_from(AT_ONCE).unwrap()).await.unwrap();
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..QUEUE {
            let passwords = passwords.clone();
            waiting.spawn(async move { passwords.in_turn(|| ()).await });
        }
        while passwords.queue.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let error = passwords.in_turn(|| ()).await.unwrap_err();
        assert_eq!((error.code, error.kind), ("TOO_MANY_LOGINS", Kind::Exhausted));
        drop(turns);
        while let Some(done) = waiting.join_next().await {
            done.unwrap().unwrap();
        }
    }

    #[test]
    fn what_is_guessed_first_is_refused() {
        for bad in [
            "short",
            "passwordpassword",
            "Password1234!",
            "aaaaaaaaaaaaa",
            "abababababab",
            "123456789012",
            "annaannaanna1",
            "qwertyuiop12",
            "Administrator2026",
        ] {
            let user = if bad.starts_with("anna") { "annaannaanna" } else { "root" };
            assert_eq!(check("password", bad, user).unwrap_err().code, "INVALID_PASSWORD", "{bad}");
        }
        check("password", &"x".repeat(257), "").unwrap_err();
        for good in ["correct horse battery", "Tr0ub4dor&3-plus", "Straße des 17. Juni", "password of my grandmother"]
        {
            check("password", good, "anna").unwrap();
        }
    }
}
