//! The end of a transaction whose answer is lost.
//!
//! Where the connection dies between COMMIT and its answer, the transaction happened or it did not. It is asked for by its keys: each call
//! chooses them before its transaction (ids, versions, instants to the microsecond), and is repeated with the same ones. The repeat takes the locks
//! that the lost transaction held, and so waits until that one is over, whatever its server process is still at; then it finds what was
//! written, or writes it.

use std::time::Duration;

use sqlx::postgres::{PgDatabaseError, PgSeverity};
use sqlx::{Postgres, Transaction};
use tokio::time::Instant;

use super::reach::Evict;
use crate::store::{Result, StoreError};

/// How long a call goes on to ask for an unknown outcome.
const PATIENCE: Duration = Duration::from_secs(8);

/// How long one try may take here, with a database that neither answers nor refuses (a host that is gone leaves its connections open). The
/// database's own time-outs are shorter.
const A_TRY: Duration = Duration::from_secs(30);

/// Ends a transaction.
///
/// # Errors
/// [`StoreError::Unknown`] where no answer came; any other one says that it did not happen.
pub(super) async fn commit(tx: Transaction<'_, Postgres>) -> Result<()> {
    tx.commit().await.map_err(|error| if is_answer(&error) { error.into() } else { StoreError::Unknown(error) })
}

/// One statement of a loop, within its time: a loop must not hang with a host that is gone.
pub(super) async fn in_time<T>(call: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| Err(StoreError::Unavailable(sqlx::Error::PoolTimedOut));
    tokio::time::timeout(A_TRY, call).await.unwrap_or_else(late)
}

/// Whether an error of COMMIT is the database's word that nothing happened. What ends the connection is none: the transaction may have been
/// committed before.
pub(super) fn is_answer(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(db) = error else { return false };
    db.try_downcast_ref::<PgDatabaseError>().is_some_and(|db| matches!(db.severity(), PgSeverity::Error))
}

/// The tries of one call.
pub(super) struct Tries<'a> {
    evict: &'a Evict,
    crossed: u32,
    /// Since when the outcome of an earlier try is unknown, and why.
    lost: Option<(Instant, sqlx::Error)>,
    lost_tries: u32,
    patience: Duration,
}

impl<'a> Tries<'a> {
    pub(super) fn new(evict: &'a Evict) -> Self {
        Self { evict, crossed: 0, lost: None, lost_tries: 0, patience: PATIENCE }
    }

    /// Asks for an unknown outcome for so long.
    pub(super) fn patient(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Whether an earlier try may have happened.
    pub(super) fn is_repeat(&self) -> bool {
        self.lost.is_some()
    }

    /// One try, within its time.
    pub(super) async fn within<T>(call: impl Future<Output = Result<T>>) -> Result<T> {
        // Nobody knows how far it has got.
        tokio::time::timeout(A_TRY, call).await.unwrap_or_else(|_| Err(StoreError::Unknown(sqlx::Error::PoolTimedOut)))
    }

    /// Waits before the next try.
    ///
    /// # Errors
    /// The error, where there is to be none.
    pub(super) async fn after(&mut self, error: StoreError) -> Result<()> {
        self.evict.note(&error);
        if super::crossed(&error) && self.crossed < 8 {
            self.crossed += 1;
            let wait = rand::random_range(0..(2_u64 << self.crossed.min(6)));
            tokio::time::sleep(Duration::from_millis(wait)).await;
            return Ok(());
        }
        let (since, first) = match (self.lost.take(), error) {
            (None, StoreError::Unknown(source)) => (Instant::now(), source),
            (Some(lost), StoreError::Unknown(_) | StoreError::Unavailable(_)) => lost,
            (_, other) => return Err(other),
        };
        if since.elapsed() >= self.patience {
            return Err(StoreError::Unknown(first));
        }
        if self.lost_tries == 0 {
            tracing::info!(error = %first, "the answer to a COMMIT was lost; it is asked for by its keys");
        }
        self.lost = Some((since, first));
        tokio::time::sleep(Duration::from_millis((10_u64 << self.lost_tries.min(6)).min(500))).await;
        self.lost_tries += 1;
        Ok(())
    }
}
