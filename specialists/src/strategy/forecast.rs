//! `forecast`: pools the probabilities that sampled answers state, or the likelihood of the first
//! of two choices, with the caller's prior. Rewarded by the outcome.

use std::sync::Arc;

use serde::Deserialize;

use super::interface::{
    ActivationSource, Generated, Generation, GenerationRequest, ParsedAnswer, Strategy,
};
use super::settings;
use crate::limits::count;
use crate::{forecast, probability};

/// With less time than this, only the wanted answers are sampled, in milliseconds.
const SAMPLING_MS: f64 = 10_000.0;

/// `[settings]` of `forecast`.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Forecasting {
    /// Answers sampled for a forecast in words, 1 to 8.
    samples: usize,
}

impl Default for Forecasting {
    fn default() -> Self {
        Self { samples: 1 }
    }
}

impl Strategy for Forecasting {
    fn generate(&self, request: &GenerationRequest) -> Generation {
        let samples = if request.remaining_ms < SAMPLING_MS { 1 } else { self.samples };
        Generation { samples: request.answers.max(samples), plan: None }
    }

    fn parse(&self, generated: Generated<'_>) -> ParsedAnswer {
        let question = generated.question;
        let (choice, stated) = match (&question.choices, generated.choice_probabilities.as_deref())
        {
            (None, _) => (
                None,
                generated
                    .answers
                    .iter()
                    .filter_map(|answer| probability::read_probability(&answer.text))
                    .collect(),
            ),
            (Some(_), Some([first, _])) => (Some(*first), Vec::new()),
            // of more than two choices each has its own probability
            (Some(_), _) => return ParsedAnswer::of(generated),
        };
        let mut parsed = ParsedAnswer::of(generated);
        let Some(forecast) = forecast::pool(question.inputs.prior, choice, stated) else {
            return parsed;
        };
        let p = forecast.probability;
        if let Some(choices) = &question.choices {
            parsed.choice_probabilities = Some(vec![p, 1.0 - p]);
            if let (Some(answer), Some(likelier)) =
                (parsed.answers.first_mut(), choices.get(usize::from(p < 0.5)))
            {
                answer.text.clone_from(likelier);
            }
        }
        parsed.forecast = Some(forecast);
        parsed
    }

    fn activation(&self) -> ActivationSource {
        ActivationSource::Outcome
    }
}

pub(super) fn make(table: Option<toml::Table>) -> Result<Arc<dyn Strategy>, String> {
    let made: Forecasting = settings::read(table)?;
    count("settings.samples", made.samples, 8)?;
    Ok(Arc::new(made))
}
