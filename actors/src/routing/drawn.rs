//! A decision as a draw among candidates.

use nyx_domain::{Decision, STOPPED_BY_POLICY, Status};
use nyx_specialists::bandit::{self, Drawn};

/// The candidates of a draw and the drawn one.
#[derive(Debug, Clone, PartialEq)]
pub struct DrawnDecision {
    /// The candidates, in the order of their names.
    pub names: Vec<String>,
    /// Each one's logit without its trait weight.
    pub unweighted: Vec<f64>,
    pub chosen: usize,
    /// The propensity of that specialist.
    pub propensity: f64,
    /// The propensity of the adapter generation; 1 without a canary.
    pub generation_propensity: f64,
    /// The category of the question: the specialist that would have been chosen without trait
    /// weights.
    pub kind: String,
}

impl DrawnDecision {
    /// `None` if there was no draw (the caller chose, a crisis was rerouted), or if the drawn
    /// specialist did not answer.
    pub fn of(decision: &Decision) -> Option<Self> {
        let answered = matches!(decision.status, Status::Answered | Status::Partial);
        let refused = decision.usage.total_tokens == 0
            && decision.answers.iter().any(|answer| answer.finish_reason == STOPPED_BY_POLICY);
        let propensity = *decision.propensities.get(&decision.specialist)?;
        if !answered || refused || !(propensity > 0.0 && propensity <= 1.0) {
            return None;
        }
        let names: Vec<String> = decision.logits.keys().cloned().collect();
        let weight = |name: &str| decision.trait_weights.get(name).copied().unwrap_or(0.0);
        let unweighted: Vec<f64> =
            decision.logits.iter().map(|(name, logit)| logit - weight(name)).collect();
        let chosen = names.iter().position(|name| *name == decision.specialist)?;
        let kind = names.get(bandit::best(&unweighted)?)?.clone();
        let canary = decision.trace.canary.as_ref().map(|canary| canary.propensity);
        let generation_propensity = canary.filter(|p| *p > 0.0 && *p <= 1.0).unwrap_or(1.0);
        Some(Self { names, unweighted, chosen, propensity, generation_propensity, kind })
    }

    /// The input of the bandit learner. The generation is drawn after the specialist and does not
    /// depend on the weights, so it has no part in their gradient.
    pub fn drawn(&self) -> Drawn<'_> {
        Drawn { unweighted: &self.unweighted, chosen: self.chosen, propensity: self.propensity }
    }
}
