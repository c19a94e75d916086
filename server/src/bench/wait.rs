use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::error::{Result, failed};

/// What `ask` finds at last; it is asked again after each `pause`.
///
/// # Errors
/// After `within`, and where asking fails.
pub(super) async fn until<T>(
    what: &str,
    within: Duration,
    pause: Duration,
    mut ask: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = ask().await? {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            return Err(failed(format!("in {} s it did not come to this: {what}", within.as_secs())));
        }
        sleep(pause).await;
    }
}
