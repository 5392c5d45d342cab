//! Use of the asynchronous runtime.

use crate::NyxError;

/// Runs blocking work off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, NyxError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| NyxError::Internal(error.to_string()))
}
