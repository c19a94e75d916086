use std::sync::{Arc, Mutex, PoisonError};

use reqwest::{Client, redirect};

use super::chain;
use crate::egress::{Lookup, Pinned, Reach};

/// Reaches whose clients are kept. Nearly all calls are of one, and few agents serve more than some tenants with rules of their own.
const MOST: usize = 32;

/// The clients, each with its connections: one for all calls of a reach.
pub(super) struct Clients {
    user_agent: String,
    lookup: Arc<dyn Lookup>,
    /// The one used last stands first.
    known: Mutex<Vec<(Arc<Reach>, Client)>>,
}

impl Clients {
    pub(super) fn new(user_agent: String, lookup: Arc<dyn Lookup>) -> Self {
        Self { user_agent, lookup, known: Mutex::default() }
    }

    /// The client of a reach.
    ///
    /// # Errors
    /// Why there is none.
    pub(super) fn of(&self, reach: Reach) -> Result<Client, String> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = known.iter().position(|(its, _)| **its == reach) {
            if at > 0 {
                known[..=at].rotate_right(1);
            }
            return Ok(known[0].1.clone());
        }
        let reach = Arc::new(reach);
        let client = self.build(reach.clone()).map_err(chain)?;
        known.truncate(MOST - 1);
        known.insert(0, (reach, client.clone()));
        Ok(client)
    }

    fn build(&self, reach: Arc<Reach>) -> Result<Client, reqwest::Error> {
        // Refused where the program has installed one already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Client::builder()
            .user_agent(&self.user_agent)
            .dns_resolver(Pinned { reach, lookup: self.lookup.clone() })
            // Each hop is checked, and its headers chosen, by us.
            .redirect(redirect::Policy::none())
            // A proxy would resolve and connect in our place, and none of it would be checked.
            .no_proxy()
            // A small body that unfolds to gigabytes would: as it came it is cut where it is too long. Said although the features are off,
            // since another crate of the program may turn them on.
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate()
            .build()
    }
}
