//! The orchestrator actor: hands each message to the state.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use actix::{Actor, Context, Handler, ResponseFuture};
use nyx_domain::{Decision, TraitWeightChange};
use tracing::Instrument as _;

use super::messages::{Ask, Route, Routing, TraitWeights, TraitWeightsMoved, UpdateTraitWeight};
use super::state::OrchestratorState;
use crate::NyxError;
use crate::observe::ActorMetrics;
use crate::supervise::SEND_LIMIT;

/// The actor that answers requests.
pub struct Orchestrator {
    state: Arc<OrchestratorState>,
    metrics: Arc<ActorMetrics>,
}

impl Orchestrator {
    pub fn new(state: Arc<OrchestratorState>, metrics: Arc<ActorMetrics>) -> Self {
        Self { state, metrics }
    }
}

impl Actor for Orchestrator {
    type Context = Context<Self>;
}

impl Handler<Ask> for Orchestrator {
    type Result = ResponseFuture<Result<Box<Decision>, NyxError>>;

    fn handle(&mut self, message: Ask, _: &mut Self::Context) -> Self::Result {
        self.metrics.taken_up();
        let state = Arc::clone(&self.state);
        let span = message.context.span.clone();
        Box::pin(async move { state.ask(message).await }.instrument(span))
    }
}

impl Handler<UpdateTraitWeight> for Orchestrator {
    type Result = ResponseFuture<Result<TraitWeightChange, NyxError>>;

    fn handle(&mut self, message: UpdateTraitWeight, _: &mut Self::Context) -> Self::Result {
        self.metrics.taken_up();
        let state = Arc::clone(&self.state);
        Box::pin(async move { state.update_trait_weight(message.0).await })
    }
}

impl Handler<TraitWeightsMoved> for Orchestrator {
    type Result = ResponseFuture<Result<(), NyxError>>;

    fn handle(&mut self, message: TraitWeightsMoved, _: &mut Self::Context) -> Self::Result {
        self.metrics.taken_up();
        let state = Arc::clone(&self.state);
        Box::pin(async move { state.trait_weights_moved(&message.0).await })
    }
}

impl Handler<TraitWeights> for Orchestrator {
    type Result = ResponseFuture<Result<BTreeMap<String, f64>, NyxError>>;

    fn handle(&mut self, _: TraitWeights, _: &mut Self::Context) -> Self::Result {
        self.metrics.taken_up();
        let state = Arc::clone(&self.state);
        Box::pin(async move { Ok(state.fresh_weights(Instant::now() + SEND_LIMIT).await) })
    }
}

impl Handler<Route> for Orchestrator {
    type Result = ResponseFuture<Result<Routing, NyxError>>;

    fn handle(&mut self, message: Route, _: &mut Self::Context) -> Self::Result {
        self.metrics.taken_up();
        let state = Arc::clone(&self.state);
        Box::pin(async move {
            let trait_weights = state.fresh_weights(message.context.deadline).await;
            // no specialist is drawn
            Ok(state
                .score_candidates(&message.context, &message.question, &trait_weights, 0.0)
                .await?
                .0)
        })
    }
}
