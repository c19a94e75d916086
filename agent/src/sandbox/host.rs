//! What this host can enforce. Everything is tried out once, with what jobs will get: a kernel's version tells little about what its
//! configuration, a container around the agent or a security module forbids.

use orrery_sdk::config::SandboxLevel;

use super::cgroup::{Controller, Hierarchies};
use super::policy::Limits;

/// What can be enforced, and, where it cannot, what the host lacks.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    pub(crate) process: Result<(), String>,
    pub(crate) container: Result<(), String>,
    pub(crate) memory: Result<(), String>,
    pub(crate) cpus: Result<(), String>,
    pub(crate) pids: Result<(), String>,
}

impl Host {
    /// Tries out the limits; the levels are as they were found.
    pub(super) fn with_levels(
        hierarchies: &Result<Hierarchies, String>,
        process: Result<(), String>,
        container: Result<(), String>,
    ) -> Self {
        let limits = Limits::default();
        Self {
            process,
            container,
            memory: enforced(hierarchies, Limits { memory_mb: Some(64), ..limits }),
            cpus: enforced(hierarchies, Limits { cpus: Some(1.0), ..limits }),
            pids: enforced(hierarchies, Limits { pids: Some(64), ..limits }),
        }
    }

    /// Where nothing but plain processes can be run.
    pub(super) fn unable(lacks: &str) -> Self {
        let lacking = || Err(lacks.to_owned());
        Self { process: lacking(), container: lacking(), memory: lacking(), cpus: lacking(), pids: lacking() }
    }

    /// Whether a level can be had, or what is lacking for it.
    pub(super) fn level(&self, level: SandboxLevel) -> Result<(), &str> {
        match level {
            SandboxLevel::None => Ok(()),
            SandboxLevel::Process => self.process.as_ref().copied().map_err(String::as_str),
            SandboxLevel::Container => self.container.as_ref().copied().map_err(String::as_str),
        }
    }

    /// All of it, by the names that labels have.
    pub(crate) fn abilities(&self) -> [(&'static str, Result<(), &str>); 6] {
        fn told(ability: &Result<(), String>) -> Result<(), &str> {
            ability.as_ref().copied().map_err(String::as_str)
        }
        [
            ("sandbox.process", told(&self.process)),
            ("sandbox.container", told(&self.container)),
            ("sandbox.memory", told(&self.memory)),
            ("sandbox.cpus", told(&self.cpus)),
            ("sandbox.pids", told(&self.pids)),
            // A file system in memory, which containers have.
            ("sandbox.tmp", told(&self.container)),
        ]
    }
}

/// Whether a group with these limits can be made.
fn enforced(hierarchies: &Result<Hierarchies, String>, limits: Limits) -> Result<(), String> {
    let hierarchies = hierarchies.as_ref().map_err(Clone::clone)?;
    let name = format!("orrery-try-{}", uuid::Uuid::new_v4());
    let lacking = |controller: Controller| {
        let hint = "give the agent a control group of its own, such as by Delegate=yes in its unit";
        format!("there is no {} controller that the agent may use (cgroup v2 or v1); {hint}", controller.name())
    };
    let group = hierarchies.group(&name, &limits).map_err(lacking)?;
    group.make().map(drop).map_err(|error| format!("the agent may make no control groups: {error}"))
}

#[cfg(test)]
impl Host {
    /// A host that can do everything.
    pub(super) fn able() -> Self {
        Self { process: Ok(()), container: Ok(()), memory: Ok(()), cpus: Ok(()), pids: Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lacking_is_named() {
        let host = Host::with_levels(&Ok(Hierarchies::default()), Ok(()), Err("no bubblewrap".into()));
        assert!(host.memory.as_ref().is_err_and(|lacks| lacks.contains("no memory controller")));
        assert!(host.cpus.as_ref().is_err_and(|lacks| lacks.contains("no cpu controller")));
        assert_eq!(host.level(SandboxLevel::Container), Err("no bubblewrap"));
        let can: Vec<_> = host.abilities().into_iter().filter(|(_, can)| can.is_ok()).map(|(name, _)| name).collect();
        assert_eq!(can, ["sandbox.process"]);
    }
}
