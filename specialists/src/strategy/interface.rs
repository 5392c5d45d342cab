//! What a strategy decides.

use std::fmt;

use nyx_domain::{Answer, Evidence, Forecast, Pace, Plan, Question};

use crate::prompt::{PromptContext, PromptTemplate};
use crate::reward::{AutomaticReward, Outcome};

/// How a specialist answers. Pure: a strategy says what to retrieve and how to generate, and reads
/// what was generated; the specialist's actor does the work in between.
pub trait Strategy: fmt::Debug + Send + Sync {
    /// The searches whose results the prompt shows, in the order of their importance: where the
    /// context window is too small, the last results are left out first.
    fn retrieve(&self) -> Vec<Search> {
        Vec::new()
    }

    /// The system prompt.
    ///
    /// # Errors
    /// The template cannot be rendered.
    fn prompt(
        &self,
        template: &PromptTemplate,
        context: &PromptContext<'_>,
    ) -> Result<String, String> {
        template.render(context)
    }

    /// How to generate the answer to a question without choices.
    fn generate(&self, request: &GenerationRequest) -> Generation {
        Generation { samples: request.answers, plan: None }
    }

    /// Reads what was generated.
    fn parse(&self, generated: Generated<'_>) -> ParsedAnswer {
        ParsedAnswer::of(generated)
    }

    /// The automatic reward of an answer; `None` where nothing is known of it yet.
    fn reward(&self, outcome: &Outcome<'_>) -> Option<AutomaticReward> {
        let _ = outcome;
        None
    }

    /// What shows the trait activation.
    fn activation(&self) -> ActivationSource {
        ActivationSource::Rating
    }

    /// The fraction in [0, 1] by which an answer that takes all of its time is worth less.
    fn delay_penalty(&self) -> f64 {
        0.0
    }
}

/// A search for evidence.
#[derive(Debug, Clone, PartialEq)]
pub enum Search {
    /// The rows of registered tables that best match.
    Rows {
        /// Number of rows.
        k: usize,
    },
    /// The memories that best match.
    Memories {
        /// Number of memories.
        k: usize,
        /// Cosine similarity below which a memory is left out, unless its words carry at least half
        /// of the question's information.
        min_score: f32,
    },
}

/// What shows the trait activation of a specialist's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActivationSource {
    /// The automatic reward.
    Automatic,
    /// The outcome of the forecast.
    Outcome,
    /// A user's rating.
    Rating,
}

/// The inputs of [`Strategy::generate`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GenerationRequest {
    /// Answers that the caller wants.
    pub answers: usize,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Upper bound of the answer, in tokens.
    pub max_tokens: usize,
    /// Milliseconds until the deadline.
    pub remaining_ms: f64,
    /// Whether the answer may be deferred.
    pub may_defer: bool,
    /// The measured speed of answers.
    pub pace: Pace,
}

/// How an answer is generated.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// Answers to sample, at least as many as the caller wants.
    pub samples: usize,
    /// The plan by the time that is left, of a strategy that makes one.
    pub plan: Option<Plan>,
}

/// What was generated.
#[derive(Debug, Clone)]
pub struct Generated<'a> {
    /// The question.
    pub question: &'a Question,
    /// The evidence in the prompt.
    pub evidence: &'a [Evidence],
    /// The sampled answers, or the likeliest choice.
    pub answers: Vec<Answer>,
    /// The likelihood of each choice as a share of all, where there are choices.
    pub choice_probabilities: Option<Vec<f64>>,
}

/// The answers that the caller gets, and what was read in them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ParsedAnswer {
    /// The `n` answers that the caller wants.
    pub answers: Vec<Answer>,
    /// Each choice's probability.
    pub choice_probabilities: Option<Vec<f64>>,
    /// The forecast that they state.
    pub forecast: Option<Forecast>,
    /// Ids of the evidence that the first answer cites, of a strategy that has it cite some.
    pub cited: Option<Vec<String>>,
}

impl ParsedAnswer {
    /// The answers as they were generated, as many as the caller wants.
    pub fn of(generated: Generated<'_>) -> Self {
        let Generated { question, mut answers, choice_probabilities, .. } = generated;
        answers.truncate(question.n);
        Self { answers, choice_probabilities, ..Self::default() }
    }

    /// The same, with the evidence that a generated first answer cites.
    pub(super) fn with_citations(generated: Generated<'_>) -> Self {
        let first = generated.answers.first().map_or("", |answer| answer.text.as_str());
        let cited =
            generated.question.choices.is_none().then(|| crate::cited(first, generated.evidence));
        Self { cited, ..Self::of(generated) }
    }
}
