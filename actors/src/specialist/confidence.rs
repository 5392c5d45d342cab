//! The confidence of an answer, from its signals.

use nyx_domain::{ConfidenceTrace, Signals};
use nyx_specialists::support;

use super::answer::AnswerTask;
use super::messages::SpecialistAnswer;

impl AnswerTask {
    /// Collects an answer's signals and estimates from them how likely it is right.
    pub(super) fn estimate_confidence(&self, response: &mut SpecialistAnswer) {
        let Some(answer) = response.answers.first().map(|answer| answer.text.clone()) else {
            // deferred
            return;
        };
        let question = &self.question;
        let signals = Signals {
            choices: response.choice_probabilities.clone().unwrap_or_default(),
            support: if question.choices.is_none() {
                support(&answer, &response.evidence)
            } else {
                None
            },
            evidence: response.evidence.len(),
            best_evidence: response.evidence.iter().map(|item| item.score).reduce(f64::max),
            prior: question.inputs.prior,
            probability: response.probability,
            context: question.inputs.context.is_some(),
            complete: response
                .answers
                .iter()
                .all(|answer| matches!(answer.finish_reason.as_str(), "stop" | "choice")),
            answer,
            ..std::mem::take(&mut response.signals)
        };
        let estimate = self.state.setup.calibration.apply(self.state.name(), &signals);
        let (confidence, calibrator) = estimate.unzip();
        response.confidence = confidence;
        response.trace.confidence = Some(ConfidenceTrace { signals: signals.clone(), calibrator });
        response.signals = signals;
    }
}
