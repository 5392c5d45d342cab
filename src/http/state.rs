//! State that the routes share besides Nyx.

use std::time::Duration;

use chrono::Utc;

use super::auth::Keys;
use super::options::HttpOptions;

/// State that the routes share besides Nyx.
#[derive(Debug)]
pub struct AppState {
    pub(super) keys: Keys,
    pub max_body_bytes: usize,
    pub body_timeout: Duration,
    /// Seconds since 1970.
    pub started_at: i64,
}

impl AppState {
    pub(super) fn new(options: &HttpOptions) -> Self {
        Self {
            keys: Keys::new(options),
            max_body_bytes: options.max_body_bytes,
            body_timeout: Duration::from_secs(options.client_timeout_s),
            started_at: Utc::now().timestamp(),
        }
    }

    /// Seconds since 1970.
    pub fn now(&self) -> i64 {
        Utc::now().timestamp()
    }

    #[cfg(test)]
    pub(super) fn for_tests(max_body_bytes: usize) -> Self {
        Self { max_body_bytes, ..Self::new(&HttpOptions::default()) }
    }
}
