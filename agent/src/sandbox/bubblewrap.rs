//! The command line of bubblewrap, which makes the namespaces of a container. Pure but for the look at links.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use super::plan::Plan;
use super::{CONTAINER_CALL as CALL, CONTAINER_HOME as HOME};

/// Numbers of open files that bubblewrap is handed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handed<'a> {
    /// Where it tells what becomes of the container.
    pub(super) status: i32,
    /// Filters for system calls.
    pub(super) filters: &'a [i32],
}

/// The options, each ended by a NUL: they go by a file and not by a command line, which all can read and where the environment would stand.
pub(super) fn options(
    plan: &Plan,
    environment: &BTreeMap<String, String>,
    directory: &Path,
    handed: Handed<'_>,
) -> Vec<u8> {
    let mut options = Options::default();
    options.add(["--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-uts", "--unshare-cgroup-try"]);
    if !plan.network {
        options.add(["--unshare-net"]);
    }
    options.add(["--die-with-parent", "--hostname", "orrery"]);
    options.add(["--json-status-fd".into(), handed.status.to_string()]);
    for filter in handed.filters {
        options.add(["--add-seccomp-fd".into(), filter.to_string()]);
    }
    options.add(["--proc", "/proc", "--dev", "/dev"]);
    match plan.tmp_bytes {
        Some(bytes) => options.add(["--size".into(), bytes.to_string(), "--tmpfs".into(), HOME.into()]),
        None => options.bind("--bind", &plan.scratch.join("tmp"), Path::new(HOME)),
    }
    // After the home, which would hide what is opened below it.
    for path in &plan.files.readable {
        options.show("--ro-bind", path);
    }
    options.bind("--bind", &plan.scratch.join("call"), Path::new(CALL));
    for path in &plan.files.writable {
        options.bind("--bind", path, path);
    }
    options.add(["--remount-ro", "/"]);
    options.add([OsString::from("--chdir"), directory.into()]);
    options.add(["--clearenv"]);
    for (name, value) in environment {
        options.add(["--setenv", name, value]);
    }
    options.0
}

#[derive(Default)]
struct Options(Vec<u8>);

impl Options {
    fn add<const N: usize, T: Into<OsString>>(&mut self, words: [T; N]) {
        for word in words {
            self.0.extend(word.into().into_vec());
            self.0.push(0);
        }
    }

    fn bind(&mut self, how: &str, from: &Path, to: &Path) {
        self.add([OsString::from(how), from.into(), to.into()]);
    }

    /// As it is on the host: a link, such as `/bin` on most systems, is a link in the container.
    fn show(&mut self, how: &str, path: &PathBuf) {
        match std::fs::read_link(path) {
            Ok(target) => self.add([OsString::from("--symlink"), target.into(), path.into()]),
            Err(_) => self.bind(how, path, path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_the_size_and_the_environment_are_as_planned() {
        let plan = |network, tmp_bytes| Plan { network, tmp_bytes, scratch: "/scratch".into(), ..Plan::default() };
        let text = |plan: &Plan| {
            let environment = BTreeMap::from([("A".to_owned(), "b c".to_owned())]);
            let handed = Handed { status: 7, filters: &[8, 9] };
            let bytes = options(plan, &environment, Path::new("/tmp"), handed);
            String::from_utf8(bytes).expect("text").replace('\0', "|")
        };
        let closed = text(&plan(false, None));
        assert!(closed.contains("|--unshare-net|") && closed.contains("|--bind|/scratch/tmp|/tmp|"), "{closed}");
        assert!(closed.contains("|--add-seccomp-fd|8|--add-seccomp-fd|9|") && closed.contains("|--json-status-fd|7|"));
        assert!(closed.ends_with("|--remount-ro|/|--chdir|/tmp|--clearenv|--setenv|A|b c|"), "{closed}");
        let open = text(&plan(true, Some(1 << 20)));
        assert!(!open.contains("--unshare-net") && open.contains("|--size|1048576|--tmpfs|/tmp|"), "{open}");
    }
}
