//! Which files of its host a contained process sees. Pure but for the look at directories and links.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// What programs need to start and to look names up. Absent ones are passed over.
const SYSTEM: [&str; 14] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/etc",
    "/opt",
    "/nix/store",
    "/gnu/store",
    // Where /etc/resolv.conf and certificates lead to on some systems.
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/var/lib/ca-certificates",
];

/// Of `/etc`, where coordinators and agents have their settings and keys.
const OWN: &str = "/etc/orrery";

/// What a contained process may open, and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Files {
    /// With all that is below them.
    pub(super) readable: Vec<PathBuf>,
    pub(super) writable: Vec<PathBuf>,
}

impl Files {
    /// The system's files and those that the agent opens to all jobs, without what is `hidden`: the agent's own.
    pub(super) fn new(readable: &[PathBuf], writable: &[PathBuf], hidden: &[PathBuf]) -> Self {
        let hidden: Vec<PathBuf> = hidden.iter().map(PathBuf::as_path).chain([Path::new(OWN)]).map(real).collect();
        let shown = |paths: &mut dyn Iterator<Item = PathBuf>| -> Vec<PathBuf> {
            let all: BTreeSet<PathBuf> = paths.flat_map(|path| without(path, &hidden)).collect();
            all.into_iter().collect()
        };
        let mut tops = SYSTEM.iter().map(PathBuf::from).chain(readable.iter().cloned()).flat_map(with_target);
        Self { readable: shown(&mut tops), writable: shown(&mut writable.iter().map(|path| real(path))) }
    }

    /// Whether a path lies in what can be read or written.
    pub(super) fn shows(&self, path: &Path) -> bool {
        let path = real(path);
        self.readable.iter().chain(&self.writable).any(|top| path.starts_with(real(top)))
    }
}

/// Without links, where it is there.
fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// A link is one in the sandbox too, and what it leads to is there as well.
fn with_target(path: PathBuf) -> Vec<PathBuf> {
    let target = real(&path);
    if target == path { vec![path] } else { vec![path, target] }
}

/// Whether it is to be shown as a link, which gives no right to what it leads to.
pub(super) fn is_link(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|found| found.file_type().is_symlink())
}

/// A directory, or, where something in it is hidden, what is beside that. Nothing where it is hidden itself or not there.
fn without(path: PathBuf, hidden: &[PathBuf]) -> Vec<PathBuf> {
    let resolved = real(&path);
    if !resolved.exists() || hidden.iter().any(|hidden| resolved.starts_with(hidden)) {
        return Vec::new();
    }
    if !hidden.iter().any(|hidden| hidden.starts_with(&resolved)) {
        return vec![path];
    }
    let Ok(entries) = fs::read_dir(&resolved) else { return Vec::new() };
    entries.flatten().flat_map(|entry| without(entry.path(), hidden)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_hidden_is_left_out_and_the_rest_is_not() {
        let root = tempfile::tempdir().expect("a directory");
        let top = root.path().canonicalize().expect("a path");
        for dir in ["open/deep/secret", "open/deep/beside", "open/other", "data"] {
            fs::create_dir_all(top.join(dir)).expect("made");
        }
        fs::write(top.join("open/file"), "x").expect("written");
        std::os::unix::fs::symlink(top.join("open/deep/secret"), top.join("open/link")).expect("linked");
        let hidden = [top.join("open/deep/secret"), top.join("data")];
        let files = Files::new(&[top.join("open")], &[top.join("data")], &hidden);
        let own: Vec<_> = files.readable.iter().filter_map(|path| path.strip_prefix(&top).ok()).collect();
        assert_eq!(
            own,
            [Path::new("open/deep/beside"), Path::new("open/file"), Path::new("open/other")],
            "and not the link"
        );
        assert_eq!(files.writable, [] as [PathBuf; 0]);
        assert!(files.shows(Path::new("/usr")) && files.shows(&top.join("open/other/x")));
        assert!(!files.shows(&top.join("open/deep/secret/key")) && !files.shows(&top.join("open/link")));
        assert!(!files.shows(Path::new("/")) && !files.shows(Path::new("/root")) && !files.shows(Path::new("/tmp")));
    }
}
