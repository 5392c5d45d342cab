//! GPU workers: the actors that own a device's thread, and with it its shard of the weights, adapters and cache.

use std::sync::Arc;

use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, ResponseFuture, WrapFuture};
use nyx_engine::{ContinuationScore, GenerateJob, ScoreJob};
use tokio::sync::oneshot;

use super::messages::{Generate, Score};
use super::thread::{Device, Job};
use crate::NyxError;
use crate::observe::Vitals;

/// The actor of a group's leading device, which takes the group's work. The thread outlives an instance that panics: its queue and its sequences survive. One that has ended is
/// started anew with the next instance.
pub struct GpuWorker {
    device: Arc<Device>,
    vitals: Arc<Vitals>,
}

impl GpuWorker {
    pub fn new(device: Arc<Device>, vitals: Arc<Vitals>) -> Self {
        Self { device, vitals }
    }
}

impl Actor for GpuWorker {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        revive(self, &self.device, &self.vitals, context);
    }
}

/// Sees to it that the device's thread lives, its group's too, before the actor takes messages; an actor without one stops.
fn revive<A: Actor<Context = Context<A>>>(actor: &A, device: &Arc<Device>, vitals: &Arc<Vitals>, context: &mut A::Context) {
    let (device, vitals) = (Arc::clone(device), Arc::clone(vitals));
    // messages wait until the weights are there
    context.wait(async move { device.revive().await }.into_actor(actor).map(move |revived, _, context| {
        if let Err(error) = revived {
            tracing::error!(actor = %vitals.name, %error, "the device could not be started anew");
            context.stop();
        }
    }));
}

impl Handler<Generate> for GpuWorker {
    type Result = Result<(), NyxError>;

    fn handle(&mut self, message: Generate, _: &mut Self::Context) -> Self::Result {
        self.vitals.taken_up();
        let cancel = message.context.cancel.clone();
        let job = GenerateJob {
            prompt: message.prompt,
            cacheable_prefix: message.cacheable_prefix,
            params: message.params,
            adapter: None,
            client: message.context.client.to_string(),
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
        self.vitals.taken_up();
        let (sender, receiver) = oneshot::channel();
        let cancel = message.context.cancel.clone();
        let job = ScoreJob {
            prompt: message.prompt,
            cacheable_prefix: message.cacheable_prefix,
            continuations: message.continuations,
            adapter: None,
            cancelled: Box::new(move || cancel.is_cancelled()),
            // nobody waits any more: nothing to tell
            reply: Box::new(move |scores| drop(sender.send(scores))),
        };
        let submitted = self.device.submit(Job::Score { job, adapter: message.adapter });
        Box::pin(async move {
            submitted?;
            let waiting =
                async { receiver.await.map_err(|_| NyxError::Internal("the device dropped a scoring".into()))?.map_err(NyxError::Engine) };
            message.context.bound("continuations were scored", waiting).await
        })
    }
}

/// The actor of a further device of a group: what its thread does, the leading one says. A new instance sees to it that the group lives.
pub struct GpuShard {
    group: Arc<Device>,
    vitals: Arc<Vitals>,
}

impl GpuShard {
    pub fn new(group: Arc<Device>, vitals: Arc<Vitals>) -> Self {
        Self { group, vitals }
    }
}

impl Actor for GpuShard {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        revive(self, &self.group, &self.vitals, context);
    }
}
