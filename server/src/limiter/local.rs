//! Budgets of one process.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::gcra::Quota;

/// Callers whose budgets are kept. Beyond, those that are full are forgotten, and then all.
const MOST: usize = 100_000;

pub(super) struct Local {
    began: Instant,
    /// When each budget is full again, counted from `began`.
    full: Mutex<HashMap<String, Duration>>,
}

impl Default for Local {
    fn default() -> Self {
        Self { began: Instant::now(), full: Mutex::default() }
    }
}

impl Local {
    /// How long to wait, zero where the call was admitted; and how far ahead the budget is full again.
    pub(super) fn admit(&self, quota: &Quota, key: &str) -> (Duration, Duration) {
        let now = self.began.elapsed();
        let mut full = self.full.lock().unwrap_or_else(PoisonError::into_inner);
        if full.len() >= MOST && !full.contains_key(key) {
            full.retain(|_, full| *full > now);
            if full.len() >= MOST {
                full.clear();
            }
        }
        let before = full.get(key).copied().unwrap_or_default();
        match quota.admit(before, now) {
            Ok(next) => {
                full.insert(key.to_owned(), next);
                (Duration::ZERO, next - now)
            }
            Err(wait) => (wait, before.saturating_sub(now)),
        }
    }
}
