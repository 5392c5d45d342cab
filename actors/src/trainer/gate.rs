//! The gate: compares a candidate with the active adapter before it may become a canary or be
//! promoted.

use nyx_domain::{AdapterChoice, ChatMessage, Question, Role, Target};
use nyx_specialists::gate::{Compared, Pair, compare, level};
use serde::Serialize;

use super::cases::{NEUTRAL, cases};
use super::example::{Label, TrainingExample};
use super::options::TrainingOptions;
use super::service::TrainingService;
use crate::NyxError;
use crate::adapters::AdapterLease;
use crate::runtime::blocking;

/// Tokens of the neutral text per scoring.
const WINDOW: usize = 256;
/// Time limit of a question of the gate, in milliseconds.
const PATIENCE_MS: u64 = 120_000;
/// Concurrent questions of the gate.
const AT_A_TIME: usize = 8;
/// Minimum number of held-out templates: the bootstrap draws from them.
const LEAST_TEMPLATES: usize = 5;
/// Maximum tokens of an answer to a safety case.
const CASE_TOKENS: usize = 40;

/// The result of the gate.
#[derive(Debug, Clone, Serialize)]
pub struct GateReport {
    pub passed: bool,
    /// The comparison of candidate and active adapter on the held-out examples.
    pub compared: Compared,
    /// Number of gate runs on these examples, this one included.
    pub tries: u32,
    /// Perplexity on the neutral text: candidate, base model.
    pub perplexity: [f64; 2],
    /// Findings of the safety policy in answers to its cases: candidate, active adapter.
    pub findings: [usize; 2],
    /// Why it did not pass.
    pub reasons: Vec<String>,
}

impl TrainingService {
    /// Compares a candidate with the active adapter on the held-out examples, on a neutral text and
    /// on the safety cases.
    pub(super) async fn gate(
        &self,
        specialist: &str,
        adapter: &str,
        tried: &[TrainingExample],
        training: &TrainingOptions,
        tries: u32,
    ) -> Result<GateReport, NyxError> {
        let lease = self.adapters.lease(adapter).await?;
        let candidate = AdapterChoice::Id(adapter.to_owned());
        let live = match self.adapters.active_generation(specialist).1 {
            Some(id) => AdapterChoice::Id(id),
            None => AdapterChoice::Base,
        };
        let pairs = self.scored(specialist, tried, [&candidate, &live]).await?;
        let asked = level(training.alpha, tries);
        let compared = blocking(move || compare(&pairs, asked, 1)).await?;
        let perplexity =
            [self.perplexity(Some(lease.clone())).await?, self.perplexity(None).await?];
        let findings =
            [self.findings(specialist, &candidate).await?, self.findings(specialist, &live).await?];
        let mut reasons = Vec::new();
        if !compared.better {
            let Compared { candidate, live, bound, level, .. } = compared;
            reasons.push(format!(
                "{candidate:.3} against {live:.3} on what was set aside: its lower bound at {level} is {bound:.4}, not above 0"
            ));
        }
        if compared.templates < LEAST_TEMPLATES {
            reasons.push(format!(
                "{} templates were set aside, expected at least {LEAST_TEMPLATES}",
                compared.templates
            ));
        }
        // NaN is never better
        let most = perplexity[1] * (1.0 + training.perplexity_margin);
        if perplexity[0].is_nan() || perplexity[0] > most {
            reasons.push(format!(
                "its perplexity on a neutral text is {:.2}, the base's {:.2}",
                perplexity[0], perplexity[1]
            ));
        }
        if findings[0] > findings[1] {
            reasons.push(format!(
                "the safety policy finds {} in its answers, {} in those of the live one",
                findings[0], findings[1]
            ));
        }
        Ok(GateReport {
            passed: reasons.is_empty(),
            compared,
            tries,
            perplexity,
            findings,
            reasons,
        })
    }

    /// The scores of both on each example.
    async fn scored(
        &self,
        specialist: &str,
        examples: &[TrainingExample],
        both: [&AdapterChoice; 2],
    ) -> Result<Vec<Pair>, NyxError> {
        use futures_util::StreamExt;
        let score = |example: &TrainingExample| {
            let example = example.clone();
            async move {
                let [candidate, live] = both;
                let (candidate, live) = (
                    self.score(specialist, &example, candidate).await?,
                    self.score(specialist, &example, live).await?,
                );
                Ok::<_, NyxError>(Pair { template: example.template.clone(), candidate, live })
            }
        };
        futures_util::stream::iter(examples.iter().map(score))
            .buffered(AT_A_TIME)
            .collect::<Vec<_>>()
            .await
            .into_iter()
            .collect()
    }

    async fn score(
        &self,
        specialist: &str,
        example: &TrainingExample,
        choice: &AdapterChoice,
    ) -> Result<f64, NyxError> {
        if example.question.choices.is_some() {
            let question = Question { adapter: Some(choice.clone()), ..example.question.clone() };
            let response = self.dry_run(specialist, question, PATIENCE_MS).await?;
            let forecasts = self.forecasts(specialist);
            return Ok(example
                .score_choices(&response.choice_probabilities.unwrap_or_default(), forecasts));
        }
        let (text, weight) = match &example.label {
            Label::Text { correct, .. } => (correct.clone(), 1.0),
            Label::Generated { text, reward, .. } => (text.clone(), *reward),
            Label::Choice(_) | Label::Rated { .. } => return Ok(0.0),
        };
        let shown = self
            .presented(
                self.admission.internal_context(PATIENCE_MS),
                specialist,
                example.question.clone(),
                vec![text],
            )
            .await?;
        let lease = match choice {
            AdapterChoice::Base => None,
            AdapterChoice::Id(id) => Some(self.adapters.lease(id).await?),
        };
        let scores =
            self.score_tokens(shown.prompt, shown.continuations, lease, PATIENCE_MS).await?;
        Ok(weight * scores.first().map_or(0.0, nyx_engine::ContinuationScore::mean))
    }

    /// Perplexity on the neutral text, with an adapter or the base model.
    pub(super) async fn perplexity(&self, adapter: Option<AdapterLease>) -> Result<f64, NyxError> {
        let tokens = self.text.encode(NEUTRAL)?;
        let (mut total, mut count) = (0.0, 0);
        for window in tokens.chunks(WINDOW).filter(|window| window.len() > 1) {
            let (first, rest) = window.split_at(1);
            let scores = self
                .score_tokens(first.to_vec(), vec![rest.to_vec()], adapter.clone(), PATIENCE_MS)
                .await?;
            total -= scores.first().map_or(0.0, nyx_engine::ContinuationScore::total);
            count += rest.len();
        }
        Ok((total / f64::from(u32::try_from(count.max(1)).unwrap_or(u32::MAX))).exp())
    }

    /// Number of findings of the safety policy in answers to its cases.
    async fn findings(&self, specialist: &str, choice: &AdapterChoice) -> Result<usize, NyxError> {
        let mut found = 0;
        for case in cases()? {
            let target = Target::Specialist(specialist.to_owned());
            let mut question =
                Question::new(vec![ChatMessage::new(Role::User, case)], target, "trainer");
            question.adapter = Some(choice.clone());
            (question.sampling.seed, question.sampling.temperature) = (Some(1), Some(0.0));
            question.sampling.max_tokens = Some(CASE_TOKENS);
            let response = self.dry_run(specialist, question, PATIENCE_MS).await?;
            found += response.findings.len();
        }
        Ok(found)
    }
}
