//! The embedding thread: owns the embedder, so that neither actors nor device threads ever wait for it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use nyx_engine::EngineError;
use nyx_engine::embed::Embedder;
use tokio::sync::oneshot;

use super::messages::Embeddings;
use crate::NyxError;
use crate::supervise::panic_message;

struct Job {
    texts: Vec<String>,
    reply: oneshot::Sender<Result<Embeddings, NyxError>>,
}

/// The handle; the thread ends with the last one.
#[derive(Clone)]
pub struct EmbeddingService {
    inner: Arc<Inner>,
}

struct Inner {
    jobs: Mutex<Option<SyncSender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    dimension: usize,
    queue: usize,
}

impl EmbeddingService {
    /// Starts the thread around a loaded embedder.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(embedder: Embedder, queue: usize) -> Result<Self, EngineError> {
        let (jobs, receiver) = sync_channel(queue);
        let dimension = embedder.dimension();
        let thread = std::thread::Builder::new().name("nyx-embed".into()).spawn(move || run(&embedder, &receiver));
        let thread = thread.map_err(|error| EngineError::Device { device: "nyx-embed".into(), reason: error.to_string() })?;
        Ok(Self { inner: Arc::new(Inner { jobs: Mutex::new(Some(jobs)), thread: Mutex::new(Some(thread)), dimension, queue }) })
    }

    /// Length of a vector.
    pub fn dimension(&self) -> usize {
        self.inner.dimension
    }

    /// One unit vector a text.
    ///
    /// # Errors
    /// [`NyxError::Overloaded`] when the queue is full.
    pub async fn embed(&self, texts: Vec<String>) -> Result<Embeddings, NyxError> {
        let (reply, answer) = oneshot::channel();
        let sent = match &*self.inner.jobs.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(jobs) => jobs.try_send(Job { texts, reply }),
            None => return Err(NyxError::ShuttingDown),
        };
        match sent {
            Ok(()) => answer.await.map_err(|_| NyxError::Internal("the embedding thread dropped a job".into()))?,
            Err(TrySendError::Full(_)) => Err(NyxError::Overloaded { capacity: self.inner.queue, retry_after_s: 1 }),
            Err(TrySendError::Disconnected(_)) => Err(NyxError::Internal("the embedding thread has ended".into())),
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // the thread ends when nobody can send any more
        drop(self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take()
            && thread.join().is_err()
        {
            tracing::error!("the embedding thread ended in a panic");
        }
    }
}

fn run(embedder: &Embedder, jobs: &Receiver<Job>) {
    while let Ok(job) = jobs.recv() {
        if job.reply.is_closed() {
            continue;
        }
        let texts: Vec<&str> = job.texts.iter().map(String::as_str).collect();
        let embedded = catch_unwind(AssertUnwindSafe(|| embedder.embed(&texts)));
        let answer = match embedded {
            Ok(Ok((vectors, tokens))) => Ok(Embeddings { vectors, tokens }),
            Ok(Err(error)) => Err(error.into()),
            Err(payload) => Err(NyxError::Internal(format!("the embedder {}", panic_message(&*payload)))),
        };
        // nobody waits any more: nothing to tell
        drop(job.reply.send(answer));
    }
}
