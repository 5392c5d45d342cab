//! When a failed actor is restarted.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Limits of restarts.
#[derive(Debug, Clone, Copy)]
pub struct RestartPolicy {
    /// Failures within `window` before quarantine.
    pub budget: usize,
    pub window: Duration,
    /// The first back-off; it doubles with each failure in the window.
    pub backoff: Duration,
    pub max_backoff: Duration,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            budget: 5,
            window: Duration::from_secs(60),
            backoff: Duration::from_millis(50),
            max_backoff: Duration::from_secs(5),
        }
    }
}

/// The decision after a failure: pure, so that a test controls its clock.
#[derive(Debug)]
pub(crate) struct RestartBudget {
    pub(crate) policy: RestartPolicy,
    pub(crate) failures: VecDeque<Instant>,
}

impl RestartBudget {
    /// The back-off before the next instance, or `None` for quarantine.
    pub(crate) fn failed(&mut self, now: Instant) -> Option<Duration> {
        while self.failures.front().is_some_and(|&at| now.duration_since(at) > self.policy.window) {
            self.failures.pop_front();
        }
        self.failures.push_back(now);
        if self.failures.len() > self.policy.budget {
            return None;
        }
        let doublings = u32::try_from(self.failures.len() - 1).unwrap_or(u32::MAX).min(20);
        Some(self.policy.backoff.saturating_mul(1 << doublings).min(self.policy.max_backoff))
    }
}
