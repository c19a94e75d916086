//! Who an agent's certificate says that it is.

use std::fmt;

use uuid::Uuid;
use x509_parser::extensions::GeneralName;

/// The trust domain of every deployment: its authority alone tells deployments apart.
const BEFORE_TENANT: &str = "spiffe://orrery/tenant/";
const BEFORE_AGENT: &str = "/agent/";
/// In the place of a tenant, where an agent serves all of them.
const SHARED: &str = "shared";

/// An agent and whom it serves, as the SPIFFE ID of its certificate names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AgentIdentity {
    /// `None`: it serves all tenants.
    pub tenant_id: Option<Uuid>,
    pub agent_id: Uuid,
}

impl fmt::Display for AgentIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tenant_id {
            Some(tenant) => write!(f, "{BEFORE_TENANT}{tenant}{BEFORE_AGENT}{}", self.agent_id),
            None => write!(f, "{BEFORE_TENANT}{SHARED}{BEFORE_AGENT}{}", self.agent_id),
        }
    }
}

impl AgentIdentity {
    /// Reads a SPIFFE ID; `None` where it is written in any other way than it is issued, in case and spelling.
    pub fn parse(uri: &str) -> Option<Self> {
        let (tenant, agent) = uri.strip_prefix(BEFORE_TENANT)?.split_once(BEFORE_AGENT)?;
        let tenant_id = if tenant == SHARED { None } else { Some(Uuid::try_parse(tenant).ok()?) };
        let identity = Self { tenant_id, agent_id: Uuid::try_parse(agent).ok()? };
        (identity.to_string() == uri).then_some(identity)
    }

    /// The identity in a certificate whose chain has been verified. `None` where it has another subject alternative name, or none, or two: an
    /// X.509-SVID has exactly one URI (SPIFFE X509-SVID, 2).
    pub fn of_certificate(der: &[u8]) -> Option<Self> {
        let (rest, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
        let names = certificate.subject_alternative_name().ok()??;
        match names.value.general_names.as_slice() {
            [GeneralName::URI(uri)] if rest.is_empty() && !certificate.is_ca() => Self::parse(uri),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_read_as_it_is_written_and_in_no_other_way() {
        let agent_id = Uuid::from_u128(0xabc);
        for tenant_id in [None, Some(Uuid::from_u128(7))] {
            let identity = AgentIdentity { tenant_id, agent_id };
            assert_eq!(AgentIdentity::parse(&identity.to_string()), Some(identity));
            assert_eq!(AgentIdentity::parse(&identity.to_string().to_uppercase()), None);
            assert_eq!(AgentIdentity::parse(&format!("{identity}/")), None);
        }
        for bad in [
            "",
            "spiffe://orrery/tenant//agent/00000000-0000-0000-0000-000000000abc",
            "spiffe://orrery/tenant/SHARED/agent/00000000-0000-0000-0000-000000000abc",
            "spiffe://elsewhere/tenant/shared/agent/00000000-0000-0000-0000-000000000abc",
            "spiffe://orrery/tenant/shared/agent/00000000000000000000000000000abc",
            "spiffe://orrery/tenant/shared/agent/{00000000-0000-0000-0000-000000000abc}",
            "spiffe://orrery/tenant/shared/agent/00000000-0000-0000-0000-000000000abc/agent/x",
        ] {
            assert_eq!(AgentIdentity::parse(bad), None, "{bad}");
        }
    }
}
