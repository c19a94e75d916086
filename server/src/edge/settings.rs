use clap::Args;
use orrery_agent::egress::Rules;

use super::{ForwardedHeader, Networks, Origins};

/// What stands between a coordinator and its callers, and between its jobs and the network.
#[derive(Clone, Debug, Default, Args)]
pub struct EdgeArgs {
    /// Proxies whose word about their callers' addresses is taken: networks or addresses, separated by commas.
    #[arg(long, env = "ORRERY_TRUSTED_PROXIES", default_value = "", hide_default_value = true)]
    pub trusted_proxies: Networks,
    /// The header in which they give it.
    #[arg(long, env = "ORRERY_FORWARDED_HEADER", value_enum, default_value_t = ForwardedHeader::XForwardedFor)]
    pub forwarded_header: ForwardedHeader,
    /// Networks that may call at all, health checks aside; all where none is given.
    #[arg(long, env = "ORRERY_IP_ALLOW", default_value = "", hide_default_value = true)]
    pub ip_allow: Networks,
    /// Networks from which those may call who belong to no tenant and administer all of them; all where none is given.
    #[arg(long, env = "ORRERY_ADMIN_IP_ALLOW", default_value = "", hide_default_value = true)]
    pub admin_ip_allow: Networks,
    /// Origins of pages that may call, such as https://console.example.com, separated by commas; none where none is given.
    #[arg(long, env = "ORRERY_CORS_ORIGINS", default_value = "", hide_default_value = true)]
    pub cors_origins: Origins,
    /// For how many seconds browsers are told to come by HTTPS only (HSTS); 0: not at all. Without it they are told for a year where this
    /// server itself speaks TLS. To be set where a proxy does.
    #[arg(long, env = "ORRERY_HSTS_SECONDS")]
    pub hsts_seconds: Option<u64>,
    /// What http jobs may call beside public addresses, as far as an agent's ORRERY_EGRESS_DELEGATE lets it: networks (10.0.0.0/8),
    /// addresses, hosts (db.internal, *.svc.internal), each with :PORT where only that one; separated by commas.
    #[arg(long, env = "ORRERY_EGRESS_ALLOW", value_name = "RULES", default_value = "", hide_default_value = true)]
    pub egress_allow: Rules,
    /// Different wrong credentials that an address may show in a quarter of an hour before it has to wait, longer each time; 0: it never has.
    #[arg(long, env = "ORRERY_FREE_ATTEMPTS", default_value_t = 100)]
    pub free_attempts: u32,
}

/// A year, as the lists of browsers ask for (<https://hstspreload.org>).
const YEAR: u64 = 31_536_000;

impl EdgeArgs {
    /// For how many seconds browsers are told to come by HTTPS only; `None`: they are told nothing.
    pub fn hsts(&self, speaks_tls: bool) -> Option<u64> {
        self.hsts_seconds.or(speaks_tls.then_some(YEAR)).filter(|seconds| *seconds > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn browsers_are_told_where_there_is_tls_or_somebody_says_so() {
        let hsts = |hsts_seconds, tls| EdgeArgs { hsts_seconds, ..EdgeArgs::default() }.hsts(tls);
        assert_eq!(hsts(None, false), None);
        assert_eq!(hsts(None, true), Some(YEAR));
        assert_eq!(hsts(Some(60), false), Some(60));
        assert_eq!(hsts(Some(0), true), None);
    }
}
