use std::io::Write as _;

/// Says on standard error how far it is. Where nobody listens, nothing is lost.
pub(super) fn say(text: impl AsRef<str>) {
    let _ = writeln!(std::io::stderr(), "bench: {}", text.as_ref());
}
