//! Batched recording: decisions that arrive while a transaction commits share the next one, since
//! a commit waits for the disk.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::messages::RecordDecision;
use super::store::PhoebeStore;
use crate::NyxError;

/// Maximum number of decisions per transaction.
const MAX_BATCH: usize = 64;

type Waiting = (RecordDecision, oneshot::Sender<Result<(), NyxError>>);

/// Writes decisions in batches. Cheap to clone; all clones are one. The number of waiting decisions
/// is bounded by the mailbox of the phoebe actor.
#[derive(Clone)]
pub(super) struct DecisionWriter {
    store: PhoebeStore,
    queue: Arc<Mutex<Queue>>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// A task is writing, and takes what waits when it has committed.
    writing: bool,
    /// Transactions and decisions so far.
    counts: (u64, u64),
}

/// Ends the writing, also by a panic: then the next decision starts another task.
struct Writing<'a>(&'a Mutex<Queue>);

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        lock(self.0).writing = false;
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DecisionWriter {
    pub(super) fn new(store: PhoebeStore) -> Self {
        Self { store, queue: Arc::default() }
    }

    /// Records a decision; returns when it is durable. The write goes on if the caller stops
    /// waiting.
    ///
    /// # Errors
    /// The database did not commit it.
    pub(super) async fn record(&self, message: RecordDecision) -> Result<(), NyxError> {
        let (sender, recorded) = oneshot::channel();
        let start = {
            let mut queue = lock(&self.queue);
            queue.waiting.push_back((message, sender));
            !std::mem::replace(&mut queue.writing, true)
        };
        if start {
            let writer = self.clone();
            actix_rt::spawn(async move { writer.write().await });
        }
        recorded
            .await
            .map_err(|_| NyxError::Internal("the recording of a decision broke off".into()))?
    }

    /// Number of transactions, and of decisions written in them.
    #[cfg(test)]
    pub(super) fn counts(&self) -> (u64, u64) {
        lock(&self.queue).counts
    }

    fn count(&self, transactions: u64, decisions: u64) {
        let mut queue = lock(&self.queue);
        queue.counts = (queue.counts.0 + transactions, queue.counts.1 + decisions);
    }

    /// Writes batches until nothing waits.
    async fn write(&self) {
        let writing = Writing(&self.queue);
        loop {
            let batch: Vec<Waiting> = {
                let mut queue = lock(&self.queue);
                if queue.waiting.is_empty() {
                    // under the lock, so that no decision is left behind
                    queue.writing = false;
                    std::mem::forget(writing);
                    return;
                }
                let count = queue.waiting.len().min(MAX_BATCH);
                queue.waiting.drain(..count).collect()
            };
            let (messages, senders): (Vec<RecordDecision>, Vec<_>) = batch.into_iter().unzip();
            let count = messages.len() as u64;
            if count > 1 && self.store.record_all(&messages).await.is_ok() {
                self.count(1, count);
                for sender in senders {
                    // a caller that stopped waiting needs no answer
                    let _ = sender.send(Ok(()));
                }
                continue;
            }
            // one by one, so that each has its own result
            self.count(count, count);
            for (message, sender) in messages.into_iter().zip(senders) {
                let _ = sender.send(self.store.record(&message).await);
            }
        }
    }
}
