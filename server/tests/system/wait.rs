use std::time::Duration;

use tokio::time::Instant;

/// Long enough for anything that happens at once, on a machine that is busy with something else.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// What `ask` finds at last; fails at the deadline.
pub(crate) async fn until<T>(what: &str, within: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(Instant::now() < deadline, "in {within:?} it did not come to this: {what}");
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until `holds`.
pub(crate) async fn until_true(what: &str, within: Duration, mut holds: impl AsyncFnMut() -> bool) {
    until(what, within, async || holds().await.then_some(())).await;
}
