//! What a process gets: decided from what its job asks for, its tenant demands, the agent allows and the host can do. Pure.

use orrery_sdk::config::{Problem, SandboxConfig, SandboxLevel};
use serde::{Deserialize, Serialize};

use super::SandboxSettings;
use super::host::Host;

/// The most processes and threads of a contained job where nobody says: enough for any usual program, and few enough for a host to live
/// through a fork bomb.
pub(super) const USUAL_PIDS: u64 = 1024;

/// Bounds of everything that an execution starts, together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Limits {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory_mb: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cpus: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pids: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tmp_mb: Option<u64>,
}

/// What a process gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Terms {
    pub(crate) level: SandboxLevel,
    pub(crate) network: bool,
    #[serde(flatten)]
    pub(crate) limits: Limits,
}

impl Terms {
    /// Whether it is to be started as any other process.
    pub(crate) fn is_plain(&self) -> bool {
        self.level == SandboxLevel::None && self.limits == Limits::default()
    }
}

/// Whether anything of it needs to know the host: most processes do not, and start without delay.
pub(super) fn is_plain(settings: &SandboxSettings, tenant: SandboxLevel, job: Option<&SandboxConfig>) -> bool {
    let asked = job.is_some_and(|job| {
        let limits = (job.memory_mb, job.cpus, job.pids, job.tmp_mb) != (None, None, None, None);
        limits || job.network == Some(false) || job.level.unwrap_or_default() > SandboxLevel::None
    });
    let allowed = (settings.memory_mb, settings.cpus, settings.pids, settings.tmp_mb) != (None, None, None, None);
    !asked && !allowed && settings.level.max(tenant) == SandboxLevel::None
}

/// What a process gets, or what stands in the way.
///
/// # Errors
/// The first field that cannot be had, and what the host lacks for it.
pub(super) fn decide(
    settings: &SandboxSettings,
    tenant: SandboxLevel,
    job: Option<&SandboxConfig>,
    host: &Host,
) -> Result<Terms, Problem> {
    let none = SandboxConfig::default();
    let job = job.unwrap_or(&none);
    let level = level(settings, tenant, job);
    host.level(level.0).map_err(|lacks| {
        let (level, by) = level;
        problem("level", format!("{level}, which {by}, cannot be had on this agent: {lacks}"))
    })?;
    let network = network(settings, level.0, job)?;
    let mut limits = Limits {
        memory_mb: bounded("memoryMb", job.memory_mb, settings.memory_mb)?,
        cpus: bounded("cpus", job.cpus, settings.cpus)?,
        pids: bounded("pids", job.pids, settings.pids)?,
        tmp_mb: bounded("tmpMb", job.tmp_mb, settings.tmp_mb.filter(|_| level.0 == SandboxLevel::Container))?,
    };
    if level.0 > SandboxLevel::None && host.pids.is_ok() {
        limits.pids.get_or_insert(USUAL_PIDS);
    }
    let cannot = |field, lacks: &str| problem(field, format!("cannot be enforced on this agent: {lacks}"));
    if limits.memory_mb.is_some() {
        host.memory.as_ref().map_err(|lacks| cannot("memoryMb", lacks))?;
    }
    if limits.cpus.is_some() {
        host.cpus.as_ref().map_err(|lacks| cannot("cpus", lacks))?;
    }
    if limits.pids.is_some() {
        host.pids.as_ref().map_err(|lacks| cannot("pids", lacks))?;
    }
    if limits.tmp_mb.is_some() && level.0 < SandboxLevel::Container {
        return Err(problem("tmpMb", format!("needs the level container, and the process would run at {}", level.0)));
    }
    Ok(Terms { level: level.0, network, limits })
}

/// The strictest level that anybody asks for, and who does.
fn level(settings: &SandboxSettings, tenant: SandboxLevel, job: &SandboxConfig) -> (SandboxLevel, &'static str) {
    let asked = [
        (job.level.unwrap_or_default(), "the job asks for"),
        (tenant, "its tenant demands"),
        (settings.level, "the agent demands"),
    ];
    asked.into_iter().fold(asked[0], |strictest, other| if other.0 > strictest.0 { other } else { strictest })
}

fn network(settings: &SandboxSettings, level: SandboxLevel, job: &SandboxConfig) -> Result<bool, Problem> {
    match (job.network, level) {
        (Some(false), SandboxLevel::None) => {
            Err(problem("network", "can only be off at the level process or container".into()))
        }
        (_, SandboxLevel::None) => Ok(true),
        (Some(true), _) if !settings.network => {
            Err(problem("network", "is asked for, and this agent gives none to contained processes".into()))
        }
        (asked, _) => Ok(asked.unwrap_or(true) && settings.network),
    }
}

/// What is asked for, or else what the agent gives, which is also the most.
fn bounded<T: PartialOrd + Copy + std::fmt::Display>(
    field: &str,
    asked: Option<T>,
    most: Option<T>,
) -> Result<Option<T>, Problem> {
    match (asked, most) {
        (Some(asked), Some(most)) if asked > most => {
            Err(problem(field, format!("is {asked}, and this agent allows {most} at most")))
        }
        (asked, most) => Ok(asked.or(most)),
    }
}

fn problem(field: &str, message: String) -> Problem {
    (format!("config.sandbox.{field}"), message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(level: SandboxLevel) -> SandboxConfig {
        SandboxConfig { level: Some(level), ..SandboxConfig::default() }
    }

    fn decided(
        settings: &SandboxSettings,
        tenant: SandboxLevel,
        job: &SandboxConfig,
        host: &Host,
    ) -> Result<Terms, String> {
        decide(settings, tenant, Some(job), host).map_err(|(field, message)| format!("{field} {message}"))
    }

    #[test]
    fn the_strictest_level_holds() {
        use SandboxLevel::{Container, None, Process};
        let all = [None, Process, Container];
        for of_job in all {
            for of_tenant in all {
                for of_agent in all {
                    let settings = SandboxSettings { level: of_agent, ..SandboxSettings::default() };
                    let terms = decided(&settings, of_tenant, &job(of_job), &Host::able()).expect("terms");
                    assert_eq!(terms.level, of_job.max(of_tenant).max(of_agent));
                }
            }
        }
    }

    #[test]
    fn what_the_host_lacks_is_said() {
        let host = Host { container: Err("bubblewrap is not installed".into()), ..Host::able() };
        let settings = SandboxSettings::default();
        let message = decided(&settings, SandboxLevel::Container, &job(SandboxLevel::Process), &host);
        let expected = "config.sandbox.level container, which its tenant demands, cannot be had on this agent: \
                        bubblewrap is not installed";
        assert_eq!(message, Err(expected.to_owned()));
        for (field, config) in [
            ("memoryMb", SandboxConfig { memory_mb: Some(64), ..SandboxConfig::default() }),
            ("cpus", SandboxConfig { cpus: Some(0.5), ..SandboxConfig::default() }),
            ("pids", SandboxConfig { pids: Some(5), ..SandboxConfig::default() }),
        ] {
            let lacking = || Err("no cgroup".to_owned());
            let host = Host { memory: lacking(), cpus: lacking(), pids: lacking(), ..Host::able() };
            let message = decided(&settings, SandboxLevel::None, &config, &host).expect_err(field);
            assert_eq!(message, format!("config.sandbox.{field} cannot be enforced on this agent: no cgroup"));
        }
    }

    #[test]
    fn a_limit_of_the_agent_is_the_most_and_the_usual() {
        let settings = SandboxSettings { memory_mb: Some(100), ..SandboxSettings::default() };
        let of = |asked| {
            let config = SandboxConfig { memory_mb: asked, ..SandboxConfig::default() };
            decided(&settings, SandboxLevel::None, &config, &Host::able()).map(|terms| terms.limits.memory_mb)
        };
        assert_eq!(of(None), Ok(Some(100)));
        assert_eq!(of(Some(50)), Ok(Some(50)));
        assert_eq!(of(Some(101)), Err("config.sandbox.memoryMb is 101, and this agent allows 100 at most".into()));
    }

    #[test]
    fn a_network_is_refused_and_not_forgotten() {
        let closed = SandboxSettings { network: false, ..SandboxSettings::default() };
        let open = SandboxSettings::default();
        let of = |settings: &SandboxSettings, level, network| {
            let config = SandboxConfig { network, ..job(level) };
            decided(settings, SandboxLevel::None, &config, &Host::able()).map(|terms| terms.network)
        };
        assert_eq!(of(&open, SandboxLevel::Process, None), Ok(true));
        assert_eq!(of(&open, SandboxLevel::Process, Some(false)), Ok(false));
        assert_eq!(of(&closed, SandboxLevel::Container, None), Ok(false));
        assert!(of(&closed, SandboxLevel::Container, Some(true)).is_err());
        assert!(of(&open, SandboxLevel::None, Some(false)).is_err());
    }

    #[test]
    fn contained_processes_are_counted_where_nobody_says() {
        let settings = SandboxSettings::default();
        let pids = |level| decided(&settings, SandboxLevel::None, &job(level), &Host::able()).map(|t| t.limits.pids);
        assert_eq!(pids(SandboxLevel::None), Ok(None));
        assert_eq!(pids(SandboxLevel::Process), Ok(Some(USUAL_PIDS)));
        let host = Host { pids: Err("no cgroup".into()), ..Host::able() };
        let terms = decided(&settings, SandboxLevel::None, &job(SandboxLevel::Process), &host).expect("terms");
        assert_eq!(terms.limits.pids, None, "nobody asked");
    }

    #[test]
    fn most_jobs_ask_for_nothing() {
        let settings = SandboxSettings::default();
        assert!(is_plain(&settings, SandboxLevel::None, None));
        assert!(is_plain(&settings, SandboxLevel::None, Some(&job(SandboxLevel::None))));
        assert!(!is_plain(&settings, SandboxLevel::Process, None));
        assert!(!is_plain(&settings, SandboxLevel::None, Some(&job(SandboxLevel::Process))));
        let bounded = SandboxConfig { pids: Some(5), ..SandboxConfig::default() };
        assert!(!is_plain(&settings, SandboxLevel::None, Some(&bounded)));
        assert!(!is_plain(&SandboxSettings { cpus: Some(1.0), ..settings }, SandboxLevel::None, None));
    }
}
