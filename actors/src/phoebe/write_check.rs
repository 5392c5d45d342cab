//! A test whose result is shared by concurrent callers and reused for a while.

use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use uuid::Uuid;

/// How long a result is reused.
const FRESH: Duration = Duration::from_secs(1);

/// The last test write and its result.
#[derive(Debug)]
pub(super) struct WriteCheck {
    /// This process's row.
    pub(super) instance: Uuid,
    last: Mutex<Option<(Instant, Result<(), String>)>>,
}

impl WriteCheck {
    pub(super) fn new() -> Self {
        Self { instance: Uuid::now_v7(), last: Mutex::new(None) }
    }

    /// The last result, or that of `write` if it is older than about a second. One write at a time.
    pub(super) async fn result(
        &self,
        write: impl Future<Output = Result<(), String>>,
    ) -> Result<(), String> {
        let mut last = self.last.lock().await;
        if let Some((at, outcome)) = last.as_ref()
            && at.elapsed() < FRESH
        {
            return outcome.clone();
        }
        let outcome = write.await;
        *last = Some((Instant::now(), outcome.clone()));
        outcome
    }
}
