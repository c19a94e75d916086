//! How a coordinator is reached: its address, TLS, and the credential on every call.

use std::time::Duration;

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::error::Error;
use crate::tls::ClientTls;

/// Bytes that a coordinator may send ahead on a stream: thousands of leases at once are not to wait for the agent to say that it has read the
/// first of them.
const STREAM_WINDOW: u32 = 4 * 1024 * 1024;

/// A channel whose every call carries the credential.
pub(crate) type Authorized = InterceptedService<Channel, Credential>;

/// What answers for the caller: an API key or token, as `authorization: Bearer KEY`.
#[derive(Clone, Debug, Default)]
pub struct Credential(Option<MetadataValue<Ascii>>);

impl Credential {
    /// # Errors
    /// INVALID_CREDENTIAL where the key holds what no header may, such as a line break from a file.
    pub(crate) fn new(key: Option<&str>) -> Result<Self, Error> {
        let Some(key) = key.map(str::trim).filter(|key| !key.is_empty()) else { return Ok(Self(None)) };
        let mut value: MetadataValue<Ascii> = format!("Bearer {key}").parse().map_err(|_| {
            Error::local("INVALID_CREDENTIAL", Code::InvalidArgument, "the API key holds characters that no header may")
        })?;
        value.set_sensitive(true);
        Ok(Self(Some(value)))
    }
}

impl Interceptor for Credential {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// Describes how to connect to `uri`. Without a scheme it is plain HTTP; `https` uses TLS, as `tls` says.
///
/// # Errors
/// INVALID_ENDPOINT where it is no address, or certificates cannot be read.
pub(crate) fn endpoint(uri: &str, connect_timeout: Duration, tls: &ClientTls) -> Result<Endpoint, Error> {
    let invalid = |why: String| {
        Error::local("INVALID_ENDPOINT", Code::InvalidArgument, format!("{uri:?} is no coordinator address: {why}"))
    };
    let trimmed = uri.trim();
    if trimmed.is_empty() {
        return Err(invalid("it is empty; write one such as http://127.0.0.1:50051".into()));
    }
    let full = if trimmed.contains("://") { trimmed.to_owned() } else { format!("http://{trimmed}") };
    let endpoint = Endpoint::from_shared(full.clone()).map_err(|e| invalid(e.to_string()))?;
    let endpoint = if full.starts_with("https://") {
        tls.secured(endpoint).map_err(|e| invalid(describe(&e)))?
    } else if full.starts_with("http://") {
        endpoint
    } else {
        return Err(invalid("the scheme must be http or https".into()));
    };
    // A peer that vanished without a word (power, network) is noticed by unanswered pings, whatever the calls are waiting for.
    Ok(endpoint
        .connect_timeout(connect_timeout)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(2 * STREAM_WINDOW)
        .tcp_keepalive(Some(Duration::from_secs(30)))
        .http2_keep_alive_interval(Duration::from_secs(4))
        .keep_alive_timeout(Duration::from_secs(3))
        .keep_alive_while_idle(false))
}

/// An error with its causes.
fn describe(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", describe(cause)),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(uri: &str, connect_timeout: Duration) -> Result<Endpoint, Error> {
        super::endpoint(uri, connect_timeout, &ClientTls::default())
    }

    #[test]
    fn addresses_that_are_none_are_refused_by_name() {
        for bad in ["", "  ", "ftp://host:1", "http://"] {
            let error = endpoint(bad, Duration::from_secs(1)).expect_err(bad);
            assert_eq!(error.code(), "INVALID_ENDPOINT", "{bad}");
        }
        assert!(endpoint("localhost:50051", Duration::from_secs(1)).is_ok());
        assert!(endpoint("https://coordinator.example:443", Duration::from_secs(1)).is_ok());
    }

    #[test]
    fn a_key_is_trimmed_and_checked() {
        assert!(Credential::new(Some("abc\n")).is_ok());
        assert!(Credential::new(Some("a\nb")).is_err());
        assert!(Credential::new(None).is_ok_and(|c| c.0.is_none()));
    }
}
