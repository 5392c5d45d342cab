//! P(True): the base model's probability that its answer is true (Kadavath et al. 2022, "Language
//! Models (Mostly) Know What They Know").

use nyx_domain::{ChatMessage, Role, tail};
use nyx_engine::ContinuationScore;

use super::answer::AnswerTask;
use super::messages::SpecialistAnswer;
use super::retrieve::QUERY_CHARS;
use crate::NyxError;
use crate::devices::Score;

/// The continuations that are scored.
const ANSWERS: [&str; 2] = ["True", "False"];

impl AnswerTask {
    /// The base model's probability that the answer is true; `None` where less time is left than
    /// `confidence.self_evaluation_min_remaining_ms`, where there is no answer, or when it cannot
    /// be scored: a failure does not fail the answer.
    pub(super) async fn p_true(&self, response: &SpecialistAnswer) -> Option<f64> {
        let answer = response
            .answers
            .first()
            .map(|answer| answer.text.trim())
            .filter(|answer| !answer.is_empty())?;
        if !self.state.setup.calibration.asks_whether_true(self.context.remaining()) {
            return None;
        }
        match self.self_evaluation(answer).await {
            Ok(p_true) => Some(p_true),
            Err(error) => {
                tracing::debug!(%error, "no P(True)");
                None
            }
        }
    }

    async fn self_evaluation(&self, answer: &str) -> Result<f64, NyxError> {
        let (state, context) = (&self.state, &self.context);
        let background = self
            .question
            .inputs
            .context
            .as_deref()
            .map(|context| format!("{}\n\n", tail(context, QUERY_CHARS)))
            .unwrap_or_default();
        let (asked, answer) = (tail(&self.asked, QUERY_CHARS), tail(answer, QUERY_CHARS));
        let text = format!(
            "{background}Question: {asked}\nProposed answer: {answer}\nIs the proposed answer True or False?"
        );
        let prompt = state.setup.text.encode_chat(&[ChatMessage::new(Role::User, text)], true)?;
        let continuations = ANSWERS
            .map(|answer| state.setup.text.encode(answer))
            .into_iter()
            .collect::<Result<_, _>>()?;
        let score = Score {
            context: context.clone(),
            prompt,
            cacheable_prefix: 0,
            continuations,
            adapter: None,
            replica: state.replica(),
        };
        let scores = context.bound("the answer was weighed", state.setup.pool.send(score)).await?;
        let shares = nyx_specialists::bandit::softmax(
            &scores.iter().map(ContinuationScore::total).collect::<Vec<_>>(),
            1.0,
        );
        shares.first().copied().ok_or_else(|| NyxError::Internal("no likelihood of True".into()))
    }
}
