//! Where http jobs may connect to: the public internet, and what was opened beside it. A job's author is not trusted with the network that
//! the agent stands in (OWASP, Server-Side Request Forgery Prevention Cheat Sheet).
//!
//! An address is checked where it is connected to: literals as the URL parser reads them, names on what they resolve to, which is then
//! connected to without a second look-up, and both again on each redirect.

mod address;
mod policy;
mod resolve;
mod rule;

pub use self::address::{Kind, kind};
pub use self::policy::{Policy, Reach, Refused};
pub(crate) use self::resolve::{Lookup, Pinned, SystemLookup};
pub use self::rule::{Rule, RuleError, Rules};
