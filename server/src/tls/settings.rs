use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::TlsError;

/// How connections are secured, and agents known.
#[derive(Clone, Debug, Args)]
pub struct TlsSettings {
    /// PEM file of the certificate that REST and gRPC are served with, its chain after it; TLS 1.3 only. Without it both are plain.
    #[arg(long, env = "ORRERY_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// PEM file of its key. Both files are read again when they change.
    #[arg(long, env = "ORRERY_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// PEM file of the authority that agents' certificates come from (`orrery ca init` makes one); others in it are trusted as well.
    #[arg(long, env = "ORRERY_CA_CERT", value_name = "FILE")]
    pub ca_cert: Option<PathBuf>,
    /// PEM file of the authority's key (PKCS #8). Without it known agents are let in, and none is enrolled or renewed here.
    #[arg(long, env = "ORRERY_CA_KEY", value_name = "FILE")]
    pub ca_key: Option<PathBuf>,
    /// How long an agent's certificate is good, in seconds; agents renew theirs when two thirds of it are over.
    #[arg(long, env = "ORRERY_AGENT_CERT_SECONDS", default_value_t = 86_400, value_parser = clap::value_parser!(u32).range(10..=86_400))]
    pub agent_cert_seconds: u32,
    /// How agents may show who they are.
    #[arg(long, env = "ORRERY_AGENT_AUTH", value_enum, default_value = "any")]
    pub agent_auth: AgentAuth,
}

/// How agents may show who they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum AgentAuth {
    /// By a certificate, or by an API key or token with agents:connect. An upgrade locks no agent out.
    #[default]
    Any,
    /// By a certificate alone.
    Mtls,
}

impl Default for TlsSettings {
    fn default() -> Self {
        Self {
            tls_cert: None,
            tls_key: None,
            ca_cert: None,
            ca_key: None,
            agent_cert_seconds: 86_400,
            agent_auth: AgentAuth::Any,
        }
    }
}

impl TlsSettings {
    /// Refuses settings that leave open what was asked for: a missing half must not mean that something is served in the clear.
    ///
    /// # Errors
    /// [`TlsError::Half`], with the setting that is missing.
    pub fn check(&self) -> Result<(), TlsError> {
        let half = |given, missing, fix| Err(TlsError::Half { given, missing, fix });
        let both = "give both, or neither to serve without TLS";
        match (&self.tls_cert, &self.tls_key) {
            (Some(_), None) => return half("ORRERY_TLS_CERT", "ORRERY_TLS_KEY", both),
            (None, Some(_)) => return half("ORRERY_TLS_KEY", "ORRERY_TLS_CERT", both),
            _ => {}
        }
        if self.ca_key.is_some() && self.ca_cert.is_none() {
            return half("ORRERY_CA_KEY", "ORRERY_CA_CERT", "the authority's certificate is needed with its key");
        }
        if self.ca_cert.is_some() && self.tls_cert.is_none() {
            let fix =
                "agents show their certificates over TLS only: `orrery ca issue` makes a certificate for coordinators";
            return half("ORRERY_CA_CERT", "ORRERY_TLS_CERT", fix);
        }
        if self.agent_auth == AgentAuth::Mtls && self.ca_cert.is_none() {
            let fix = "it says whose certificates agents may show: `orrery ca init` makes one";
            return half("ORRERY_AGENT_AUTH=mtls", "ORRERY_CA_CERT", fix);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_a_setting_is_refused_and_named() {
        let file = || Some(PathBuf::from("x.pem"));
        let none = TlsSettings::default;
        none().check().unwrap();
        for (settings, missing) in [
            (TlsSettings { tls_cert: file(), ..none() }, "ORRERY_TLS_KEY"),
            (TlsSettings { tls_key: file(), ..none() }, "ORRERY_TLS_CERT"),
            (TlsSettings { ca_key: file(), ..none() }, "ORRERY_CA_CERT"),
            (TlsSettings { ca_cert: file(), ca_key: file(), ..none() }, "ORRERY_TLS_CERT"),
            (
                TlsSettings { tls_cert: file(), tls_key: file(), agent_auth: AgentAuth::Mtls, ..none() },
                "ORRERY_CA_CERT",
            ),
        ] {
            let message = settings.check().unwrap_err().to_string();
            assert!(message.contains(&format!("{missing} is not")), "{message}");
        }
    }
}
