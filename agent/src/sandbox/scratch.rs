use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A directory of one execution: `tmp` is its home and place for files, `call` what a function is called with. Nobody else may look into
/// it. It goes when the execution does.
#[derive(Debug)]
pub(crate) struct Scratch {
    /// Taken when it is removed.
    dir: Option<TempDir>,
    path: PathBuf,
}

impl Scratch {
    /// A new one, which belongs to `user` where there is one, else to the agent's.
    ///
    /// # Errors
    /// Where the system's directory for temporary files cannot be written to.
    pub(super) fn new(user: Option<u32>) -> io::Result<Self> {
        let private = fs::Permissions::from_mode(0o700);
        let dir = tempfile::Builder::new().prefix("orrery-run-").permissions(private.clone()).tempdir()?;
        // The real path: what is shown of it within a sandbox is found by that.
        let path = dir.path().canonicalize()?;
        let made = Self { dir: Some(dir), path };
        for part in [made.tmp(), made.call()] {
            fs::create_dir(&part)?;
            fs::set_permissions(&part, private.clone())?;
            made.give(&part, user)?;
        }
        made.give(&made.path, user)?;
        Ok(made)
    }

    /// Gives one of its files away.
    ///
    /// # Errors
    /// Where the agent may not.
    pub(crate) fn give(&self, path: &Path, user: Option<u32>) -> io::Result<()> {
        match user {
            Some(_) => chown(path, user, user),
            None => Ok(()),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.path.join("tmp")
    }

    pub(crate) fn call(&self) -> PathBuf {
        self.path.join("call")
    }

    /// Removes it with all that is in it; waits for that.
    pub(super) async fn remove(mut self) {
        if let Some(dir) = self.dir.take() {
            let _ = tokio::task::spawn_blocking(move || clear(dir)).await;
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let Some(dir) = self.dir.take() else { return };
        // Apart, since there may be a lot in it and this may be a thread of the runtime.
        let cleared = std::thread::Builder::new().name("clear".into()).spawn(move || clear(dir));
        if let Err(error) = cleared {
            tracing::warn!(%error, "the directory of an execution is left behind");
        }
    }
}

fn clear(dir: TempDir) {
    let path = dir.path().to_owned();
    if dir.close().is_ok() || !path.exists() {
        return;
    }
    // A process may have taken its own right to look into its directories.
    open_up(&path, 0);
    if let Err(error) = fs::remove_dir_all(&path) {
        tracing::warn!(path = %path.display(), %error, "the directory of an execution is left behind");
    }
}

/// How deep directories are looked into; a path cannot be written deeper than that.
const DEEPEST: usize = 2048;

/// Gives the owner the right to all directories. Follows no link.
fn open_up(path: &Path, depth: usize) {
    let _ = fs::set_permissions(path, fs::Permissions::from_mode(0o700));
    let Ok(entries) = fs::read_dir(path) else { return };
    for entry in entries.flatten() {
        if depth < DEEPEST && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            open_up(&entry.path(), depth + 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_private_and_goes_whatever_was_done_to_it() {
        let scratch = Scratch::new(None).expect("a directory");
        let path = scratch.path().to_owned();
        for part in [path.clone(), scratch.tmp(), scratch.call()] {
            let mode = fs::metadata(&part).expect("it is there").permissions().mode();
            assert_eq!(mode & 0o777, 0o700, "{}", part.display());
        }
        let hidden = scratch.tmp().join("a/b");
        fs::create_dir_all(&hidden).expect("made");
        fs::write(hidden.join("c"), "x").expect("written");
        fs::set_permissions(&hidden, fs::Permissions::from_mode(0o0)).expect("closed");
        scratch.remove().await;
        assert!(!path.exists());
    }
}
