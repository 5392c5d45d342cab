//! The embedding thread owns the embedder, so that neither actors nor device threads wait for it.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use nyx_engine::EngineError;
use nyx_engine::embed::Embedder;
use tokio::sync::oneshot;

use super::messages::Embeddings;
use crate::NyxError;
use crate::phoebe::search::EmbedderId;
use crate::supervise::panic_message;

struct Job {
    texts: Vec<String>,
    reply: oneshot::Sender<Result<Embeddings, NyxError>>,
}

/// A handle; the thread ends when the last handle is dropped.
#[derive(Clone)]
pub struct EmbeddingService {
    inner: Arc<Inner>,
}

struct Inner {
    jobs: Mutex<Option<SyncSender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    id: EmbedderId,
    queue: usize,
}

impl EmbeddingService {
    /// Starts the thread with a loaded embedder.
    ///
    /// # Errors
    /// The operating system cannot start a thread.
    pub fn start(embedder: Embedder, queue: usize) -> Result<Self, EngineError> {
        let (jobs, receiver) = sync_channel(queue);
        let id =
            EmbedderId { sha256: embedder.digest().to_owned(), dimension: embedder.dimension() };
        let thread = std::thread::Builder::new()
            .name("nyx-embed".into())
            .spawn(move || run(&embedder, &receiver, queue));
        let thread = thread.map_err(|error| EngineError::Device {
            device: "nyx-embed".into(),
            reason: error.to_string(),
        })?;
        Ok(Self {
            inner: Arc::new(Inner {
                jobs: Mutex::new(Some(jobs)),
                thread: Mutex::new(Some(thread)),
                id,
                queue,
            }),
        })
    }

    /// The dimension of the vectors.
    pub fn dimension(&self) -> usize {
        self.inner.id.dimension
    }

    /// The id of the embedding model.
    pub fn id(&self) -> EmbedderId {
        self.inner.id.clone()
    }

    /// One unit vector per text.
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
            Ok(()) => answer
                .await
                .map_err(|_| NyxError::Internal("the embedding thread dropped a job".into()))?,
            Err(TrySendError::Full(_)) => {
                Err(NyxError::Overloaded { capacity: self.inner.queue, retry_after_s: 1 })
            }
            Err(TrySendError::Disconnected(_)) => {
                Err(NyxError::Internal("the embedding thread has ended".into()))
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // the thread ends when all senders are dropped
        drop(self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take()
            && thread.join().is_err()
        {
            tracing::error!("the embedding thread ended in a panic");
        }
    }
}

/// Number of texts embedded from one job before the next job runs.
const BATCH: usize = 32;

/// A job in progress: its texts are embedded in order of length to minimise padding.
struct Pending {
    job: Job,
    /// Indices of the remaining texts; the last is the next. The longest texts come first, so that
    /// a job reaches its peak memory use at once.
    left: Vec<usize>,
    done: Embeddings,
}

/// Runs jobs round-robin, one batch each: a large job does not block others, and a job whose
/// receiver was dropped is discarded.
fn run(embedder: &Embedder, jobs: &Receiver<Job>, most: usize) {
    let mut waiting: VecDeque<Pending> = VecDeque::new();
    loop {
        if waiting.is_empty() {
            let Ok(job) = jobs.recv() else { return };
            waiting.push_back(Pending::new(job));
        }
        while waiting.len() < most
            && let Ok(job) = jobs.try_recv()
        {
            waiting.push_back(Pending::new(job));
        }
        let Some(mut pending) = waiting.pop_front() else { continue };
        if pending.job.reply.is_closed() {
            continue;
        }
        match pending.embed(embedder) {
            Ok(false) => waiting.push_back(pending),
            // the receiver may be gone: the result is dropped then
            Ok(true) => drop(pending.job.reply.send(Ok(pending.done))),
            Err(error) => drop(pending.job.reply.send(Err(error))),
        }
    }
}

impl Pending {
    fn new(job: Job) -> Self {
        let mut left: Vec<usize> = (0..job.texts.len()).collect();
        left.sort_by_key(|&index| job.texts[index].len());
        Self {
            done: Embeddings { vectors: vec![Vec::new(); job.texts.len()], tokens: 0 },
            left,
            job,
        }
    }

    /// Embeds the next batch; true when all texts are done.
    fn embed(&mut self, embedder: &Embedder) -> Result<bool, NyxError> {
        let batch = self.left.split_off(self.left.len().saturating_sub(BATCH));
        let texts: Vec<&str> = batch.iter().map(|&index| self.job.texts[index].as_str()).collect();
        match catch_unwind(AssertUnwindSafe(|| embedder.embed(&texts))) {
            Ok(Ok((vectors, tokens))) => {
                for (index, vector) in batch.into_iter().zip(vectors) {
                    self.done.vectors[index] = vector;
                }
                self.done.tokens += tokens;
                Ok(self.left.is_empty())
            }
            Ok(Err(error)) => Err(error.into()),
            Err(payload) => {
                Err(NyxError::Internal(format!("the embedder {}", panic_message(&*payload))))
            }
        }
    }
}
