//! How the processes of jobs are contained.
//!
//! A job, its tenant and the agent each name a least [level](SandboxLevel), and limits; [`policy`] decides what holds. A contained process is
//! started by its [supervisor](crate::executor::supervise) through [`inside`], which takes its own rights away and then becomes the program. What
//! is asked for and cannot be enforced here is refused with what the [host](Host) lacks, and never passed over.

mod args;
mod beneath;
#[cfg(target_os = "linux")]
mod bubblewrap;
mod cgroup;
mod files;
mod host;
#[cfg(target_os = "linux")]
mod inside;
#[cfg(not(target_os = "linux"))]
#[path = "elsewhere.rs"]
mod inside;
mod plan;
mod policy;
mod scratch;
#[cfg(target_os = "linux")]
mod syscalls;
mod users;

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;

use orrery_proto::v1::ErrorType;
use orrery_sdk::config::{Problem, SandboxConfig, SandboxLevel};
use orrery_sdk::executor::{Outcome, Task};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

pub use self::args::SandboxArgs;
pub(crate) use self::beneath::Beneath;
use self::cgroup::Hierarchies;
pub(crate) use self::cgroup::{Group, GroupPlan, Hits};
use self::files::Files;
pub(crate) use self::host::Host;
pub(crate) use self::inside::inside;
pub(crate) use self::plan::{Entry, NotEntered, Plan};
pub(crate) use self::policy::{Limits, Terms};
pub(crate) use self::scratch::Scratch;
use self::users::{User, Users};

/// Where a container has its home and its files.
const CONTAINER_HOME: &str = "/tmp";
/// Where a container finds what a function is called with.
const CONTAINER_CALL: &str = "/run/orrery";
/// The processes of bubblewrap beside those of the job: one outside of the container, and the first one inside.
const OF_BUBBLEWRAP: u64 = 2;

/// What an agent demands of, and allows to, the processes that it starts.
#[derive(Clone, Debug)]
pub struct SandboxSettings {
    /// The least level of all processes.
    pub level: SandboxLevel,
    /// Whether contained processes may have a network.
    pub network: bool,
    /// The most memory of an execution in MiB; what jobs that name none get.
    pub memory_mb: Option<u64>,
    /// The same for processors.
    pub cpus: Option<f64>,
    /// The same for processes and threads.
    pub pids: Option<u64>,
    /// The same for the private directory of a container, in MiB.
    pub tmp_mb: Option<u64>,
    /// Users that contained processes become, one each, where the agent is root.
    pub users: RangeInclusive<u32>,
    /// bubblewrap: a path, or a name that is looked up in PATH.
    pub bubblewrap: PathBuf,
    /// Files and directories that contained processes may read, beside those of the system.
    pub readable: Vec<PathBuf>,
    /// Those that they may change.
    pub writable: Vec<PathBuf>,
    /// The agent's own, which they never see.
    pub hidden: Vec<PathBuf>,
}

impl Default for SandboxSettings {
    fn default() -> Self {
        Self {
            level: SandboxLevel::None,
            network: true,
            memory_mb: None,
            cpus: None,
            pids: None,
            tmp_mb: None,
            users: users::UNUSED,
            bubblewrap: "bwrap".into(),
            readable: Vec::new(),
            writable: Vec::new(),
            hidden: Vec::new(),
        }
    }
}

/// Makes the sandboxes of an agent's executions.
#[derive(Debug)]
pub(crate) struct Sandboxes {
    settings: SandboxSettings,
    /// What processes become, where the agent may choose.
    users: Option<Users>,
    hierarchies: Result<Hierarchies, String>,
    /// Found out once it is needed.
    host: OnceCell<Host>,
}

/// How the supervisor is to contain a process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Confinement {
    pub(crate) plan: Plan,
    pub(crate) group: GroupPlan,
}

/// What one execution gets. To be [left](Sandbox::leave) when nothing of it runs any more.
#[derive(Debug)]
pub(crate) struct Sandbox {
    pub(crate) terms: Terms,
    /// None where the process is as any other.
    pub(crate) confinement: Option<Confinement>,
    /// Where there is need for one.
    scratch: Option<Scratch>,
    user: Option<User>,
}

/// What an execution needs of its sandbox.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Need<'a> {
    /// A private directory, at whatever level.
    pub(crate) scratch: bool,
    /// What it must be able to read.
    pub(crate) readable: Option<&'a Path>,
}

impl Sandboxes {
    pub(crate) fn new(settings: &SandboxSettings) -> Self {
        let is_root = rustix::process::geteuid().is_root();
        Self {
            users: is_root.then(|| Users::new(settings.users.clone())),
            hierarchies: Hierarchies::of_self().map_err(|error| format!("control groups: {error}")),
            settings: settings.clone(),
            host: OnceCell::new(),
        }
    }

    /// What this host can do, found out by `tried`, which runs a process at a level.
    pub(crate) async fn host<T: Future<Output = Result<(), String>>>(
        &self,
        tried: impl Fn(SandboxLevel) -> T,
    ) -> &Host {
        self.host
            .get_or_init(|| async {
                if let Ok(hierarchies) = &self.hierarchies
                    && let Err(error) = hierarchies.delegate()
                {
                    tracing::debug!(%error, "no controllers of control groups, version 2");
                }
                let (process, container) = tokio::join!(tried(SandboxLevel::Process), tried(SandboxLevel::Container));
                Host::with_levels(&self.hierarchies, process, container)
            })
            .await
    }

    /// To be called where no process can be contained, whatever the host.
    pub(crate) fn cannot(&self, lacks: &str) {
        let _ = self.host.set(Host::unable(lacks));
    }

    /// What the agent demands of all its processes, if that can be had.
    ///
    /// # Errors
    /// What cannot, and what is lacking.
    pub(crate) fn check(&self, host: &Host) -> Result<(), Problem> {
        policy::decide(&self.settings, SandboxLevel::None, None, host).map(drop)
    }

    /// Whether an execution can be started without knowing the host.
    pub(crate) fn is_plain(&self, task: &Task, job: Option<&SandboxConfig>) -> bool {
        tenant_level(task).is_ok_and(|tenant| policy::is_plain(&self.settings, tenant, job))
    }

    /// A sandbox for an execution.
    ///
    /// # Errors
    /// The failure of the execution, where it cannot be contained as it must be.
    pub(crate) fn enter(
        &self,
        task: &Task,
        job: Option<&SandboxConfig>,
        host: Option<&Host>,
        need: Need<'_>,
    ) -> Result<Sandbox, Outcome> {
        let terms = match host {
            Some(host) => {
                tenant_level(task).and_then(|tenant| policy::decide(&self.settings, tenant, job, host)).map_err(
                    |(field, message)| Outcome::failure(ErrorType::ValidationError, format!("{field} {message}")),
                )?
            }
            None => Terms { network: true, ..Terms::default() },
        };
        self.made(terms, need).map_err(|message| {
            Outcome::failure(ErrorType::SystemError, format!("the sandbox could not be made: {message}"))
        })
    }

    /// A sandbox of a level, whatever the policy.
    ///
    /// # Errors
    /// What is lacking.
    pub(crate) fn trial(&self, level: SandboxLevel) -> Result<Sandbox, String> {
        self.made(Terms { level, network: false, limits: Limits::default() }, Need::default())
    }

    fn made(&self, terms: Terms, need: Need<'_>) -> Result<Sandbox, String> {
        let contained = terms.level > SandboxLevel::None;
        let user = match &self.users {
            Some(users) if contained => Some(users.take()?),
            _ => None,
        };
        let scratch = match contained || need.scratch {
            true => Some(Scratch::new(user.as_ref().map(|user| user.id)).map_err(|error| error.to_string())?),
            false => None,
        };
        let confinement = match terms.is_plain() {
            true => None,
            false => Some(self.confinement(&terms, need, user.as_ref(), scratch.as_ref())?),
        };
        Ok(Sandbox { terms, confinement, scratch, user })
    }

    fn confinement(
        &self,
        terms: &Terms,
        need: Need<'_>,
        user: Option<&User>,
        scratch: Option<&Scratch>,
    ) -> Result<Confinement, String> {
        let settings = &self.settings;
        let mut plan = Plan { level: terms.level, network: terms.network, ..Plan::default() };
        if let Some(scratch) = scratch.filter(|_| terms.level > SandboxLevel::None) {
            let readable: Vec<PathBuf> =
                settings.readable.iter().cloned().chain(need.readable.map(Path::to_owned)).collect();
            plan.files = Files::new(&readable, &settings.writable, &settings.hidden);
            plan.scratch = scratch.path().to_owned();
        }
        if terms.level == SandboxLevel::Container {
            plan.bubblewrap = in_path(&settings.bubblewrap)
                .ok_or_else(|| format!("bubblewrap ({}) is not installed", settings.bubblewrap.display()))?;
            plan.tmp_bytes = terms.limits.tmp_mb.map(|mb| mb << 20);
        }
        plan.user = user.map(|user| user.id);
        let extra = if terms.level == SandboxLevel::Container { OF_BUBBLEWRAP } else { 0 };
        let limits = Limits { pids: terms.limits.pids.map(|pids| pids + extra), ..terms.limits };
        // Also where there is no control group for it: nobody else is this user.
        plan.processes = plan.user.map(|_| limits.pids.unwrap_or(policy::USUAL_PIDS));
        let name = format!("orrery-{}", uuid::Uuid::new_v4());
        let hierarchies = self.hierarchies.as_ref().map_err(Clone::clone)?;
        let group = hierarchies
            .group(&name, &limits)
            .map_err(|controller| format!("there is no {} controller any more", controller.name()))?;
        Ok(Confinement { plan, group })
    }
}

impl Confinement {
    /// Makes the control group that the plan's process is to go into, if there is to be one.
    ///
    /// # Errors
    /// Where a limit hangs on it and it cannot be made.
    pub(crate) fn begin(self) -> std::io::Result<(Plan, Option<Group>)> {
        let Self { mut plan, group } = self;
        let dirs = group.dirs();
        let group = group.make_if_possible()?;
        plan.groups = group.as_ref().map(|_| dirs).unwrap_or_default();
        Ok((plan, group))
    }
}

impl Sandbox {
    /// The private directory, where there is one.
    pub(crate) fn scratch(&self) -> Option<&Scratch> {
        self.scratch.as_ref()
    }

    /// The user that its files must belong to.
    pub(crate) fn user(&self) -> Option<u32> {
        self.user.as_ref().map(|user| user.id)
    }

    /// The home of a contained process.
    pub(crate) fn home(&self) -> Option<PathBuf> {
        match self.terms.level {
            SandboxLevel::None => None,
            SandboxLevel::Process => self.scratch.as_ref().map(Scratch::tmp),
            SandboxLevel::Container => Some(CONTAINER_HOME.into()),
        }
    }

    /// Where the process finds a file that lies in the private directory's part for calls.
    pub(crate) fn seen(&self, file: &Path) -> PathBuf {
        match (self.terms.level, file.file_name()) {
            (SandboxLevel::Container, Some(name)) => Path::new(CONTAINER_CALL).join(name),
            _ => file.to_owned(),
        }
    }

    /// Whether the process can be in a directory.
    pub(crate) fn shows(&self, directory: &Path) -> bool {
        match &self.confinement {
            Some(confinement) if self.terms.level > SandboxLevel::None => confinement.plan.files.shows(directory),
            _ => true,
        }
    }

    /// What to say of it in the result, where there is anything to say.
    pub(crate) fn metadata(&self) -> Option<Value> {
        (!self.terms.is_plain()).then(|| json!({"sandbox": self.terms}))
    }

    /// What to say of a failure that a limit may have brought about.
    pub(crate) fn blame(&self, hits: Hits) -> Option<String> {
        let limits = &self.terms.limits;
        let memory = limits
            .memory_mb
            .filter(|_| hits.oom_kills > 0)
            .map(|mb| format!("killed at its limit of {mb} MiB of memory (config.sandbox.memoryMb)"));
        let pids = limits
            .pids
            .filter(|_| hits.forks_refused > 0)
            .map(|most| format!("it was refused more than {most} processes and threads at once (config.sandbox.pids)"));
        memory.or(pids)
    }

    /// Takes away what it leaves behind. Before its user belongs to another.
    pub(crate) async fn leave(self) {
        let Self { scratch, user, .. } = self;
        if let Some(scratch) = scratch {
            scratch.remove().await;
        }
        drop(user);
    }
}

/// What a tenant demands. A level that is not known here is one that this agent cannot give.
fn tenant_level(task: &Task) -> Result<SandboxLevel, Problem> {
    match task.sandbox_level.as_str() {
        "" => Ok(SandboxLevel::None),
        text => SandboxLevel::from_str(text).map_err(|message| {
            (
                "config.sandbox.level".into(),
                format!("cannot be had on this agent, since its tenant demands another: {message}"),
            )
        }),
    }
}

/// The program of a name in PATH, or of a path.
fn in_path(program: &Path) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return program.is_file().then(|| program.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|candidate| candidate.is_file())
}
