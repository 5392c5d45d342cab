//! P(True): what the base model itself thinks of an answer (Kadavath et al. 2022, "Language Models (Mostly) Know What They Know").

use nyx_domain::{ChatMessage, Question, Role, tail};
use nyx_engine::ContinuationScore;

use super::{QUERY_CHARS, SpecialistAnswer, SpecialistParts};
use crate::NyxError;
use crate::RequestContext;
use crate::devices::Score;

/// What is scored after the question whether the answer is true.
const ANSWERS: [&str; 2] = ["True", "False"];

impl SpecialistParts {
    /// How likely the base model finds that the answer is true; `None` where less time is left than `confidence.self_evaluation_min_remaining_ms` asks for, where there is no
    /// answer, or when it cannot be scored: an answer is never lost over what it is worth.
    pub(super) async fn p_true(
        &self,
        context: &RequestContext,
        question: &Question,
        asked: &str,
        response: &SpecialistAnswer,
    ) -> Option<f64> {
        let answer = response.answers.first().map(|answer| answer.text.trim()).filter(|answer| !answer.is_empty())?;
        if !self.calibration.asks_whether_true(context.remaining()) {
            return None;
        }
        match self.self_evaluation(context, question, asked, answer).await {
            Ok(p_true) => Some(p_true),
            Err(error) => {
                tracing::debug!(%error, "no P(True)");
                None
            }
        }
    }

    async fn self_evaluation(&self, context: &RequestContext, question: &Question, asked: &str, answer: &str) -> Result<f64, NyxError> {
        let background =
            question.inputs.context.as_deref().map(|context| format!("{}\n\n", tail(context, QUERY_CHARS))).unwrap_or_default();
        let (asked, answer) = (tail(asked, QUERY_CHARS), tail(answer, QUERY_CHARS));
        let text = format!("{background}Question: {asked}\nProposed answer: {answer}\nIs the proposed answer True or False?");
        let prompt = self.text.encode_chat(&[ChatMessage::new(Role::User, text)], true)?;
        let continuations = ANSWERS.map(|answer| self.text.encode(answer)).into_iter().collect::<Result<_, _>>()?;
        let score = Score { context: context.clone(), prompt, cacheable_prefix: 0, continuations, adapter: None, replica: self.replica() };
        let scores = context.bound("the answer was weighed", self.pool.send(score)).await?;
        let shares = nyx_specialists::bandit::softmax(&scores.iter().map(ContinuationScore::total).collect::<Vec<_>>(), 1.0);
        shares.first().copied().ok_or_else(|| NyxError::Internal("no likelihood of True".into()))
    }
}
