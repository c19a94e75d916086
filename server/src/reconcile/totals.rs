use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::store::DynStore;

/// How often there is a look. Until then statistics read what has been finished since piece by piece.
const LOOK: Duration = Duration::from_secs(5);

/// Adds up what is finished, so that statistics over any range read few rows.
pub struct Totals {
    pub store: DynStore,
}

impl Totals {
    /// Goes on until the end.
    pub async fn run(self, shutdown: CancellationToken) {
        loop {
            let pause = match self.store.add_up().await {
                // At once, but not so that others would have to wait for the database.
                Ok(true) => Duration::from_millis(50),
                Ok(false) => LOOK,
                Err(error) => {
                    tracing::warn!(%error, "totals could not be added up");
                    LOOK
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }
}
