//! Forecasting: the probability that the answer states, or that the first of two choices has, pooled with further samples and the caller's prior.

use std::time::Duration;

use nyx_domain::Question;

use super::{SpecialistAnswer, SpecialistParts};
use crate::RequestContext;

/// With less time than this, nothing is sampled beside the answer.
const SAMPLES_TAKE: Duration = Duration::from_secs(10);

impl SpecialistParts {
    /// Answers that are made: those that are wanted, and, of a specialist that pools several samples into a forecast, others beside them.
    pub(super) fn answers_made(&self, context: &RequestContext, question: &Question) -> usize {
        let samples = self.policy.as_ref().filter(|policy| policy.forecasts()).map_or(1, |policy| policy.samples);
        if context.remaining() < SAMPLES_TAKE { question.n } else { question.n.max(samples) }
    }

    /// Reads a forecast out of what was made, of a specialist that forecasts, and leaves the answers that are wanted.
    pub(super) fn forecast(&self, question: &Question, response: &mut SpecialistAnswer) {
        let Some(policy) = self.policy.as_ref().filter(|policy| policy.forecasts()) else { return };
        let (choice, stated) = match (&question.choices, response.choice_probabilities.as_deref()) {
            (None, _) => (None, response.answers.iter().filter_map(|answer| policy.read(&answer.text)).collect()),
            (Some(_), Some([first, _])) => (Some(*first), Vec::new()),
            // of more than two choices each has its own probability
            (Some(_), _) => return,
        };
        response.answers.truncate(question.n);
        let Some(forecast) = nyx_specialists::forecast::pool(question.inputs.prior, choice, stated) else { return };
        let p = forecast.probability;
        if let Some(choices) = &question.choices {
            response.choice_probabilities = Some(vec![p, 1.0 - p]);
            if let (Some(said), Some(text)) = (response.answers.first_mut(), choices.get(usize::from(p < 0.5))) {
                said.text.clone_from(text);
            }
        }
        response.probability = Some(p);
        response.trace.forecast = Some(forecast);
    }
}
