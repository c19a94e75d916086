//! Control groups: what bounds memory, processors and processes of everything that one execution starts, and finds all of it at the end.
//!
//! Version 2, version 1, or both beside each other as a host has them; see the kernel's `admin-guide/cgroup-v2` and `cgroup-v1`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

use super::policy::Limits;

/// The period in which processor time is counted, in microseconds; the kernel's own default.
const PERIOD_US: u64 = 100_000;
/// How long the members of a group may take to be gone once they are killed.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often to look whether they are.
const PAUSE: Duration = Duration::from_millis(5);

/// The controllers that bound something here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Controller {
    Memory,
    Cpu,
    Pids,
}

impl Controller {
    pub(super) const ALL: [Self; 3] = [Self::Memory, Self::Cpu, Self::Pids];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
        }
    }
}

/// Where a controller's groups are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Version {
    V1,
    V2,
}

/// The agent's own group in each hierarchy of this host, below which it makes those of executions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hierarchies {
    pub(super) v1: BTreeMap<Controller, PathBuf>,
    pub(super) v2: Option<PathBuf>,
}

impl Hierarchies {
    /// Those of this process.
    ///
    /// # Errors
    /// Where `/proc` does not tell.
    pub(super) fn of_self() -> io::Result<Self> {
        Ok(Self::read(&fs::read_to_string("/proc/self/mountinfo")?, &fs::read_to_string("/proc/self/cgroup")?))
    }

    /// From the texts of `/proc/self/mountinfo` and `/proc/self/cgroup`; see proc(5) and cgroups(7).
    fn read(mountinfo: &str, own: &str) -> Self {
        let mut found = Self::default();
        for line in mountinfo.lines() {
            let Some((place, kind)) = line.split_once(" - ") else { continue };
            let (mut place, mut kind) = (place.split(' ').skip(3), kind.split(' '));
            let (Some(root), Some(point)) = (place.next(), place.next()) else { continue };
            let (Some(fstype), Some(options)) = (kind.next(), kind.nth(1)) else { continue };
            match fstype {
                "cgroup2" => {
                    if let Some(path) = own.lines().find_map(|line| line.strip_prefix("0::")) {
                        found.v2 = below(point, root, path);
                    }
                }
                "cgroup" => {
                    for controller in Controller::ALL {
                        let named = |list: &str| list.split(',').any(|name| name == controller.name());
                        let path = own.lines().find_map(|line| {
                            let mut parts = line.splitn(3, ':').skip(1);
                            (named(parts.next()?)).then(|| parts.next())?
                        });
                        if named(options)
                            && let Some(dir) = path.and_then(|path| below(point, root, path))
                        {
                            found.v1.insert(controller, dir);
                        }
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// The group of one execution in all hierarchies that it needs.
    ///
    /// # Errors
    /// The controller that this host lacks.
    pub(super) fn group(&self, name: &str, limits: &Limits) -> Result<GroupPlan, Controller> {
        let mut parts: BTreeMap<PathBuf, Part> = BTreeMap::new();
        for (controller, values) in [
            (Controller::Memory, limits.memory_mb.map(memory)),
            (Controller::Cpu, limits.cpus.map(cpu)),
            (Controller::Pids, limits.pids.map(pids)),
        ] {
            let Some(values) = values else { continue };
            let (version, dir) = self.place(controller).ok_or(controller)?;
            let part = parts.entry(dir.join(name)).or_insert_with_key(|dir| Part::new(version, dir));
            part.controllers.push(controller);
            part.settings.extend(values.into_iter().filter(|setting| setting.version == version));
        }
        // Without controllers as well: `cgroup.kill` takes all members at once.
        if let Some(dir) = &self.v2 {
            parts.entry(dir.join(name)).or_insert_with_key(|dir| Part::new(Version::V2, dir));
        }
        let is_needed = *limits != Limits { tmp_mb: limits.tmp_mb, ..Limits::default() };
        Ok(GroupPlan { parts: parts.into_values().collect(), is_needed })
    }

    fn place(&self, controller: Controller) -> Option<(Version, &Path)> {
        if let Some(dir) = self.v1.get(&controller) {
            return Some((Version::V1, dir));
        }
        let dir = self.v2.as_deref()?;
        let enabled = fs::read_to_string(dir.join("cgroup.subtree_control")).ok()?;
        enabled.split_whitespace().any(|name| name == controller.name()).then_some((Version::V2, dir))
    }

    /// Lets the groups of executions have controllers of version 2. Such a group may have no processes beside its groups, so the agent moves into a
    /// group of its own, where it is alone.
    ///
    /// # Errors
    /// Where other processes are in the agent's group, or it may not change it.
    pub(super) fn delegate(&self) -> io::Result<()> {
        let Some(dir) = &self.v2 else { return Ok(()) };
        let there = fs::read_to_string(dir.join("cgroup.controllers"))?;
        let enabled = fs::read_to_string(dir.join("cgroup.subtree_control"))?;
        let has = |list: &str, controller: Controller| list.split_whitespace().any(|name| name == controller.name());
        let missing: Vec<String> = Controller::ALL
            .into_iter()
            .filter(|controller| has(&there, *controller) && !has(&enabled, *controller))
            .map(|controller| format!("+{}", controller.name()))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let enable = || fs::write(dir.join("cgroup.subtree_control"), missing.join(" "));
        match enable() {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) => {}
            done => return done,
        }
        let members = fs::read_to_string(dir.join("cgroup.procs"))?;
        let own = std::process::id().to_string();
        if members.split_whitespace().any(|pid| pid != own) {
            let message = "other processes are in the agent's control group; give it one of its own, such as by Delegate=yes in its unit";
            return Err(io::Error::other(message));
        }
        fs::create_dir_all(dir.join("agent"))?;
        fs::write(dir.join("agent/cgroup.procs"), "0")?;
        enable()
    }
}

/// The directory of a group: its path within the hierarchy, seen from the mount of which `root` is the top.
fn below(point: &str, root: &str, path: &str) -> Option<PathBuf> {
    let relative = Path::new(path).strip_prefix(root).ok()?;
    Some(Path::new(&unescaped(point)).join(relative))
}

/// Spaces and the like are octal in mountinfo.
fn unescaped(text: &str) -> String {
    ["\\040 ", "\\011\t", "\\012\n", "\\134\\"]
        .iter()
        .fold(text.to_owned(), |text, pair| text.replace(&pair[..4], &pair[4..]))
}

/// What to write into a file of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Setting {
    version: Version,
    file: String,
    value: String,
    /// Not every kernel has it.
    optional: bool,
}

fn setting(version: Version, file: &str, value: impl ToString) -> Setting {
    Setting { version, file: file.into(), value: value.to_string(), optional: false }
}

fn memory(mb: u64) -> Vec<Setting> {
    let bytes = mb << 20;
    let optional = |setting: Setting| Setting { optional: true, ..setting };
    vec![
        setting(Version::V1, "memory.limit_in_bytes", bytes),
        // Memory and swap together: without it a process would go on, on disk.
        optional(setting(Version::V1, "memory.memsw.limit_in_bytes", bytes)),
        setting(Version::V2, "memory.max", bytes),
        optional(setting(Version::V2, "memory.swap.max", 0)),
        // The whole group or nothing: half a job is no job.
        optional(setting(Version::V2, "memory.oom.group", 1)),
    ]
}

fn cpu(cpus: f64) -> Vec<Setting> {
    // Bounded by the config's check: 1,000 at least, 10^8 at most.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let quota = (cpus * PERIOD_US as f64).round() as u64;
    vec![
        setting(Version::V1, "cpu.cfs_period_us", PERIOD_US),
        setting(Version::V1, "cpu.cfs_quota_us", quota),
        setting(Version::V2, "cpu.max", format!("{quota} {PERIOD_US}")),
    ]
}

fn pids(most: u64) -> Vec<Setting> {
    vec![setting(Version::V1, "pids.max", most), setting(Version::V2, "pids.max", most)]
}

/// The groups of one execution, before they are made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GroupPlan {
    parts: Vec<Part>,
    /// Whether a limit hangs on it. Where not, it only makes the end quicker.
    is_needed: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Part {
    version: Version,
    dir: PathBuf,
    controllers: Vec<Controller>,
    settings: Vec<Setting>,
}

impl Part {
    fn new(version: Version, dir: &Path) -> Self {
        Self { version, dir: dir.into(), controllers: Vec::new(), settings: Vec::new() }
    }
}

/// What a limit has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hits {
    /// Processes that were killed since the group had used up its memory.
    pub(crate) oom_kills: u64,
    /// How often a process could not be started since there were too many.
    pub(crate) forks_refused: u64,
}

impl GroupPlan {
    /// The directories of the groups, for a process to go into.
    pub(super) fn dirs(&self) -> Vec<PathBuf> {
        self.parts.iter().map(|part| part.dir.clone()).collect()
    }

    /// Makes the groups; none where they cannot be made and nothing hangs on them.
    ///
    /// # Errors
    /// Where one that is needed cannot be made or bounded; none of them is there then.
    pub(crate) fn make_if_possible(self) -> io::Result<Option<Group>> {
        let is_needed = self.is_needed;
        match self.make() {
            Ok(group) => Ok(Some(group)),
            Err(error) if is_needed => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// The groups that somebody made who is gone: to be dropped, so that nothing of them is left.
    pub(crate) fn left_behind(self) -> Group {
        Group(self)
    }

    /// Makes the groups.
    ///
    /// # Errors
    /// Where one cannot be made or bounded; none of them is there then.
    pub(super) fn make(self) -> io::Result<Group> {
        let group = Group(self);
        for part in &group.0.parts {
            fs::create_dir(&part.dir).map_err(|e| in_file(&part.dir, &e))?;
            for setting in &part.settings {
                let file = part.dir.join(&setting.file);
                match fs::write(&file, &setting.value) {
                    Err(error) if !setting.optional => return Err(in_file(&file, &error)),
                    _ => {}
                }
            }
        }
        Ok(group)
    }
}

fn in_file(file: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", file.display()))
}

/// The groups of one execution. Dropping it kills the members and takes the groups away.
#[derive(Debug)]
pub(crate) struct Group(GroupPlan);

impl Group {
    /// What the limits have done so far.
    pub(crate) fn hits(&self) -> Hits {
        let mut hits = Hits::default();
        for part in &self.0.parts {
            for controller in &part.controllers {
                match (controller, part.version) {
                    (Controller::Memory, Version::V1) => {
                        hits.oom_kills += counted(&part.dir, "memory.oom_control", "oom_kill")
                    }
                    (Controller::Memory, Version::V2) => {
                        hits.oom_kills += counted(&part.dir, "memory.events", "oom_kill")
                    }
                    (Controller::Pids, _) => hits.forks_refused += counted(&part.dir, "pids.events", "max"),
                    (Controller::Cpu, _) => {}
                }
            }
        }
        hits
    }

    /// Kills all members, whatever their number; true once there are none.
    pub(crate) fn kill(&self) -> bool {
        let mut empty = true;
        for part in &self.0.parts {
            if part.version == Version::V2 && fs::write(part.dir.join("cgroup.kill"), "1").is_ok() {
                empty &= members(&part.dir).is_empty();
                continue;
            }
            if part.controllers.contains(&Controller::Pids) {
                // Nobody is born while they die one by one.
                let _ = fs::write(part.dir.join("pids.max"), "0");
            }
            for pid in members(&part.dir) {
                empty = false;
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
        empty
    }

    /// Takes the groups away; true once none is left.
    pub(crate) fn remove(&self) -> bool {
        self.0.parts.iter().fold(true, |all, part| {
            let gone = match fs::remove_dir(&part.dir) {
                Ok(()) => true,
                Err(error) => error.kind() == io::ErrorKind::NotFound,
            };
            all & gone
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let start = Instant::now();
        // A process counts until it is reaped or has left its group, which takes a moment after its death.
        while !(self.kill() & self.remove()) && start.elapsed() < PATIENCE {
            std::thread::park_timeout(PAUSE);
        }
    }
}

fn members(dir: &Path) -> Vec<Pid> {
    let list = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    list.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

/// A number in a file of lines `name number`.
fn counted(dir: &Path, file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
    let number = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok());
    number.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "30 20 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup rw
32 30 0:28 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
33 30 0:29 /outer /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
34 30 0:30 / /sys/fs/cgroup/my\\040pids rw,relatime - cgroup cgroup rw,pids";

    #[test]
    fn the_agents_own_groups_are_found() {
        let own = "9:pids:/a\n8:cpu,cpuacct:/outer/inner\n4:memory:/m/n\n0::/u";
        let found = Hierarchies::read(HYBRID, own);
        let expected = Hierarchies {
            v1: BTreeMap::from([
                (Controller::Memory, "/sys/fs/cgroup/memory/m/n".into()),
                (Controller::Cpu, "/sys/fs/cgroup/cpu,cpuacct/inner".into()),
                (Controller::Pids, "/sys/fs/cgroup/my pids/a".into()),
            ]),
            v2: Some("/sys/fs/cgroup/unified/u".into()),
        };
        assert_eq!(found, expected);
        // A group that lies outside of what is mounted here.
        assert_eq!(Hierarchies::read(HYBRID, "8:cpu,cpuacct:/elsewhere").v1.get(&Controller::Cpu), None);
    }

    fn limits() -> Limits {
        Limits { memory_mb: Some(64), cpus: Some(0.5), pids: Some(20), tmp_mb: None }
    }

    #[test]
    fn a_limit_without_its_controller_is_named() {
        let none = Hierarchies::default();
        assert_eq!(none.group("x", &limits()), Err(Controller::Memory));
        assert_eq!(none.group("x", &Limits { pids: Some(1), ..Limits::default() }), Err(Controller::Pids));
        assert_eq!(none.group("x", &Limits::default()).map(|plan| plan.parts), Ok(Vec::new()));
    }

    /// A hierarchy of version 2 as a directory: what is written is what the kernel would be told.
    #[test]
    fn a_group_of_version_2_is_written() {
        let root = tempfile::tempdir().expect("a directory");
        fs::write(root.path().join("cgroup.subtree_control"), "cpu io memory pids\n").expect("written");
        let hierarchies = Hierarchies { v1: BTreeMap::new(), v2: Some(root.path().into()) };
        let plan = hierarchies.group("run", &limits()).expect("a plan");
        assert_eq!(plan.dirs(), [root.path().join("run")]);
        let group = plan.make().expect("a group");
        let read = |file: &str| fs::read_to_string(root.path().join("run").join(file)).expect(file);
        assert_eq!(read("memory.max"), (64 << 20).to_string());
        assert_eq!((read("memory.swap.max"), read("memory.oom.group")), ("0".into(), "1".into()));
        assert_eq!((read("cpu.max"), read("pids.max")), ("50000 100000".into(), "20".into()));
        assert!(!root.path().join("run/cpu.cfs_quota_us").exists());
        fs::write(root.path().join("run/memory.events"), "low 0\nmax 7\noom 1\noom_kill 3\noom_group_kill 0\n")
            .expect("written");
        fs::write(root.path().join("run/pids.events"), "max 5\n").expect("written");
        assert_eq!(group.hits(), Hits { oom_kills: 3, forks_refused: 5 });
        assert!(group.kill());
        assert_eq!(read("cgroup.kill"), "1");
        fs::remove_dir_all(root.path().join("run")).expect("removed");
    }

    #[test]
    fn controllers_that_may_not_be_used_are_as_good_as_none() {
        let root = tempfile::tempdir().expect("a directory");
        fs::write(root.path().join("cgroup.subtree_control"), "pids\n").expect("written");
        let hierarchies = Hierarchies { v1: BTreeMap::new(), v2: Some(root.path().into()) };
        assert_eq!(hierarchies.group("run", &limits()), Err(Controller::Memory));
        assert!(hierarchies.group("run", &Limits { pids: Some(2), ..Limits::default() }).is_ok());
    }
}
