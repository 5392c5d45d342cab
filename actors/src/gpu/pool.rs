//! The pool: sends work to the group that must do it, or to the one with the most room.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use actix::{Actor, Context, Handler, ResponseFuture};
use nyx_engine::ContinuationScore;

use super::messages::{Generate, Score};
use super::worker::GpuWorker;
use crate::NyxError;
use crate::observe::{ActorState, Vitals};
use crate::supervise::Supervised;

/// The actor over all groups. A group is one copy of the model.
pub struct GpuPool {
    groups: Vec<Supervised<GpuWorker>>,
    vitals: Arc<Vitals>,
}

impl GpuPool {
    pub fn new(groups: Vec<Supervised<GpuWorker>>, vitals: Arc<Vitals>) -> Self {
        Self { groups, vitals }
    }

    fn group(&self, wanted: Option<usize>) -> Result<Supervised<GpuWorker>, NyxError> {
        if let Some(index) = wanted {
            return self
                .groups
                .get(index)
                .cloned()
                .ok_or_else(|| NyxError::Internal(format!("group {index} does not exist: pool.groups has {}", self.groups.len())));
        }
        let load = |worker: &&Supervised<GpuWorker>| {
            let vitals = worker.vitals();
            let down = vitals.state() != ActorState::Running || vitals.lost.load(Ordering::Relaxed);
            (down, vitals.held.load(Ordering::Relaxed))
        };
        self.groups.iter().min_by_key(load).cloned().ok_or_else(|| NyxError::Internal("pool.groups is empty".into()))
    }
}

impl Actor for GpuPool {
    type Context = Context<Self>;
}

impl Handler<Generate> for GpuPool {
    type Result = ResponseFuture<Result<(), NyxError>>;

    fn handle(&mut self, message: Generate, _: &mut Self::Context) -> Self::Result {
        self.vitals.taken_up();
        let (group, deadline) = (self.group(message.group), message.context.answer_by());
        Box::pin(async move { group?.send_until(message, deadline).await })
    }
}

impl Handler<Score> for GpuPool {
    type Result = ResponseFuture<Result<Vec<ContinuationScore>, NyxError>>;

    fn handle(&mut self, message: Score, _: &mut Self::Context) -> Self::Result {
        self.vitals.taken_up();
        let (group, deadline) = (self.group(message.group), message.context.answer_by());
        Box::pin(async move { group?.send_until(message, deadline).await })
    }
}
