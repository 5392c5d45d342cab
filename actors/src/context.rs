//! The context of a request, which every message that causes work carries.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::NyxError;

/// Time for the reply of an actor that keeps the deadline itself and reports what it was doing.
const WAY_BACK: Duration = Duration::from_millis(100);

/// A request's identity, deadline, cancellation and span.
#[derive(Debug, Clone)]
pub struct RequestContext {
    /// Also the decision's id: UUID v7, so that ids sort by time.
    pub id: Uuid,
    pub asked: Instant,
    pub deadline: Instant,
    pub cancel: CancellationToken,
    /// Key of fair scheduling: opaque, derived from the API key; empty without keys.
    pub fairness_key: Arc<str>,
    pub span: tracing::Span,
}

impl RequestContext {
    pub fn new(budget: Duration) -> Self {
        let id = Uuid::now_v7();
        let asked = Instant::now();
        let span = tracing::info_span!("request", %id);
        Self {
            id,
            asked,
            deadline: asked + budget,
            cancel: CancellationToken::new(),
            fairness_key: Arc::from(""),
            span,
        }
    }

    /// The same with another scheduling key.
    #[must_use]
    pub fn of(self, fairness_key: Arc<str>) -> Self {
        Self { fairness_key, ..self }
    }

    /// Time left before the deadline; zero when it has passed.
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Until when the sender waits for the reply.
    pub fn answer_by(&self) -> Instant {
        self.deadline + WAY_BACK
    }

    /// Milliseconds between the request and its deadline.
    pub fn budget_ms(&self) -> u64 {
        u64::try_from(self.deadline.duration_since(self.asked).as_millis()).unwrap_or(u64::MAX)
    }

    /// Runs `work` until it is done, the deadline passes or the request is cancelled. `doing` names
    /// it in the error.
    ///
    /// # Errors
    /// [`NyxError::DeadlineExceeded`], [`NyxError::Cancelled`], or what `work` fails with.
    pub async fn bound<T>(
        &self,
        doing: &'static str,
        work: impl Future<Output = Result<T, NyxError>>,
    ) -> Result<T, NyxError> {
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(NyxError::Cancelled),
            done = work => done,
            () = tokio::time::sleep_until(self.deadline.into()) => Err(NyxError::DeadlineExceeded { doing }),
        }
    }
}
