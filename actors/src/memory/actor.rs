//! The memory actor: hands each message to the service, and maintains the store.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{
    Actor, ActorFutureExt as _, AsyncContext, Context, Handler, ResponseFuture, WrapFuture as _,
};
use nyx_domain::Memory;

use super::forget::RETAIN_EVERY;
use super::messages::{
    Embed, Embeddings, Forget, Forgotten, MemoryHit, Recall, Remember, RememberMany,
};
use super::service::MemoryService;
use crate::NyxError;
use crate::observe::ActorMetrics;

/// Interval between checks for changes that the Qdrant server lacks.
const DRAIN_EVERY: Duration = Duration::from_secs(5);

/// The actor.
pub struct MemoryKeeper {
    service: MemoryService,
    metrics: Arc<ActorMetrics>,
}

impl MemoryKeeper {
    pub fn new(service: MemoryService, metrics: Arc<ActorMetrics>) -> Self {
        Self { service, metrics }
    }
}

impl Actor for MemoryKeeper {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        let service = self.service.clone();
        let maintenance = async move {
            let mut retained: Option<Instant> = None;
            loop {
                if retained.is_none_or(|at| at.elapsed() >= RETAIN_EVERY) {
                    match service.retain().await {
                        Ok(()) => retained = Some(Instant::now()),
                        Err(error) => {
                            tracing::warn!(%error, "deleting expired memories failed; retrying later")
                        }
                    }
                }
                service.index.truncate_log().await;
                if let Some(server) = &service.server
                    && let Err(error) = server.drain(&service.index).await
                {
                    tracing::warn!(%error, "updating the Qdrant server failed; retrying later");
                }
                tokio::time::sleep(DRAIN_EVERY).await;
            }
        };
        context.spawn(maintenance.into_actor(self).map(|(), _, _| ()));
    }
}

impl Handler<Remember> for MemoryKeeper {
    type Result = ResponseFuture<Result<Memory, NyxError>>;

    fn handle(&mut self, request: Remember, _: &mut Self::Context) -> Self::Result {
        self.metrics.taken_up();
        let service = self.service.clone();
        Box::pin(async move {
            let kept = service.remember(request.context, vec![request.memory]).await?.pop();
            kept.ok_or_else(|| NyxError::Internal("a memory was stored but not returned".into()))
        })
    }
}

impl Handler<RememberMany> for MemoryKeeper {
    type Result = ResponseFuture<Result<Vec<Memory>, NyxError>>;

    fn handle(&mut self, request: RememberMany, _: &mut Self::Context) -> Self::Result {
        self.metrics.taken_up();
        let service = self.service.clone();
        Box::pin(async move { service.remember(request.context, request.memories).await })
    }
}

impl Handler<Forget> for MemoryKeeper {
    type Result = ResponseFuture<Result<Forgotten, NyxError>>;

    fn handle(&mut self, request: Forget, _: &mut Self::Context) -> Self::Result {
        self.metrics.taken_up();
        let service = self.service.clone();
        Box::pin(async move { service.forget(request).await })
    }
}

impl Handler<Recall> for MemoryKeeper {
    type Result = ResponseFuture<Result<Vec<MemoryHit>, NyxError>>;

    fn handle(&mut self, request: Recall, _: &mut Self::Context) -> Self::Result {
        self.metrics.taken_up();
        let service = self.service.clone();
        Box::pin(async move { service.recall(request).await })
    }
}

impl Handler<Embed> for MemoryKeeper {
    type Result = ResponseFuture<Result<Embeddings, NyxError>>;

    fn handle(&mut self, request: Embed, _: &mut Self::Context) -> Self::Result {
        self.metrics.taken_up();
        let service = self.service.clone();
        Box::pin(async move { service.embed(request.context, request.texts).await })
    }
}
