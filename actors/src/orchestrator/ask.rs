//! The course of a request: screening, routing, the specialist's answer, the record.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use nyx_domain::{
    AnswerMode, CellStep, Decision, RequestInputs, RequestTrace, Status, StreamEvent, Timings,
    TokenUsage, Trace,
};

use super::messages::Ask;
use super::record::fill;
use super::route::Routed;
use super::safety::refused;
use super::state::OrchestratorState;
use crate::validation::ValidQuestion;
use crate::{NyxError, RequestContext, phoebe};

impl OrchestratorState {
    /// Answers a question and records the decision.
    pub(super) async fn ask(self: &Arc<Self>, message: Ask) -> Result<Box<Decision>, NyxError> {
        let Ask { context, question, events } = message;
        let asked_at = phoebe::now();
        let asked = question.last_user_message();
        let cells = &self.setup.cells;
        cells.publish(
            Some(context.id),
            None,
            CellStep::Asked { requested: question.target.model(), question: asked.clone() },
        );
        let screened = self.screen(&context, &question, &asked);
        let inputs = question.inputs.clone();
        let (question, deferral) = self.reserve_deferral(question, events.is_some());
        let trait_weights = self.fresh_weights(context.deadline).await;
        let routed = match self.route(&context, &question, &asked, &screened, &trait_weights).await
        {
            Ok(routed) => routed,
            Err(error) => return Err(self.failed(&context, None, error)),
        };
        let name = routed.specialist.clone();
        let decided = CellStep::Decided {
            propensity: routed.propensity,
            propensities: routed.routing.propensities.clone(),
            trait_weights: trait_weights.clone(),
        };
        cells.publish(Some(context.id), Some(&name), decided);
        let decided = StreamEvent::Decided { decision: context.id, specialist: name.clone() };
        let left = events.as_ref().is_some_and(|events| events.try_send(decided).is_err());
        let response = match (left, screened.refusal()) {
            (true, _) => Err(NyxError::Cancelled),
            (false, Some(text)) => Ok(refused(&text, &question, &screened, events.as_ref())),
            (false, None) => self.answer(&context, &question, &screened, &name, events).await,
        };
        let mut decision =
            Box::new(self.decision(&context, &question, asked_at, inputs, routed, trait_weights));
        let mut reward = None;
        let mut deferred = false;
        let decide_ms = decision.timings.decide_ms;
        let failure = match response {
            Ok(response) => {
                deferred = response.mode == Some(AnswerMode::Defer);
                reward = fill(&mut decision, response)?;
                None
            }
            Err(error) => {
                decision.status = if matches!(error, NyxError::Cancelled) {
                    Status::Cancelled
                } else {
                    Status::Failed
                };
                decision.error = Some(error.to_string());
                Some(error)
            }
        };
        decision.timings.decide_ms = decide_ms;
        decision.timings.total_ms = context.asked.elapsed().as_secs_f64() * 1e3;
        let recorded = self.recorded(&context, &question, decision, reward).await;
        let decision = match (failure, recorded) {
            (None, Ok(decision)) => decision,
            (Some(error), _) | (None, Err(error)) => {
                return Err(self.failed(&context, Some(&name), error));
            }
        };
        if let (true, Some(deferral)) = (deferred, deferral) {
            self.answer_later(decision.clone(), deferral, screened, &context);
        }
        Ok(decision)
    }

    /// The decision before there is an answer.
    fn decision(
        &self,
        context: &RequestContext,
        question: &ValidQuestion,
        asked_at: DateTime<Utc>,
        inputs: RequestInputs,
        routed: Routed,
        trait_weights: BTreeMap<String, f64>,
    ) -> Decision {
        let Routed { specialist, propensity, routing } = routed;
        Decision {
            id: context.id,
            asked_at,
            instance: self.setup.instance.clone(),
            conversation: question.conversation.clone(),
            endpoint: question.endpoint.to_owned(),
            requested: question.target.model(),
            messages: question.messages.clone(),
            inputs,
            trace: Trace {
                request: Some(RequestTrace { deadline_ms: context.budget_ms() }),
                ..Trace::default()
            },
            question: question.last_user_message(),
            specialist,
            scores: routing.scores,
            similarities: routing.similarities,
            logits: routing.logits,
            propensities: routing.propensities,
            trait_weights,
            propensity,
            evidence: Vec::new(),
            answers: Vec::new(),
            choices: question.choices.clone(),
            choice_probabilities: None,
            probability: None,
            confidence: None,
            activation: None,
            reward: 0.0,
            adapter: None,
            base_sha256: self.setup.model.sha256.clone(),
            sampling: serde_json::Value::Null,
            usage: TokenUsage::default(),
            timings: Timings { decide_ms: routing.decide_ms, ..Timings::default() },
            status: Status::Answered,
            error: None,
        }
    }
}
