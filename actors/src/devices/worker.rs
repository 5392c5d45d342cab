//! Device workers: the actors that own a device's thread with its shard of the weights, adapters
//! and cache.

use std::sync::Arc;

use actix::{
    Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, ResponseFuture, WrapFuture,
};
use nyx_engine::{ContinuationScore, GenerateJob, ScoreJob};
use tokio::sync::oneshot;

use super::job::Job;
use super::messages::{Generate, Score};
use super::thread::Device;
use crate::NyxError;
use crate::observe::ActorMetrics;

/// The actor of a replica's first device, which receives the replica's work. The thread, its queue
/// and its sequences survive an instance that panics. A thread that has ended is restarted with the
/// next instance.
pub struct GpuWorker {
    device: Arc<Device>,
    metrics: Arc<ActorMetrics>,
}

impl GpuWorker {
    pub fn new(device: Arc<Device>, metrics: Arc<ActorMetrics>) -> Self {
        Self { device, metrics }
    }
}

impl Actor for GpuWorker {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        revive(self, &self.device, &self.metrics, context);
    }
}

/// Makes sure that the device's thread runs before the actor handles messages; stops the actor
/// otherwise.
fn revive<A: Actor<Context = Context<A>>>(
    actor: &A,
    device: &Arc<Device>,
    metrics: &Arc<ActorMetrics>,
    context: &mut A::Context,
) {
    let (device, metrics) = (Arc::clone(device), Arc::clone(metrics));
    // messages wait until the weights are loaded
    context.wait(async move { device.revive().await }.into_actor(actor).map(move |revived, _, context| {
        if let Err(error) = revived {
            tracing::error!(actor = %metrics.name, %error, "the device could not be started anew");
            context.stop();
        }
    }));
}

impl Handler<Generate> for GpuWorker {
    type Result = Result<(), NyxError>;

    fn handle(&mut self, message: Generate, _: &mut Self::Context) -> Self::Result {
        self.metrics.taken_up();
        let cancel = message.context.cancel.clone();
        let job = GenerateJob {
            prompt: message.prompt,
            cacheable_prefix: message.cacheable_prefix,
            params: message.params,
            adapter: None,
            fairness_key: message.context.fairness_key.to_string(),
            cancelled: Box::new(move || cancel.is_cancelled()),
            deadline: Some(message.context.deadline),
            sink: message.sink,
        };
        self.device.submit(Job::Generate { job, adapter: message.adapter })
    }
}

impl Handler<Score> for GpuWorker {
    type Result = ResponseFuture<Result<Vec<ContinuationScore>, NyxError>>;

    fn handle(&mut self, message: Score, _: &mut Self::Context) -> Self::Result {
        self.metrics.taken_up();
        let (sender, receiver) = oneshot::channel();
        let cancel = message.context.cancel.clone();
        let job = ScoreJob {
            prompt: message.prompt,
            cacheable_prefix: message.cacheable_prefix,
            continuations: message.continuations,
            adapter: None,
            cancelled: Box::new(move || cancel.is_cancelled()),
            // the caller has given up
            reply: Box::new(move |scores| drop(sender.send(scores))),
        };
        let submitted = self.device.submit(Job::Score { job, adapter: message.adapter });
        Box::pin(async move {
            submitted?;
            let waiting = async {
                receiver
                    .await
                    .map_err(|_| NyxError::Internal("the device dropped a scoring".into()))?
                    .map_err(NyxError::Engine)
            };
            message.context.bound("continuations were scored", waiting).await
        })
    }
}

/// The actor of a further device of a replica, whose thread follows the first device. A new
/// instance makes sure that the replica runs.
pub struct GpuShard {
    replica: Arc<Device>,
    metrics: Arc<ActorMetrics>,
}

impl GpuShard {
    pub fn new(replica: Arc<Device>, metrics: Arc<ActorMetrics>) -> Self {
        Self { replica, metrics }
    }
}

impl Actor for GpuShard {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        revive(self, &self.replica, &self.metrics, context);
    }
}
