//! Where there is no Linux, no process can be contained.

use std::process::ExitCode;

/// Refuses.
pub(crate) fn inside() -> ExitCode {
    eprintln!("supervise --inside: processes can only be contained on Linux");
    ExitCode::from(2)
}
