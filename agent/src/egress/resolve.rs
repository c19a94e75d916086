//! Names to addresses, checked between the look-up and the connection.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::policy::Reach;

/// A look-up under way.
pub(crate) type Looking = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// Finds the addresses of a name.
pub(crate) trait Lookup: fmt::Debug + Send + Sync {
    fn lookup(&self, name: &str) -> Looking;
}

/// Asks the system, as every other program does.
#[derive(Debug)]
pub(crate) struct SystemLookup;

impl Lookup for SystemLookup {
    fn lookup(&self, name: &str) -> Looking {
        let name = name.to_owned();
        Box::pin(async move {
            // The port is not used.
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }
}

/// The resolver of a client: it hands out open addresses only, and the client connects to what it was handed. There is no second look-up
/// that could answer otherwise (DNS rebinding).
#[derive(Debug)]
pub(crate) struct Pinned {
    pub(crate) reach: Arc<Reach>,
    pub(crate) lookup: Arc<dyn Lookup>,
}

impl Resolve for Pinned {
    fn resolve(&self, name: Name) -> Resolving {
        let (reach, looking) = (self.reach.clone(), self.lookup.lookup(name.as_str()));
        Box::pin(async move {
            let open = reach.open(name.as_str(), looking.await?)?;
            // The client puts the URL's port in the place of 0.
            let addresses: Addrs = Box::new(open.into_iter().map(|address| SocketAddr::new(address, 0)));
            Ok(addresses)
        })
    }
}
