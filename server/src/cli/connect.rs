//! The one way from the command line to a server.

pub use orrery_sdk::{Client, Error};

use std::path::Path;

use orrery_sdk::{ClientOptions, ClientTls};

/// A client for `server`; `http://` is added where no scheme is given. It connects at the first call. With a CA file, its authorities alone are
/// trusted.
///
/// # Errors
/// Where the address, the key or the file cannot be used.
pub fn connect(server: &str, api_key: Option<&str>, ca: Option<&Path>) -> Result<Client, Error> {
    let server = server.trim();
    let endpoint = if server.contains("://") { server.to_owned() } else { format!("http://{server}") };
    let api_key = api_key.map(str::trim).filter(|key| !key.is_empty()).map(str::to_owned);
    let tls = match ca.filter(|file| !file.as_os_str().is_empty()) {
        Some(file) => ClientTls::default().authorities_of(file)?,
        None => ClientTls::default(),
    };
    Client::connect(&ClientOptions { endpoint, api_key, tls, ..ClientOptions::default() })
}
