//! The one way from the command line to a server.

pub use orrery_sdk::{Client, Error};

use orrery_sdk::ClientOptions;

/// A client for `server`; `http://` is added where no scheme is given. It connects at the first call.
///
/// # Errors
/// Where the address or the key cannot be used.
pub fn connect(server: &str, api_key: Option<&str>) -> Result<Client, Error> {
    let server = server.trim();
    let endpoint = if server.contains("://") { server.to_owned() } else { format!("http://{server}") };
    let api_key = api_key.map(str::trim).filter(|key| !key.is_empty()).map(str::to_owned);
    Client::connect(&ClientOptions { endpoint, api_key, ..ClientOptions::default() })
}
