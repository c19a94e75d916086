//! A JWK set that is fetched and kept: from a file, or from the address where an identity provider publishes it.
//!
//! It is read again after [`FRESH`], and earlier where a token names a key that is not in it, but at most once in [`PAUSE`]: whoever sends
//! tokens with ids made up causes no more calls than that. What was read last counts for [`KEPT`] where it cannot be read again. After
//! that, and before it was ever read, no token of its keys is accepted.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::key::{self, VerifyingKey};
use crate::sibling;

/// How long what was read is used without looking again.
const FRESH: Duration = Duration::from_secs(600);
/// How long it is used where looking again fails.
const KEPT: Duration = Duration::from_secs(3600);
/// The least time between two looks.
const PAUSE: Duration = Duration::from_secs(30);
/// How long a look may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// The largest set that is read, in bytes.
const MOST: usize = 256 << 10;

/// The keys could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Away;

/// A set of keys that is read when it is needed.
pub(super) struct Jwks {
    source: Source,
    state: Mutex<State>,
    /// One looks; the others wait for what it finds.
    looking: tokio::sync::Mutex<()>,
}

enum Source {
    File(PathBuf),
    Url { url: reqwest::Url, client: reqwest::Client },
}

#[derive(Default)]
struct State {
    keys: Arc<[VerifyingKey]>,
    read: Option<Instant>,
    tried: Option<Instant>,
}

/// What to do for a token.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Use,
    Look,
    Refuse,
}

impl Jwks {
    /// A set in a file, which must be one now.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn file(path: PathBuf) -> Result<Self, String> {
        let text = std::fs::read(&path).map_err(|error| error.to_string())?;
        let keys = key::of_set(&text)?;
        let now = Some(Instant::now());
        let state = State { keys: keys.into(), read: now, tried: now };
        Ok(Self { source: Source::File(path), state: Mutex::new(state), looking: tokio::sync::Mutex::default() })
    }

    /// A set at an address. It is not read yet: the provider may start after us.
    ///
    /// # Errors
    /// Where it is no address that keys may come from: what comes over plain HTTP from another host may be anybody's.
    pub(super) fn url(url: &str) -> Result<Self, String> {
        let url: reqwest::Url = url.parse().map_err(|_| "is no URL".to_owned())?;
        let local = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        if url.scheme() != "https" && !(url.scheme() == "http" && local) {
            return Err(
                "must begin with https://; http:// is for this host only, since keys could be swapped on the way"
                    .into(),
            );
        }
        let client = sibling::client(PATIENCE).map_err(|_| "cannot be used".to_owned())?;
        Ok(Self {
            source: Source::Url { url, client },
            state: Mutex::default(),
            looking: tokio::sync::Mutex::default(),
        })
    }

    /// The keys that may have signed a token with this id.
    ///
    /// # Errors
    /// [`Away`] where there are none to be had.
    pub(super) async fn keys(&self, kid: Option<&str>) -> Result<Arc<[VerifyingKey]>, Away> {
        if self.state().next(kid, Instant::now()) == Next::Look {
            let _turn = self.looking.lock().await;
            // Somebody may have looked while this one waited.
            if self.state().next(kid, Instant::now()) == Next::Look {
                self.look().await;
            }
        }
        let state = self.state();
        match state.next(kid, Instant::now()) {
            Next::Refuse => Err(Away),
            Next::Use | Next::Look => Ok(Arc::clone(&state.keys)),
        }
    }

    async fn look(&self) {
        // Before the answer: a caller who goes away must not make the next one look at once.
        self.state().tried = Some(Instant::now());
        match self.read().await {
            Ok(keys) => {
                let mut state = self.state();
                state.keys = keys.into();
                state.read = Some(Instant::now());
            }
            Err(reason) => tracing::warn!(reason, "the keys of ORRERY_JWKS cannot be read"),
        }
    }

    async fn read(&self) -> Result<Vec<VerifyingKey>, String> {
        let text = match &self.source {
            Source::File(path) => tokio::fs::read(path).await.map_err(|error| error.to_string())?.into(),
            Source::Url { url, client } => {
                let answer = sibling::read(client.get(url.clone()), MOST).await?;
                if !answer.status.is_success() {
                    return Err(format!("the answer was {}", answer.status));
                }
                answer.body
            }
        };
        Ok(key::of_set(&text)?)
    }

    /// As if [`PAUSE`] had passed.
    #[cfg(test)]
    pub(super) fn a_while_later(&self) {
        self.state().tried = None;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn next(&self, kid: Option<&str>, now: Instant) -> Next {
        let age = self.read.map(|read| now.saturating_duration_since(read));
        let knows =
            kid.is_none_or(|kid| self.keys.iter().any(|key| key.kid.as_deref().is_none_or(|known| known == kid)));
        let may_look = self.tried.is_none_or(|tried| now.saturating_duration_since(tried) >= PAUSE);
        match age {
            Some(age) if age < FRESH && knows => Next::Use,
            _ if may_look => Next::Look,
            Some(age) if age < KEPT => Next::Use,
            _ => Next::Refuse,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(kid: &str, read: Instant) -> State {
        let key = VerifyingKey { kid: Some(kid.into()), ..VerifyingKey::secret(b"x") };
        State { keys: vec![key].into(), read: Some(read), tried: Some(read) }
    }

    #[test]
    fn it_is_looked_for_when_it_is_old_or_a_key_is_missing_and_not_too_often() {
        let now = Instant::now();
        let known = state("a", now);
        assert_eq!(known.next(Some("a"), now), Next::Use);
        assert_eq!(known.next(None, now), Next::Use);
        // A key that is not in it: once in a while.
        assert_eq!(known.next(Some("b"), now + PAUSE / 2), Next::Use);
        assert_eq!(known.next(Some("b"), now + PAUSE), Next::Look);
        assert_eq!(known.next(Some("a"), now + FRESH), Next::Look);
    }

    #[test]
    fn where_it_cannot_be_read_it_counts_for_a_while_and_then_nothing_does() {
        let now = Instant::now();
        let tried = |at| State { tried: Some(at), ..state("a", now) };
        assert_eq!(tried(now + FRESH).next(Some("a"), now + FRESH), Next::Use);
        assert_eq!(tried(now + KEPT).next(Some("a"), now + KEPT), Next::Refuse);
        let never = State { tried: Some(now), ..State::default() };
        assert_eq!(never.next(Some("a"), now), Next::Refuse);
        assert_eq!(State::default().next(Some("a"), now), Next::Look);
    }

    #[test]
    fn keys_do_not_come_over_plain_http_from_elsewhere() {
        for bad in ["http://idp.example/jwks", "ftp://localhost/x", "jwks", "http://127.0.0.1.example/jwks"] {
            assert!(Jwks::url(bad).is_err(), "{bad}");
        }
        for good in ["https://idp.example/jwks", "http://127.0.0.1:8080/jwks", "http://localhost/jwks"] {
            assert!(Jwks::url(good).is_ok(), "{good}");
        }
    }
}
