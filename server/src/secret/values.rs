//! Decrypted values, for moments: what one lease needs the next one mostly needs as well.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;
use zeroize::Zeroizing;

use orrery_sdk::secret::Reference;

/// How long a value is kept: that long a change may go unnoticed by other coordinators.
const LIFE: Duration = Duration::from_secs(2);
/// The most that are kept.
const MOST: usize = 10_000;

/// A value in the clear; overwritten when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Value(Arc<Zeroizing<String>>);

impl Value {
    pub(super) fn new(text: String) -> Self {
        Self(Arc::new(Zeroizing::new(text)))
    }

    /// The value. Whoever asks sees to it that it is neither written nor shown.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Value(***)")
    }
}

/// Values by tenant and reference.
pub(super) struct Values(Arc<Mutex<Kept>>);

struct Kept {
    life: Duration,
    values: HashMap<(Uuid, Reference), (Instant, Value)>,
    /// Somebody is going to take away what is too old.
    swept: bool,
}

impl Default for Values {
    fn default() -> Self {
        Self::living(LIFE)
    }
}

impl Values {
    fn living(life: Duration) -> Self {
        Self(Arc::new(Mutex::new(Kept { life, values: HashMap::new(), swept: false })))
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, tenant: Uuid, reference: &Reference) -> Option<Value> {
        let kept = self.lock();
        let (until, value) = kept.values.get(&(tenant, reference.clone()))?;
        (*until > Instant::now()).then(|| value.clone())
    }

    /// Keeps a value that was asked for at an instant.
    pub(super) fn put(&self, tenant: Uuid, reference: Reference, value: Value, asked: Instant) {
        let mut kept = self.lock();
        if kept.values.len() >= MOST {
            return;
        }
        let until = asked + kept.life;
        kept.values.insert((tenant, reference), (until, value));
        if !kept.swept {
            kept.swept = true;
            tokio::spawn(sweep(kept.life, Arc::downgrade(&self.0)));
        }
    }

    /// Forgets all versions of a secret.
    pub(super) fn forget(&self, tenant: Uuid, name: &str) {
        self.lock().values.retain(|(of, reference), _| *of != tenant || reference.name != name);
    }
}

/// Takes away what is too old, until nothing is kept.
async fn sweep(life: Duration, kept: Weak<Mutex<Kept>>) {
    loop {
        tokio::time::sleep(life).await;
        let Some(kept) = kept.upgrade() else { return };
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        kept.values.retain(|_, (until, _)| *until > now);
        if kept.values.is_empty() {
            kept.swept = false;
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn values_are_kept_for_moments_and_then_gone_from_memory() {
        let (values, tenant) = (Values::living(Duration::from_secs(1)), Uuid::from_u128(1));
        let reference = |name: &str| Reference { name: name.into(), version: None };
        let value = Value::new("hunter22".into());
        values.put(tenant, reference("a"), value.clone(), Instant::now());
        values.put(tenant, reference("b"), value.clone(), Instant::now());
        assert_eq!(values.get(tenant, &reference("a")), Some(value.clone()));
        assert_eq!(values.get(Uuid::from_u128(2), &reference("a")), None, "another tenant's");
        values.forget(tenant, "a");
        assert_eq!(values.get(tenant, &reference("a")), None);
        while !values.lock().values.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(Arc::strong_count(&value.0), 1, "nobody else has it any more");
        assert_eq!(format!("{value:?}"), "Value(***)");
        values.put(tenant, reference("b"), value, Instant::now());
        assert!(values.lock().swept, "and from then on again");
    }
}
