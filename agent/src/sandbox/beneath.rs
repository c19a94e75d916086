use std::fs::File;
use std::io;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

/// A file within a directory, named by its path from there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Beneath {
    pub(crate) root: PathBuf,
    pub(crate) file: PathBuf,
}

impl Beneath {
    /// Opens it for reading. No part of the path may be a link or lead upwards, at the moment of the opening: what was looked at before may
    /// have changed since.
    ///
    /// # Errors
    /// Where it is not there, is no file, or lies elsewhere by now.
    pub(crate) fn open(&self) -> io::Result<File> {
        let root = rustix::fs::open(&self.root, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        // Not waiting for a writer, where somebody has put a pipe there.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        #[cfg(target_os = "linux")]
        let opened = {
            use rustix::fs::ResolveFlags;
            let within = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            rustix::fs::openat2(&root, &self.file, flags, Mode::empty(), within)?
        };
        #[cfg(not(target_os = "linux"))]
        let opened = {
            let mut dir = root;
            let mut parts = self.file.components().peekable();
            loop {
                let Some(std::path::Component::Normal(part)) = parts.next() else {
                    return Err(io::Error::other("it leads out of its directory"));
                };
                let last = parts.peek().is_none();
                let kind = if last { flags } else { OFlags::DIRECTORY | OFlags::CLOEXEC };
                let next = rustix::fs::openat(&dir, part, kind | OFlags::NOFOLLOW, Mode::empty())?;
                if last {
                    break next;
                }
                dir = next;
            }
        };
        let file = File::from(opened);
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is no file"));
        }
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::unix::fs::symlink;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn opened(root: &std::path::Path, file: &str) -> io::Result<String> {
        let mut text = String::new();
        Beneath { root: root.into(), file: file.into() }.open()?.read_to_string(&mut text)?;
        Ok(text)
    }

    #[test]
    fn nothing_leads_out_of_the_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        let (inner, outer) = (dir.path().join("in"), dir.path().join("out"));
        std::fs::create_dir_all(inner.join("deep")).expect("made");
        std::fs::create_dir(&outer).expect("made");
        std::fs::write(inner.join("deep/a.py"), "inner").expect("written");
        std::fs::write(outer.join("a.py"), "outer").expect("written");
        symlink(outer.join("a.py"), inner.join("link.py")).expect("linked");
        symlink(&outer, inner.join("linked")).expect("linked");
        symlink("deep", inner.join("sideways")).expect("linked");
        assert_eq!(opened(&inner, "deep/a.py").ok().as_deref(), Some("inner"));
        for path in ["../out/a.py", "link.py", "linked/a.py", "sideways/a.py", "deep", "none", "deep/../../out/a.py"] {
            assert!(opened(&inner, path).is_err(), "{path}");
        }
        let absolute = outer.join("a.py");
        assert!(opened(&inner, absolute.to_str().expect("text")).is_err());
    }

    /// Somebody swaps the directory for a link to another and back all the time: whatever is opened is the right one.
    #[test]
    fn a_race_is_lost_by_who_swaps_links() {
        let dir = tempfile::tempdir().expect("a directory");
        let (inner, outer) = (dir.path().join("in"), dir.path().join("out"));
        std::fs::create_dir_all(inner.join("real")).expect("made");
        std::fs::create_dir(&outer).expect("made");
        std::fs::write(inner.join("real/a.py"), "inner").expect("written");
        std::fs::write(outer.join("a.py"), "outer").expect("written");
        struct AtTheEnd<'a>(&'a AtomicBool);
        impl Drop for AtTheEnd<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let stop = AtomicBool::new(false);
        let (mut read, mut refused) = (0, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (real, kept, trap) = (inner.join("real"), inner.join("kept"), inner.join("trap"));
                symlink(&outer, &trap).expect("linked");
                while !stop.load(Ordering::Relaxed) {
                    for (from, to) in [(&real, &kept), (&trap, &real), (&real, &trap), (&kept, &real)] {
                        std::fs::rename(from, to).expect("renamed");
                    }
                }
            });
            let _ends = AtTheEnd(&stop);
            while read < 200 || refused < 200 {
                match opened(&inner, "real/a.py") {
                    Ok(text) => {
                        assert_eq!(text, "inner");
                        read += 1;
                    }
                    Err(_) => refused += 1,
                }
            }
        });
    }
}
