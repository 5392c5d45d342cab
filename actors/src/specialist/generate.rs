//! Generation on the device pool: sampled answers, and the likeliest of given choices.

use std::time::Instant;

use nyx_domain::{Answer, Signals, StreamEvent, Timings, TokenUsage};
use nyx_engine::{ContinuationScore, EngineError, Finished, SamplingParams};
use nyx_specialists::bandit;
use tokio::sync::mpsc;

use super::answer::{AnswerTask, ms};
use super::messages::SpecialistAnswer;
use super::prompt::{BASE_MAX_TOKENS, Prompt};
use super::screen::Screened;
use super::sink::AnswerSink;
use super::state::SpecialistSetup;
use crate::NyxError;
use crate::devices::{Generate, Score};

/// Sampling of the base model where the caller gives nothing.
const BASE_TEMPERATURE: f32 = 0.0;

impl AnswerTask {
    /// The caller's sampling settings, else those of the file; refuses a prompt that leaves no
    /// space for an answer.
    pub(super) fn sampling(&self, prompt: usize) -> Result<SamplingParams, NyxError> {
        let wanted = &self.question.sampling;
        let SpecialistSetup { policy, text, context_length, .. } = &self.state.setup;
        let (policy, window) = (policy.as_ref(), *context_length);
        let space = window.saturating_sub(prompt);
        if space == 0 || wanted.max_tokens.is_some_and(|max_tokens| max_tokens > space) {
            let max_tokens = wanted.max_tokens.unwrap_or(1);
            return Err(NyxError::Engine(nyx_engine::EngineError::ContextOverflow {
                prompt,
                max_tokens,
                window,
            }));
        }
        let params = SamplingParams {
            temperature: wanted
                .temperature
                .unwrap_or(policy.map_or(BASE_TEMPERATURE, |policy| policy.temperature)),
            top_k: wanted.top_k.unwrap_or(0),
            top_p: wanted.top_p.unwrap_or(policy.map_or(1.0, |policy| policy.top_p)),
            min_p: wanted.min_p.unwrap_or(0.0),
            repetition_penalty: wanted
                .repetition_penalty
                .unwrap_or(policy.map_or(1.0, |policy| policy.repetition_penalty)),
            presence_penalty: wanted.presence_penalty.unwrap_or(0.0),
            frequency_penalty: wanted.frequency_penalty.unwrap_or(0.0),
            logit_bias: wanted.logit_bias.iter().map(|(&token, &bias)| (token, bias)).collect(),
            // a seed that every client can send back: JSON numbers are exact below 2^53
            seed: wanted.seed.unwrap_or_else(|| rand::random::<u64>() >> 11),
            logprobs: wanted.logprobs,
            max_tokens: wanted
                .max_tokens
                .unwrap_or(policy.map_or(BASE_MAX_TOKENS, |policy| policy.max_tokens))
                .min(space),
            stop: wanted.stop.clone(),
        };
        params.validate(text.vocabulary())?;
        Ok(params)
    }

    /// Samples answers, streaming the first `n` of them.
    pub(super) async fn generate(
        &self,
        prompt: Prompt,
        samples: usize,
        sampling: SamplingParams,
        screened: &Screened,
        events: Option<mpsc::Sender<StreamEvent>>,
    ) -> Result<SpecialistAnswer, NyxError> {
        let Self { state, context, question, adapter, .. } = self;
        let mut endings = Vec::with_capacity(samples);
        for index in 0..samples {
            let (sink, ending) = AnswerSink::new(
                index,
                context,
                state.name(),
                &state.setup.cells,
                events.clone(),
                screened.guard(),
                index >= question.n,
            );
            // each of the n answers has its own seed, derived from the recorded one
            let params = SamplingParams {
                seed: sampling.seed.wrapping_add(index as u64),
                ..sampling.clone()
            };
            let job = Generate {
                context: context.clone(),
                prompt: prompt.tokens.clone(),
                cacheable_prefix: prompt.cacheable_prefix,
                params,
                adapter: adapter.lease.clone(),
                replica: state.replica(),
                sink: Box::new(sink),
            };
            context.bound("a device was found", state.setup.pool.send(job)).await?;
            endings.push(ending);
        }
        drop(events);
        let mut response = SpecialistAnswer { sampling, ..SpecialistAnswer::default() };
        for ending in endings {
            let answer = ending
                .await
                .map_err(|_| NyxError::Internal("the device dropped a sequence".into()))??;
            add_timings(
                &mut response,
                &answer.finished,
                answer.first_token.map(|at| at.duration_since(context.asked).as_secs_f64() * 1e3),
            );
            if response.answers.is_empty() && answer.finished.usage.completion_tokens > 0 {
                let Finished { mean_entropy, max_entropy, mean_logprob, .. } = answer.finished;
                let [mean_entropy, max_entropy, mean_logprob] =
                    [mean_entropy, max_entropy, mean_logprob].map(|value| Some(f64::from(value)));
                response.signals =
                    Signals { mean_entropy, max_entropy, mean_logprob, ..Signals::default() };
            }
            response.findings.extend(answer.findings);
            response
                .answers
                .push(Answer { text: answer.text, finish_reason: answer.finish_reason.to_owned() });
        }
        Ok(response)
    }

    /// Scores the choices as continuations: the answer is the likeliest, its probability its share
    /// of the likelihood.
    pub(super) async fn choose(
        &self,
        prompt: Prompt,
        choices: &[String],
        continuations: Vec<Vec<u32>>,
        sampling: SamplingParams,
    ) -> Result<SpecialistAnswer, NyxError> {
        let (context, window) = (&self.context, self.state.setup.context_length);
        let longest = continuations.iter().map(Vec::len).max().unwrap_or(0);
        if prompt.tokens.len() + longest > window {
            let overflow = EngineError::ContextOverflow {
                prompt: prompt.tokens.len(),
                max_tokens: longest,
                window,
            };
            return Err(overflow.into());
        }
        let started = Instant::now();
        let prompt_tokens = prompt.tokens.len() as u64;
        let score = Score {
            context: context.clone(),
            prompt: prompt.tokens,
            cacheable_prefix: prompt.cacheable_prefix,
            continuations,
            adapter: self.adapter.lease.clone(),
            replica: self.state.replica(),
        };
        let scores =
            context.bound("continuations were scored", self.state.setup.pool.send(score)).await?;
        let probabilities =
            bandit::softmax(&scores.iter().map(ContinuationScore::total).collect::<Vec<_>>(), 1.0);
        let best = bandit::best(&probabilities).unwrap_or_default();
        let signals = Signals {
            mean_logprob: scores.get(best).map(ContinuationScore::mean),
            ..Signals::default()
        };
        let usage =
            TokenUsage { prompt_tokens, total_tokens: prompt_tokens, ..TokenUsage::default() };
        let timings = Timings {
            prefill_ms: ms(started),
            first_token_ms: Some(ms(context.asked)),
            ..Timings::default()
        };
        let answers = vec![Answer {
            text: choices.get(best).cloned().unwrap_or_default(),
            finish_reason: "choice".into(),
        }];
        Ok(SpecialistAnswer {
            answers,
            choice_probabilities: Some(probabilities),
            signals,
            sampling,
            usage,
            timings,
            ..SpecialistAnswer::default()
        })
    }
}

fn add_timings(response: &mut SpecialistAnswer, finished: &Finished, first_token_ms: Option<f64>) {
    let usage = finished.usage;
    // the prompt counts once, whatever the number of answers
    response.usage.prompt_tokens = usage.prompt_tokens as u64;
    response.usage.cached_tokens = response.usage.cached_tokens.max(usage.cached_tokens as u64);
    response.usage.completion_tokens += usage.completion_tokens as u64;
    response.usage.total_tokens = response.usage.prompt_tokens + response.usage.completion_tokens;
    let timings = &mut response.timings;
    timings.queue_ms = timings.queue_ms.max(finished.queued.as_secs_f64() * 1e3);
    timings.prefill_ms = timings.prefill_ms.max(finished.prefill.as_secs_f64() * 1e3);
    timings.decode_ms = timings.decode_ms.max(finished.decode.as_secs_f64() * 1e3);
    timings.first_token_ms = match (timings.first_token_ms, first_token_ms) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
}
