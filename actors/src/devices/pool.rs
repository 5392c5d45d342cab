//! The pool: sends work to the required replica, or to the one with the most free capacity.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use actix::{Actor, Context, Handler, ResponseFuture};
use nyx_engine::ContinuationScore;

use super::messages::{Generate, Score};
use super::worker::GpuWorker;
use crate::NyxError;
use crate::observe::{ActorMetrics, ActorState};
use crate::supervise::ActorRef;

/// The pool of all replicas. A replica is one copy of the model.
pub struct GpuPool {
    replicas: Vec<ActorRef<GpuWorker>>,
    metrics: Arc<ActorMetrics>,
}

impl GpuPool {
    pub fn new(replicas: Vec<ActorRef<GpuWorker>>, metrics: Arc<ActorMetrics>) -> Self {
        Self { replicas, metrics }
    }

    fn replica(&self, wanted: Option<usize>) -> Result<ActorRef<GpuWorker>, NyxError> {
        if let Some(index) = wanted {
            return self.replicas.get(index).cloned().ok_or_else(|| {
                NyxError::Internal(format!(
                    "replica {index} does not exist: pool.replicas has {}",
                    self.replicas.len()
                ))
            });
        }
        let load = |worker: &&ActorRef<GpuWorker>| {
            let metrics = worker.metrics();
            let down =
                metrics.state() != ActorState::Running || metrics.lost.load(Ordering::Relaxed);
            (down, metrics.held.load(Ordering::Relaxed))
        };
        self.replicas
            .iter()
            .min_by_key(load)
            .cloned()
            .ok_or_else(|| NyxError::Internal("pool.replicas is empty".into()))
    }
}

impl Actor for GpuPool {
    type Context = Context<Self>;
}

impl Handler<Generate> for GpuPool {
    type Result = ResponseFuture<Result<(), NyxError>>;

    fn handle(&mut self, message: Generate, _: &mut Self::Context) -> Self::Result {
        self.metrics.taken_up();
        let (replica, deadline) = (self.replica(message.replica), message.context.answer_by());
        Box::pin(async move { replica?.send_until(message, deadline).await })
    }
}

impl Handler<Score> for GpuPool {
    type Result = ResponseFuture<Result<Vec<ContinuationScore>, NyxError>>;

    fn handle(&mut self, message: Score, _: &mut Self::Context) -> Self::Result {
        self.metrics.taken_up();
        let (replica, deadline) = (self.replica(message.replica), message.context.answer_by());
        Box::pin(async move { replica?.send_until(message, deadline).await })
    }
}
