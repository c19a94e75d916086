//! The last step before a contained program: a process of the agent's own binary that takes away its own rights and then becomes the
//! program. It is single-threaded, and what it gives up it cannot take back, so there is no moment in which the program runs with more.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use landlock::{
    ABI, Access as _, AccessFs, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _,
    RulesetError, RulesetStatus, Scope, path_beneath_rules,
};
use orrery_sdk::config::SandboxLevel;
use rustix::fs::MemfdFlags;
use rustix::io::FdFlags;
use rustix::process::{Gid, Resource, Rlimit, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::files::{Files, is_link};
use super::plan::{Entry, NotEntered, Plan};
use super::{CONTAINER_HOME, bubblewrap, syscalls};

impl NotEntered {
    fn of(error: &io::Error) -> Self {
        Self::NotStarted { errno: error.raw_os_error(), message: error.to_string() }
    }
}

/// What `supervise --inside` does: reads an [`Entry`] from the socket that is its stdin, and becomes its program.
pub(crate) fn inside() -> ExitCode {
    let Ok((entry, answer)) = order() else {
        eprintln!("supervise --inside: only a supervisor starts it, with a socket as stdin");
        return ExitCode::from(2);
    };
    let Err(why) = entry.enter(&answer);
    // Who reads it is gone where it cannot be written.
    let _ = serde_json::to_vec(&why).map(|mut line| {
        line.push(b'\n');
        (&answer).write_all(&line)
    });
    ExitCode::FAILURE
}

/// The entry, and where to say that it failed: closed by itself once the program has begun.
fn order() -> io::Result<(Entry, UnixStream)> {
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let mut text = Vec::new();
    // The supervisor closes its direction behind the entry.
    (&socket).read_to_end(&mut text)?;
    Ok((serde_json::from_slice(&text)?, socket))
}

/// Text with what went wrong.
fn cannot(what: &str) -> impl FnOnce(Box<dyn std::error::Error>) -> NotEntered {
    move |error| NotEntered::Uncontained(format!("{what}: {error}"))
}

/// As [`cannot`], for any error.
trait Step<T> {
    fn or_cannot(self, what: &str) -> Result<T, NotEntered>;
}

impl<T, E: Into<Box<dyn std::error::Error>>> Step<T> for Result<T, E> {
    fn or_cannot(self, what: &str) -> Result<T, NotEntered> {
        self.map_err(|error| cannot(what)(error.into()))
    }
}

impl Entry {
    /// Becomes the program; comes back only where that fails.
    fn enter(self, answer: &UnixStream) -> Result<std::convert::Infallible, NotEntered> {
        // As the agent's user, who may read what the function directories hold.
        let stdin = match &self.stdin {
            Some(source) => Stdio::from(source.open().map_err(|error| {
                NotEntered::of(&io::Error::new(error.kind(), format!("the module cannot be opened: {error}")))
            })?),
            None => Stdio::null(),
        };
        for group in &self.plan.groups {
            fs::write(group.join("cgroup.procs"), "0").or_cannot("the control group")?;
        }
        let mut command = match self.plan.level {
            SandboxLevel::None => self.plain(),
            SandboxLevel::Process => self.process()?,
            SandboxLevel::Container => self.container(answer)?,
        };
        Err(NotEntered::of(&command.stdin(stdin).exec()))
    }

    fn plain(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args).env_clear().envs(&self.environment);
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        command
    }

    fn process(&self) -> Result<Command, NotEntered> {
        let plan = &self.plan;
        bound(plan).or_cannot("limits")?;
        become_user(plan.user).or_cannot("the user")?;
        let tmp = plan.scratch.join("tmp");
        let directory = self.directory.as_deref().unwrap_or(&tmp);
        std::env::set_current_dir(directory).map_err(|error| {
            let message = format!("the working directory {}: {error}", directory.display());
            NotEntered::NotStarted { errno: None, message }
        })?;
        // What is no longer there cannot be brought back by a program with more rights.
        rustix::thread::set_no_new_privs(true).or_cannot("no_new_privs")?;
        restrict_files(plan).or_cannot("Landlock")?;
        for filter in syscalls::filters(plan.level, plan.network).or_cannot("seccomp")? {
            seccompiler::apply_filter(&filter).or_cannot("seccomp")?;
        }
        let mut command = Command::new(&self.program);
        command.args(&self.args).env_clear().envs(&self.environment);
        Ok(command)
    }

    fn container(&self, answer: &UnixStream) -> Result<Command, NotEntered> {
        let plan = &self.plan;
        bound(plan).or_cannot("limits")?;
        become_user(plan.user).or_cannot("the user")?;
        self.find_program().map_err(|e| NotEntered::of(&e))?;
        rustix::thread::set_no_new_privs(true).or_cannot("no_new_privs")?;
        restrict_scope().or_cannot("Landlock")?;
        let filters = syscalls::filters(plan.level, plan.network).or_cannot("seccomp")?;
        let filters = filters.iter().map(|filter| handed(&syscalls::bytes(filter))).collect::<io::Result<Vec<_>>>();
        let filters = filters.or_cannot("seccomp")?;
        let numbers: Vec<i32> = filters.iter().map(|file| file.as_raw_fd()).collect();
        rustix::io::fcntl_setfd(answer, FdFlags::empty()).or_cannot("bubblewrap")?;
        let handed_over = bubblewrap::Handed { status: answer.as_raw_fd(), filters: &numbers };
        let home = Path::new(CONTAINER_HOME);
        let directory = self.directory.as_deref().unwrap_or(home);
        let options = bubblewrap::options(plan, &self.environment, directory, handed_over);
        let options = handed(&options).or_cannot("bubblewrap")?;
        let mut command = Command::new(&plan.bubblewrap);
        command.arg("--args").arg(options.as_raw_fd().to_string()).arg("--").arg(&self.program).args(&self.args);
        command.env_clear().current_dir("/");
        // They are bubblewrap's from now on, and are to stay open: this process has no further use of them.
        std::mem::forget((options, filters));
        Ok(command)
    }

    /// So that a program that is not there is told as such, and not by bubblewrap in its own words.
    fn find_program(&self) -> io::Result<()> {
        let look = |path: &Path| fs::metadata(path).is_ok_and(|found| found.is_file());
        let found = if self.program.contains('/') {
            look(&self.directory.as_deref().unwrap_or(Path::new("/")).join(&self.program))
        } else {
            let path = self.environment.get("PATH").map(String::as_str).unwrap_or_default();
            path.split(':').any(|dir| look(&Path::new(dir).join(&self.program)))
        };
        if found { Ok(()) } else { Err(io::Error::from_raw_os_error(rustix::io::Errno::NOENT.raw_os_error())) }
    }
}

/// What a single process may use. Control groups bound all of them together.
fn bound(plan: &Plan) -> io::Result<()> {
    let set = |resource, most: Option<u64>| -> io::Result<()> {
        match most {
            Some(_) => Ok(rustix::process::setrlimit(resource, Rlimit { current: most, maximum: most })?),
            None => Ok(()),
        }
    };
    // A core would hold what the program knew, on a disk that others read.
    set(Resource::Core, Some(0))?;
    set(Resource::Nproc, plan.processes)?;
    // A file beside the private directory is no way round its bound.
    set(Resource::Fsize, plan.tmp_bytes)
}

/// Becomes another user, with no groups but the one of the same number, and drops all capabilities whoever it is.
fn become_user(user: Option<u32>) -> io::Result<()> {
    if let Some(number) = user {
        let (user, group) = (Uid::from_raw(number), Gid::from_raw(number));
        rustix::thread::set_thread_groups(&[])?;
        rustix::thread::set_thread_res_gid(group, group, group)?;
        rustix::thread::set_thread_res_uid(user, user, user)?;
    }
    rustix::thread::clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    Ok(())
}

/// Files of the whole host that programs read to know where they run. Of processes it may see itself alone.
const ABOUT_HOST: [&str; 15] = [
    "/proc/self",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/version",
    "/proc/filesystems",
    "/proc/vmstat",
    "/proc/devices",
    "/proc/diskstats",
    "/proc/sys",
    "/sys/devices/system",
    "/sys/fs/cgroup",
    "/sys/kernel/mm/transparent_hugepage",
];
const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

/// Landlock, for files: what is not named may not be opened, made, changed or run.
fn restrict_files(plan: &Plan) -> Result<(), RulesetError> {
    let abi = ABI::V5;
    let (all, read) = (AccessFs::from_all(abi), AccessFs::from_read(abi));
    let Files { readable, writable } = &plan.files;
    let status = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        // Linux 6.2. Before it, a file could be cut off by its path.
        .handle_access(AccessFs::from_all(ABI::V3))?
        // Linux 6.12. A program of the agent's own user could end the agent otherwise.
        .set_compatibility(if plan.user.is_some() { CompatLevel::BestEffort } else { CompatLevel::HardRequirement })
        .scope(Scope::Signal)?
        .set_compatibility(CompatLevel::BestEffort)
        .scope(Scope::AbstractUnixSocket)?
        .handle_access(all)?
        .create()?
        .add_rules(path_beneath_rules(readable.iter().filter(|path| !is_link(path)), read))?
        .add_rules(path_beneath_rules(ABOUT_HOST, read))?
        .add_rules(path_beneath_rules(DEVICES, read | AccessFs::WriteFile))?
        .add_rules(path_beneath_rules(writable.iter().chain([&plan.scratch]), all))?
        .restrict_self()?;
    debug_assert_ne!(status.ruleset, RulesetStatus::NotEnforced);
    Ok(())
}

/// Landlock, for what namespaces do not part: sockets with names and no path, where the network is the host's. As far as the kernel can.
fn restrict_scope() -> Result<(), RulesetError> {
    Ruleset::default().scope(Scope::AbstractUnixSocket)?.scope(Scope::Signal)?.create()?.restrict_self()?;
    Ok(())
}

/// A file in memory that another program can read under the same number.
fn handed(content: &[u8]) -> io::Result<OwnedFd> {
    let mut file = File::from(rustix::fs::memfd_create("orrery", MemfdFlags::empty())?);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file.into())
}
