//! The course of an answer: retrieve, prompt, generate, parse, reward, estimate the confidence.

use std::sync::Arc;
use std::time::Instant;

use nyx_domain::{AnswerMode, CellStep, StreamEvent, TimingTrace};
use nyx_engine::SamplingParams;
use nyx_specialists::Outcome;
use nyx_specialists::strategy::{Generated, Generation, GenerationRequest};
use tokio::sync::mpsc;

use super::messages::SpecialistAnswer;
use super::prompt::Written;
use super::screen::Screened;
use super::state::SpecialistState;
use crate::adapters::ActiveAdapter;
use crate::validation::ValidQuestion;
use crate::{NyxError, RequestContext};

/// One request of a specialist.
pub(super) struct AnswerTask {
    pub(super) state: Arc<SpecialistState>,
    pub(super) context: RequestContext,
    pub(super) question: ValidQuestion,
    /// The last user message.
    pub(super) asked: String,
    /// The adapter that is active for this request from its beginning to its end.
    pub(super) adapter: ActiveAdapter,
}

impl AnswerTask {
    pub(super) async fn new(
        state: Arc<SpecialistState>,
        context: RequestContext,
        question: ValidQuestion,
    ) -> Result<Self, NyxError> {
        let asked = question.last_user_message();
        let adapters = &state.setup.adapters;
        let adapter = adapters.active_adapter(
            state.name(),
            question.adapter.as_ref(),
            question.sampling.seed,
            &asked,
        );
        let adapter = context.bound("the adapter was looked up", adapter).await?;
        Ok(Self { state, context, question, asked, adapter })
    }

    pub(super) async fn run(
        &self,
        screened: &Screened,
        events: Option<mpsc::Sender<StreamEvent>>,
    ) -> Result<SpecialistAnswer, NyxError> {
        let Self { state, context, question, .. } = self;
        let retrieving = Instant::now();
        let evidence = state.retrieve(context, &self.asked, &question.inputs.memory).await?;
        let retrieve_ms = ms(retrieving);
        if !state.strategy.retrieve().is_empty() {
            let ids = evidence.iter().map(|item| item.id.clone()).collect();
            let retrieved = CellStep::Retrieved { evidence: ids, retrieve_ms };
            state.setup.cells.publish(Some(context.id), Some(state.name()), retrieved);
        }
        let deadline_ms = context.budget_ms();
        let Written { prompt, evidence, choices } =
            state.write_prompt(context, question, evidence, deadline_ms).await?;
        let mut sampling = self.sampling(prompt.tokens.len())?;
        let Generation { samples, plan } = self.generation(prompt.tokens.len(), &sampling);
        let mode = plan.as_ref().map(|plan| plan.chosen.mode);
        if let Some(plan) = plan.as_ref().filter(|plan| plan.chosen.mode == AnswerMode::Short) {
            sampling.max_tokens = plan.chosen.max_tokens;
        }
        let mut response = match &question.choices {
            None if mode == Some(AnswerMode::Defer) => {
                SpecialistAnswer { sampling, ..SpecialistAnswer::default() }
            }
            Some(texts) => self.choose(prompt, texts, choices, sampling).await?,
            None => self.generate(prompt, samples, sampling, screened, events).await?,
        };
        state.observe(&response);
        response.trace.safety = Some(screened.report(std::mem::take(&mut response.findings)));
        response.trace.timing = plan.map(|plan| TimingTrace { plan });
        response.mode = mode;
        response.timings.retrieve_ms = retrieve_ms;
        if mode != Some(AnswerMode::Defer) {
            self.attach_adapter(&mut response);
        }
        response.evidence = evidence;
        self.parse(&mut response);
        self.reward(&mut response, deadline_ms);
        if state.setup.policy.is_some() {
            response.signals.p_true = self.p_true(&response).await;
            self.estimate_confidence(&mut response);
        }
        Ok(response)
    }

    /// How the strategy wants the answer generated.
    fn generation(&self, prompt_tokens: usize, sampling: &SamplingParams) -> Generation {
        if self.question.choices.is_some() {
            return Generation { samples: 1, plan: None };
        }
        self.state.strategy.generate(&GenerationRequest {
            answers: self.question.n,
            prompt_tokens,
            max_tokens: sampling.max_tokens,
            remaining_ms: self.context.remaining().as_secs_f64() * 1e3,
            may_defer: self.question.inputs.allow_defer,
            pace: self.state.pace(),
        })
    }

    /// Has the strategy read what was generated.
    fn parse(&self, response: &mut SpecialistAnswer) {
        let answers = std::mem::take(&mut response.answers);
        let choice_probabilities = response.choice_probabilities.take();
        let generated = Generated {
            question: &self.question,
            evidence: &response.evidence,
            answers,
            choice_probabilities,
        };
        let parsed = self.state.strategy.parse(generated);
        response.answers = parsed.answers;
        response.choice_probabilities = parsed.choice_probabilities;
        response.probability = parsed.forecast.as_ref().map(|forecast| forecast.probability);
        response.trace.forecast = parsed.forecast;
        response.trace.cited = parsed.cited;
    }

    fn reward(&self, response: &mut SpecialistAnswer, deadline_ms: u64) {
        let answer = response.answers.first().map_or("", |answer| answer.text.as_str());
        let complete = response
            .answers
            .iter()
            .all(|answer| matches!(answer.finish_reason.as_str(), "stop" | "choice"));
        let elapsed_ms = ms(self.context.asked);
        let outcome =
            Outcome { answer, evidence: &response.evidence, elapsed_ms, deadline_ms, complete };
        response.automatic_reward = self.state.strategy.reward(&outcome);
    }

    /// Records the adapter that was active.
    fn attach_adapter(&self, response: &mut SpecialistAnswer) {
        let adapter = &self.adapter;
        response.adapter.clone_from(&adapter.version);
        response.trace.canary.clone_from(&adapter.canary);
        if adapter.version.is_none() && adapter.generation > 0 {
            // the base model as a generation of its own, after a rollback
            response.trace.generation = Some(adapter.generation);
        }
    }
}

pub(super) fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
