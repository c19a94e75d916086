//! Whether and when a failed attempt is repeated.

use std::time::Duration;

use orrery_proto::v1::ErrorType;

use crate::job::RetryPolicy;

/// What is retried where the policy names nothing.
const DEFAULT: [ErrorType; 3] = [ErrorType::Timeout, ErrorType::NetworkError, ErrorType::SystemError];

/// Whether the policy repeats an attempt that failed so, after `retries` retries already made. `asked` is what the work itself said.
pub fn is_retried(policy: &RetryPolicy, error: ErrorType, asked: Option<bool>, retries: i32) -> bool {
    let wanted = asked.unwrap_or_else(|| match policy.on.as_slice() {
        [] => DEFAULT.contains(&error),
        named => named.contains(&error),
    });
    wanted && retries < policy.max_retries
}

/// The delay before a retry: `delay_ms`, times 2^retries where exponential (the first retry has 0), capped. With jitter it lies evenly
/// between half of that and all of it; `random` is in 0..1.
pub fn delay(policy: &RetryPolicy, retries: i32, random: f64) -> Duration {
    let base = policy.delay_ms.max(0) as f64;
    let factor = if policy.exponential { 2_f64.powi(retries.clamp(0, 62)) } else { 1.0 };
    // A day more than any sane cap, so that what follows cannot overflow an instant.
    let capped =
        (base * factor).min(policy.max_delay_ms.map_or(f64::MAX, |ms| ms.max(0) as f64)).min(30.0 * 86_400_000.0);
    let spread = if policy.jitter { capped * (0.5 + random.clamp(0.0, 1.0) / 2.0) } else { capped };
    Duration::from_secs_f64(spread / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(exponential: bool) -> RetryPolicy {
        RetryPolicy { max_retries: 3, delay_ms: 100, exponential, ..RetryPolicy::default() }
    }

    #[test]
    fn the_delay_doubles_only_where_asked_and_is_capped() {
        let ms = |p: &RetryPolicy, n| delay(p, n, 0.0).as_millis();
        assert_eq!([0, 1, 2].map(|n| ms(&policy(false), n)), [100, 100, 100]);
        assert_eq!([0, 1, 2].map(|n| ms(&policy(true), n)), [100, 200, 400]);
        let capped = RetryPolicy { max_delay_ms: Some(250), ..policy(true) };
        assert_eq!([0, 1, 2, 90].map(|n| ms(&capped, n)), [100, 200, 250, 250]);
        assert_eq!(ms(&policy(true), 1000), 30 * 86_400_000);
    }

    #[test]
    fn jitter_stays_between_half_and_all() {
        let p = RetryPolicy { jitter: true, ..policy(false) };
        assert_eq!(delay(&p, 0, 0.0).as_millis(), 50);
        assert_eq!(delay(&p, 0, 1.0).as_millis(), 100);
    }

    #[test]
    fn retries_follow_the_error_type_the_budget_and_the_work() {
        let p = policy(false);
        for error in [ErrorType::Timeout, ErrorType::NetworkError, ErrorType::SystemError] {
            assert!(is_retried(&p, error, None, 0));
        }
        for error in [ErrorType::UserError, ErrorType::ValidationError] {
            assert!(!is_retried(&p, error, None, 0));
        }
        assert!(!is_retried(&p, ErrorType::Timeout, None, 3));
        assert!(is_retried(&p, ErrorType::UserError, Some(true), 2));
        assert!(!is_retried(&p, ErrorType::UserError, Some(true), 3));
        assert!(!is_retried(&p, ErrorType::Timeout, Some(false), 0));
        let named = RetryPolicy { on: vec![ErrorType::UserError], ..p };
        assert!(is_retried(&named, ErrorType::UserError, None, 0));
        assert!(!is_retried(&named, ErrorType::Timeout, None, 0));
    }
}
