use std::path::Path;

/// Why the harness itself cannot go on. What it finds wrong in the product is a [`Violation`](crate::checks::Violation) instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file, a process or a socket.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the system answered.
        source: std::io::Error,
    },
    /// The harness's own statements.
    #[error("the harness's own statement failed: {0}")]
    Sql(#[from] sqlx::Error),
    /// A call to a coordinator.
    #[error("a call failed: {0}")]
    Call(#[from] orrery_sdk::Error),
    /// It did not come to what was waited for, or the world is not as it must be.
    #[error("{0}")]
    World(String),
}

/// What the harness's own doings end with.
pub type Result<T> = std::result::Result<T, Error>;

/// Says what was tried where the system refused it.
pub trait Tried<T> {
    /// The result, with `what` in its error.
    ///
    /// # Errors
    /// As before.
    fn tried(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Tried<T> for std::io::Result<T> {
    fn tried(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Io { what: what(), source })
    }
}

/// Text for errors about a path.
pub fn path(what: &str, path: &Path) -> impl FnOnce() -> String {
    let text = format!("{what} {}", path.display());
    move || text
}

/// An error of the harness's own.
pub fn world(text: impl Into<String>) -> Error {
    Error::World(text.into())
}
