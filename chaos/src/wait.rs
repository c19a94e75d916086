use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::error::{Result, world};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(25);

/// What `ask` finds at last.
///
/// # Errors
/// At the deadline, and where asking fails.
pub(crate) async fn until<T>(
    what: &str,
    within: Duration,
    mut ask: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = ask().await? {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            return Err(world(format!("in {within:?} it did not come to this: {what}")));
        }
        sleep(LOOK).await;
    }
}
