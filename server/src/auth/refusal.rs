//! Calls that are not served: what their callers are answered, and what the metrics and the audit log are told.

use std::net::{IpAddr, Ipv4Addr};

use http::{HeaderValue, Response, StatusCode};

use super::calls::Asked;
use super::{Origin, Principal};
use crate::audit::{Author, Claimed, DEPLOYMENT, Denial, Denials};
use crate::error::{Error, Kind};
use crate::limiter::{Caller, RETRY_AFTER};
use crate::telemetry::Metrics;

/// A call, as far as it is told where it is denied.
pub(super) struct Seen {
    pub(super) asked: Asked,
    /// Such as `JobService/CreateJob`; empty where it is none.
    pub(super) call: &'static str,
    pub(super) origin: Origin,
}

/// Tells of calls that are refused.
#[derive(Clone, Default)]
pub(super) struct Refusals {
    pub(super) metrics: Metrics,
    pub(super) denials: Option<Denials>,
}

impl Refusals {
    /// A call was denied: counted by why, and told to the audit log, under whoever made it where that is known.
    pub(super) fn denied(&self, reason: &'static str, who: Option<&Principal>, seen: &Seen, code: &'static str) {
        self.metrics.call_refused(reason);
        if let Some(denials) = &self.denials {
            denials.tell(denial(who, seen, code, None));
        }
    }

    /// A call that signs in was denied, whoever it claimed to be: counted by why, and told to the audit log.
    pub(super) fn not_signed_in(
        &self,
        reason: &'static str,
        claimed: Option<Claimed>,
        seen: &Seen,
        code: &'static str,
    ) {
        self.metrics.call_refused(reason);
        if let Some(denials) = &self.denials {
            denials.tell(denial(None, seen, code, claimed));
        }
    }

    /// A call was refused because there were too many of its caller, or of its network where nobody is known. It has been counted by who
    /// refused it.
    pub(super) fn limited(&self, who: Option<&Principal>, seen: &Seen, code: &'static str) {
        let Some(denials) = &self.denials else { return };
        let address = seen.origin.address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let caller = who.map_or(Caller::At(address), Caller::Known);
        denials.tell_limited(&caller.key(), denial(who, seen, code, None));
    }
}

fn denial(who: Option<&Principal>, seen: &Seen, code: &'static str, claimed: Option<Claimed>) -> Denial {
    let (tenant, author) = match who {
        Some(principal) => (principal.tenant_id, Author::of(principal, &seen.origin)),
        None => (claimed.as_ref().and_then(Claimed::tenant), Author::unknown(&seen.origin)),
    };
    let (action, call) = (seen.asked.action(), seen.call);
    Denial { tenant: tenant.unwrap_or(DEPLOYMENT), author, action, call, code, claimed }
}

/// Whether the answer is that the caller may not: PERMISSION_DENIED (<https://grpc.io/docs/guides/status-codes/>).
pub(super) fn is_denied<R>(response: &Response<R>) -> bool {
    is(response, StatusCode::FORBIDDEN, "7")
}

/// Whether the answer is that what was shown is wrong: UNAUTHENTICATED.
pub(super) fn is_unauthenticated<R>(response: &Response<R>) -> bool {
    is(response, StatusCode::UNAUTHORIZED, "16")
}

/// Whether the answer is that there are too many: RESOURCE_EXHAUSTED.
pub(super) fn is_exhausted<R>(response: &Response<R>) -> bool {
    is(response, StatusCode::TOO_MANY_REQUESTS, "8")
}

fn is<R>(response: &Response<R>, status: StatusCode, grpc: &str) -> bool {
    response.status() == status || response.headers().get("grpc-status").is_some_and(|code| code == grpc)
}

/// To gRPC a response of trailers only. To REST the error itself, which the gateway's layer of errors writes.
pub(super) fn refusal<R: Default>(error: Error, grpc: bool) -> Response<R> {
    let retry_after = error.details.get(RETRY_AFTER).and_then(|seconds| HeaderValue::from_str(seconds).ok());
    let mut response = if grpc {
        tonic::Status::from(error).into_http()
    } else {
        let mut response = Response::new(R::default());
        *response.status_mut() = match error.kind {
            Kind::Exhausted => StatusCode::TOO_MANY_REQUESTS,
            Kind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Kind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Kind::Invalid => StatusCode::BAD_REQUEST,
            Kind::Denied => StatusCode::FORBIDDEN,
            Kind::Unimplemented => StatusCode::NOT_IMPLEMENTED,
            _ => StatusCode::UNAUTHORIZED,
        };
        response.extensions_mut().insert(error);
        response
    };
    if let Some(retry_after) = retry_after {
        response.headers_mut().insert(http::header::RETRY_AFTER, retry_after);
    }
    response
}
