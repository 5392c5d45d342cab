//! Admission of requests: bounded numbers of requests in flight, of deferred answers and of
//! decisions being recorded; deadlines; and the end of them all at shutdown.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::options::RequestOptions;
use crate::{NyxError, RequestContext};

/// Maximum number of deferred answers that are generated or waiting at a time.
const MAX_DEFERRED: usize = 16;
/// Maximum number of decisions being recorded at a time; a further one waits up to its deadline.
pub(crate) const MAX_RECORDING: usize = 256;

/// The right to one request in flight; returned when dropped.
#[derive(Debug)]
pub struct Permit(#[allow(dead_code, reason = "held, never read")] OwnedSemaphorePermit);

/// Admits requests. Cheap to clone; all clones are one.
#[derive(Debug, Clone)]
pub struct Admission {
    options: RequestOptions,
    in_flight: Arc<Semaphore>,
    /// Permits of deferred answers.
    pub(crate) deferred: Arc<Semaphore>,
    /// Permits of decisions being recorded.
    pub(crate) recording: Arc<Semaphore>,
    /// Cancelled once no new request is admitted.
    draining: CancellationToken,
    /// Cancels every request in flight.
    abort: CancellationToken,
}

impl Admission {
    /// Admits up to `options.max_in_flight` requests at a time.
    pub fn new(options: RequestOptions) -> Self {
        Self {
            in_flight: Arc::new(Semaphore::new(options.max_in_flight)),
            deferred: Arc::new(Semaphore::new(MAX_DEFERRED)),
            recording: Arc::new(Semaphore::new(MAX_RECORDING)),
            draining: CancellationToken::new(),
            abort: CancellationToken::new(),
            options,
        }
    }

    /// Admits a request; the permit is held until its last byte is sent.
    ///
    /// # Errors
    /// [`NyxError::Overloaded`] when all permits are taken, [`NyxError::ShuttingDown`].
    pub fn admit(&self) -> Result<Permit, NyxError> {
        if self.draining.is_cancelled() {
            return Err(NyxError::ShuttingDown);
        }
        let RequestOptions { max_in_flight: capacity, retry_after_s, .. } = self.options;
        let permit = Arc::clone(&self.in_flight).try_acquire_owned();
        permit.map(Permit).map_err(|_| NyxError::Overloaded { capacity, retry_after_s })
    }

    /// The deadline of requests that name none.
    pub fn default_deadline(&self) -> Duration {
        Duration::from_millis(self.options.default_deadline_ms)
    }

    /// A context with the caller's deadline, or the default one.
    ///
    /// # Errors
    /// [`NyxError::InvalidRequest`] when it is 0 or above `requests.max_deadline_ms`.
    pub fn context(&self, deadline_ms: Option<u64>) -> Result<RequestContext, NyxError> {
        let max = self.options.max_deadline_ms;
        let budget = deadline_ms.unwrap_or(self.options.default_deadline_ms);
        if !(1..=max).contains(&budget) {
            return Err(NyxError::invalid(
                "deadline_ms",
                format!("deadline_ms is {budget}, expected 1 to {max}"),
            ));
        }
        Ok(RequestContext {
            cancel: self.abort.child_token(),
            ..RequestContext::new(Duration::from_millis(budget))
        })
    }

    /// A context with a deadline of the program's own, at most `requests.max_deadline_ms`.
    pub(crate) fn internal_context(&self, deadline_ms: u64) -> RequestContext {
        let budget = Duration::from_millis(deadline_ms.min(self.options.max_deadline_ms));
        RequestContext { cancel: self.abort.child_token(), ..RequestContext::new(budget) }
    }

    /// Cancelled when the shutdown begins: for work that lives longer than a request.
    pub fn draining(&self) -> CancellationToken {
        self.draining.child_token()
    }

    /// Whether the shutdown has begun.
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// From now on no request is admitted.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    /// Admits no further request, waits up to `grace` for those in flight, then cancels them and
    /// waits up to `grace` for their end.
    pub(crate) async fn close(&self, grace: Duration) {
        self.drain();
        if tokio::time::timeout(grace, self.idle()).await.is_ok() {
            return;
        }
        tracing::warn!(
            "requests are still running at the end of the grace period: cancelling them"
        );
        self.abort.cancel();
        // cancelled sequences end at the next step, and are recorded
        if tokio::time::timeout(grace, self.idle()).await.is_err() {
            tracing::error!("cancelled requests did not end");
        }
    }

    /// Resolves when nothing is in flight, deferred or being recorded.
    async fn idle(&self) {
        let permits = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let _requests = self.in_flight.acquire_many(permits(self.options.max_in_flight)).await;
        let _deferred = self.deferred.acquire_many(permits(MAX_DEFERRED)).await;
        // abandoned answers may still be on their way to the record
        let _recording = self.recording.acquire_many(permits(MAX_RECORDING)).await;
    }
}
