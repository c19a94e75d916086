use async_trait::async_trait;
use uuid::Uuid;

use crate::execution::Execution;
use crate::store::*;

/// Executions that were given up because their agents were lost. They are written by the transaction that ends the execution.
#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// Dead letters, newest first by [`DeadLetter::id`].
    async fn dead_letters(&self, tenant: Uuid, filter: &DeadLetterFilter, page: &Page) -> Result<Vec<DeadLetter>>;

    /// That of an execution.
    async fn dead_letter(&self, tenant: Uuid, execution: Uuid) -> Result<Option<DeadLetter>>;

    /// Puts a dead letter aside; one that has been already stays as it is.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Refused`] (DEAD_LETTER_RELEASED).
    async fn discard_dead_letter(&self, discard: &Discard) -> Result<DeadLetter>;

    /// Makes the execution that repeats a dead letter, of which `trigger.retry_of` is the execution, and marks it as released, in one
    /// transaction. One that has been released already answers with the execution of that time.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Refused`] (DEAD_LETTER_DISCARDED); [`StoreError::TriggerRefused`] with what `decide`
    /// refused.
    async fn release_dead_letter(&self, trigger: &Trigger, decide: &DecideTrigger<'_>) -> Result<Execution>;
}
