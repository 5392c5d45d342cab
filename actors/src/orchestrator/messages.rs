//! Messages of the orchestrator.

use std::collections::BTreeMap;

use actix::Message;
use nyx_domain::{Decision, StreamEvent, TraitWeightChange};
use tokio::sync::mpsc;

use crate::phoebe::messages::StoreTraitWeight;
use crate::validation::ValidQuestion;
use crate::{NyxError, RequestContext};

/// Routes a question, has it answered and records the decision.
#[derive(Message)]
#[rtype(result = "Result<Box<Decision>, NyxError>")]
pub struct Ask {
    pub context: RequestContext,
    pub question: ValidQuestion,
    pub events: Option<mpsc::Sender<StreamEvent>>,
}

/// Notifies of trait weights that feedback changed, on record already.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), NyxError>")]
pub struct TraitWeightsMoved(pub Vec<TraitWeightChange>);

/// Sets the trait weight of a specialist. Otherwise weights change only by feedback
/// ([`RecordFeedback`](crate::phoebe::messages::RecordFeedback)).
#[derive(Debug, Message)]
#[rtype(result = "Result<TraitWeightChange, NyxError>")]
pub struct UpdateTraitWeight(pub StoreTraitWeight);

/// Every specialist's weight, 0 without one.
#[derive(Debug, Message)]
#[rtype(result = "Result<BTreeMap<String, f64>, NyxError>")]
pub struct TraitWeights;

/// Scores the specialists for a question without an answer.
#[derive(Debug, Message)]
#[rtype(result = "Result<Routing, NyxError>")]
pub struct Route {
    pub context: RequestContext,
    pub question: String,
}

/// The scores of the candidates for a question, by name. Empty where the caller chose.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Routing {
    /// The base model's score of each, minus its content-free score; empty where they came too
    /// late.
    pub scores: BTreeMap<String, f64>,
    /// Similarity of the question to each one's examples; empty where the scores alone decide.
    pub similarities: BTreeMap<String, f64>,
    /// The similarity times its scale (without one the score), plus the trait weight: the
    /// propensities follow from these.
    pub logits: BTreeMap<String, f64>,
    pub propensities: BTreeMap<String, f64>,
    pub decide_ms: f64,
}

impl Routing {
    /// The candidate with the highest logit.
    pub fn best(&self) -> Option<&str> {
        self.logits.iter().max_by(|a, b| a.1.total_cmp(b.1)).map(|(name, _)| name.as_str())
    }
}
