//! Phoebe: the database of record and the actor that owns it.

mod entities;
mod feedback;
mod memories;
pub mod messages;
mod options;
mod readiness;
pub mod search;
mod sqlite;
mod store;
#[cfg(test)]
mod tests;
mod transaction;
mod truths;
mod weights;

use std::collections::BTreeMap;
use std::sync::Arc;

use actix::{Actor, Context, Handler, ResponseFuture};

use crate::NyxError;
use crate::observe::ActorMetrics;
use messages::{
    GetDecision, ListDecisions, ListFeedback, ListJudged, ListOpenForecasts, ListTraitWeightChanges, LoadTraitWeights, NamedDecisions,
    Ping, RecordDecision, RecordFeedback, StoreTraitWeight,
};
use nyx_domain::{Decision, Feedback, FeedbackResult, OpenForecast, TraitWeightChange};

pub use options::PhoebeOptions;
pub use store::PhoebeStore;
pub(crate) use store::now;
pub(crate) use transaction::WriteTransaction;

/// Refuses NUL characters, which PostgreSQL cannot store in text or JSON; both databases must
/// accept the same input.
pub(crate) fn storable(param: &str, text: &str) -> Result<(), NyxError> {
    match text.find('\0') {
        Some(at) => Err(NyxError::invalid(param, format!("{param} holds a NUL character at byte {at}, expected text without any"))),
        None => Ok(()),
    }
}

/// Maximum length in bytes of a name that is looked up, such as a conversation's: it must fit into
/// an index entry.
const MAX_NAME: usize = 256;

/// As [`storable`], with a length limit for names.
pub(crate) fn storable_name(param: &str, name: &str) -> Result<(), NyxError> {
    if name.len() > MAX_NAME {
        return Err(NyxError::invalid(param, format!("{param} has {} bytes, expected at most {MAX_NAME}", name.len())));
    }
    storable(param, name)
}

/// The actor: forwards each message to the store.
pub struct Phoebe {
    store: PhoebeStore,
    metrics: Arc<ActorMetrics>,
}

impl Phoebe {
    pub fn new(store: PhoebeStore, metrics: Arc<ActorMetrics>) -> Self {
        Self { store, metrics }
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

handle!(RecordDecision, (), |store, request| store.record(request));
handle!(GetDecision, Decision, |store, request| store.decision(request.0));
handle!(ListDecisions, Vec<Decision>, |store, request| store.decisions(request));
handle!(LoadTraitWeights, BTreeMap<String, f64>, |store, request| async move { store.trait_weights(&request.0).await });
handle!(ListTraitWeightChanges, Vec<TraitWeightChange>, |store, request| store.trait_weight_changes(request));
handle!(StoreTraitWeight, TraitWeightChange, |store, request| store.store_trait_weight(request));
handle!(NamedDecisions, Vec<Decision>, |store, request| store.named(request.0));
handle!(RecordFeedback, Vec<FeedbackResult>, |store, request| store.record_feedback(request.entries, request.learning));
handle!(ListFeedback, Vec<Feedback>, |store, request| store.feedback_of(request.0));
handle!(ListOpenForecasts, Vec<OpenForecast>, |store, request| store.open_forecasts(request));
handle!(ListJudged, Vec<(Decision, Feedback)>, |store, _request| store.judged());
handle!(Ping, (), |store, _request| async move { store.can_write().await });
