//! Phoebe: the database of record and the actor that owns it.

mod batch;
mod decisions;
mod entities;
mod feedback;
mod limit;
mod memories;
pub mod messages;
mod options;
mod readiness;
pub mod search;
mod sqlite;
mod store;
#[cfg(test)]
mod tests;
mod text;
mod transaction;
mod truths;
mod weights;
mod write_check;

use std::collections::BTreeMap;
use std::sync::Arc;

use actix::{Actor, Context, Handler, ResponseFuture};
use nyx_domain::{Decision, Feedback, FeedbackResult, OpenForecast, TraitWeightChange};

use crate::NyxError;
use crate::observe::ActorMetrics;
use batch::DecisionWriter;
use messages::{
    GetDecision, ListDecisions, ListFeedback, ListJudged, ListOpenForecasts,
    ListTraitWeightChanges, LoadTraitWeights, NamedDecisions, Ping, RecordDecision, RecordFeedback,
    StoreTraitWeight,
};

pub use options::PhoebeOptions;
pub use store::PhoebeStore;
pub(crate) use store::now;
pub(crate) use text::{storable, storable_name};
pub(crate) use transaction::WriteTransaction;

/// The actor: forwards each message to the store.
pub struct Phoebe {
    store: PhoebeStore,
    writer: DecisionWriter,
    metrics: Arc<ActorMetrics>,
}

impl Phoebe {
    pub fn new(store: PhoebeStore, metrics: Arc<ActorMetrics>) -> Self {
        Self { writer: DecisionWriter::new(store.clone()), store, metrics }
    }
}

impl Actor for Phoebe {
    type Context = Context<Self>;
}

/// Defines one handler per message, which runs the store's operation in its own future.
macro_rules! handle {
    ($message:ty, $answer:ty, |$store:ident, $request:ident| $work:expr) => {
        impl Handler<$message> for Phoebe {
            type Result = ResponseFuture<Result<$answer, NyxError>>;

            fn handle(&mut self, $request: $message, _: &mut Self::Context) -> Self::Result {
                self.metrics.taken_up();
                let $store = self.store.clone();
                Box::pin(async move { $work.await })
            }
        }
    };
}

impl Handler<RecordDecision> for Phoebe {
    type Result = ResponseFuture<Result<(), NyxError>>;

    fn handle(&mut self, request: RecordDecision, _: &mut Self::Context) -> Self::Result {
        self.metrics.taken_up();
        let writer = self.writer.clone();
        Box::pin(async move { writer.record(request).await })
    }
}

handle!(GetDecision, Decision, |store, request| store.decision(request.0));
handle!(ListDecisions, Vec<Decision>, |store, request| store.decisions(request));
handle!(LoadTraitWeights, BTreeMap<String, f64>, |store, request| async move { store.trait_weights(&request.0).await });
handle!(ListTraitWeightChanges, Vec<TraitWeightChange>, |store, request| store
    .trait_weight_changes(request));
handle!(StoreTraitWeight, TraitWeightChange, |store, request| store.store_trait_weight(request));
handle!(NamedDecisions, Vec<Decision>, |store, request| store.named(request.0));
handle!(RecordFeedback, Vec<FeedbackResult>, |store, request| store
    .record_feedback(request.entries, request.learning));
handle!(ListFeedback, Vec<Feedback>, |store, request| store.feedback_of(request.0));
handle!(ListOpenForecasts, Vec<OpenForecast>, |store, request| store.open_forecasts(request));
handle!(ListJudged, Vec<(Decision, Feedback)>, |store, _request| store.judged());
handle!(Ping, (), |store, _request| async move { store.can_write().await });
