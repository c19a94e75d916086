//! What an agent's journal of results holds, read while the agent has it.

use std::path::Path;

/// Whether the segments in an agent's directory hold `bytes`.
fn holds(directory: &Path, bytes: &[u8]) -> bool {
    let segments = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    segments
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        // One may have been removed since.
        .filter_map(|path| std::fs::read(path).ok())
        .any(|segment| segment.windows(bytes.len()).any(|window| window == bytes))
}

/// Whether the result of an execution is on disk.
pub(crate) fn has_result(directory: &Path, execution: &str) -> bool {
    holds(directory, execution.as_bytes())
}

/// Whether its removal is: a byte for the kind of the frame, the epoch, the id.
pub(crate) fn has_forgotten(directory: &Path, execution: &str, epoch: i64) -> bool {
    holds(directory, &[&[2], epoch.to_le_bytes().as_slice(), execution.as_bytes()].concat())
}
