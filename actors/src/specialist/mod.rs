//! A specialist: retrieves, writes its prompt, speaks through the GPU pool, reads its own answer and judges it.

mod example;
mod forecast;
mod prompt;
mod retrieve;
mod screen;
mod self_evaluation;
mod sink;
mod timing;

use std::sync::Arc;
use std::time::Instant;

use actix::{Actor, Context, Handler, Message, ResponseFuture};
use nyx_domain::{
    AdapterVersion, Answer, AnswerMode, CellStep, Evidence, Finding, Question, Signals, StreamEvent, TimingTrace, Timings, TokenUsage,
    Trace,
};
use nyx_engine::{Finished, SamplingParams, Text};
use nyx_specialists::{AutomaticReward, Outcome, PromptContext, Retrieval, SpecialistPolicy};
use tokio::sync::mpsc;

pub use example::{Present, Presented};
pub(crate) use prompt::common_prefix;
pub use prompt::{Prompt, PromptWriter};

pub use screen::Screened;
pub use timing::Timer;

use crate::adapters::{ActiveAdapter, AdapterLease, Adapters};
use crate::cells::CellStream;
use crate::confidence::Calibration;
use crate::devices::{Generate, GpuPool, Score};
use crate::facts::Facts;
use crate::memory::MemoryKeeper;
use crate::observe::ActorMetrics;
use crate::supervise::ActorRef;
use crate::{NyxError, RequestContext};
use sink::AnswerSink;

/// Sampling where neither caller nor file says anything: the base model speaks with these.
const BASE_TEMPERATURE: f32 = 0.0;
const BASE_MAX_TOKENS: usize = 256;
/// Characters below which evidence that does not fit is left out rather than cut again.
const LEAST_EVIDENCE: usize = 200;
/// Characters of a question that are searched for: about the 256 tokens that the embedder reads.
const QUERY_CHARS: usize = 1_000;

/// Everything a specialist works with. Cheap to clone.
#[derive(Clone)]
pub struct SpecialistParts {
    /// `None` is the base model: no prompt, retrieval, adapter or reward.
    pub policy: Option<SpecialistPolicy>,
    pub text: Arc<Text>,
    pub context_length: usize,
    pub adapters: Adapters,
    /// What the request in hand speaks through.
    pub active_adapter: ActiveAdapter,
    pub pool: ActorRef<GpuPool>,
    pub memory: ActorRef<MemoryKeeper>,
    pub facts: Facts,
    pub cells: CellStream,
    /// Of a specialist that times its answers.
    pub timer: Option<Arc<Timer>>,
    pub calibration: Calibration,
}

/// The actor of one specialist.
pub struct Specialist {
    parts: Arc<SpecialistParts>,
    metrics: Arc<ActorMetrics>,
}

/// Answers a question that has been given to this specialist.
#[derive(Message)]
#[rtype(result = "Result<SpecialistAnswer, NyxError>")]
pub struct AnswerRequest {
    pub context: RequestContext,
    pub question: Arc<Question>,
    pub screened: Arc<Screened>,
    pub events: Option<mpsc::Sender<StreamEvent>>,
}

/// What a specialist said, and all that is known of it.
#[derive(Debug, Default)]
pub struct SpecialistAnswer {
    pub evidence: Vec<Evidence>,
    pub answers: Vec<Answer>,
    pub choice_probabilities: Option<Vec<f64>>,
    pub probability: Option<f64>,
    /// How likely the answer is right, in [0, 1]; `None` where nothing was learned yet.
    pub confidence: Option<f64>,
    /// What the confidence is read from.
    pub(crate) signals: Signals,
    pub automatic_reward: Option<AutomaticReward>,
    pub adapter: Option<AdapterVersion>,
    pub sampling: SamplingParams,
    pub usage: TokenUsage,
    /// What took part in the answer, by name: see [`Decision::notes`](nyx_domain::Decision::notes).
    pub trace: Trace,
    /// What a specialist that times its answers did.
    pub(crate) mode: Option<AnswerMode>,
    /// What screening found in the answers.
    pub(crate) findings: Vec<Finding>,
    /// `decide_ms` and `total_ms` are the orchestrator's to fill.
    pub timings: Timings,
}

impl Specialist {
    pub fn new(parts: Arc<SpecialistParts>, metrics: Arc<ActorMetrics>) -> Self {
        Self { parts, metrics }
    }
}

impl Actor for Specialist {
    type Context = Context<Self>;
}

impl Handler<AnswerRequest> for Specialist {
    type Result = ResponseFuture<Result<SpecialistAnswer, NyxError>>;

    fn handle(&mut self, message: AnswerRequest, _: &mut Self::Context) -> Self::Result {
        self.metrics.taken_up();
        let parts = Arc::clone(&self.parts);
        Box::pin(async move {
            // taken up once: whatever is promoted meanwhile, this request ends as it began
            let question = &message.question;
            let asked = question.last_user_message();
            let active_adapter = parts.adapters.active_adapter(parts.name(), question.adapter.as_ref(), question.sampling.seed, &asked);
            let active_adapter = message.context.bound("the adapter was looked up", active_adapter).await?;
            Arc::new(SpecialistParts { active_adapter, ..(*parts).clone() }).speak(message).await
        })
    }
}

/// A prompt that leaves room for an answer, and the evidence that found its place in it.
struct Written {
    prompt: Prompt,
    evidence: Vec<Evidence>,
    /// The choices in tokens, where there are any.
    choices: Vec<Vec<u32>>,
}

impl SpecialistParts {
    fn name(&self) -> &str {
        self.policy.as_ref().map_or("base", |policy| policy.name.as_str())
    }

    async fn speak(self: Arc<Self>, message: AnswerRequest) -> Result<SpecialistAnswer, NyxError> {
        let AnswerRequest { context, question, screened, events } = message;
        let retrieving = Instant::now();
        let asked = question.last_user_message();
        self.check_size(&question)?;
        let evidence = self.retrieve(&context, &asked, &question.inputs.memory).await?;
        let retrieve_ms = ms(retrieving);
        if self.policy.as_ref().is_some_and(|policy| policy.retrieval != Retrieval::None) {
            let ids = evidence.iter().map(|item| item.id.clone()).collect();
            self.cells.publish(Some(context.id), Some(self.name()), CellStep::Retrieved { evidence: ids, retrieve_ms });
        }
        let deadline_ms = context.budget_ms();
        let Written { prompt, evidence, choices } = self.write_apart(&context, &question, evidence, deadline_ms).await?;
        let mut sampling = self.sampling(&question, prompt.tokens.len())?;
        let timer = self.timer.as_ref().filter(|_| question.choices.is_none());
        let plan = timer.and_then(|timer| self.plan(&context, timer, prompt.tokens.len(), &sampling, question.inputs.allow_defer));
        let mode = Self::instead(plan.as_ref(), &mut sampling);
        let mut response = match &question.choices {
            None if mode == AnswerMode::Defer => SpecialistAnswer { sampling, ..SpecialistAnswer::default() },
            Some(texts) => self.choose(&context, prompt, texts, choices, sampling).await?,
            None => self.generate(&context, prompt, &question, sampling, &screened, events).await?,
        };
        response.trace.safety = Some(screened.report(std::mem::take(&mut response.findings)));
        if let Some(timer) = &self.timer {
            timer.observe(&response);
            response.trace.timing = Some(TimingTrace { plan: plan.clone() });
        }
        response.mode = plan.as_ref().map(|plan| plan.chosen.mode);
        response.timings.retrieve_ms = retrieve_ms;
        if mode != AnswerMode::Defer {
            self.attach_adapter(&mut response);
        }
        self.forecast(&question, &mut response);
        if let Some(policy) = &self.policy {
            let answer = response.answers.first().map_or("", |answer| answer.text.as_str());
            let complete = response.answers.iter().all(|answer| matches!(answer.finish_reason.as_str(), "stop" | "choice"));
            if policy.retrieval != Retrieval::None && question.choices.is_none() {
                response.trace.cited = Some(nyx_specialists::cited(answer, &evidence));
            }
            let elapsed_ms = ms(context.asked);
            response.automatic_reward =
                policy.automatic_reward(&Outcome { answer, evidence: &evidence, elapsed_ms, deadline_ms, complete });
        }
        response.evidence = evidence;
        if self.policy.is_some() {
            response.signals.p_true = self.p_true(&context, &question, &asked, &response).await;
            self.calibration.judge(self.name(), &question, &mut response);
        }
        Ok(response)
    }

    /// Writes the prompt on a thread of its own: tokenising a long one takes a while, and the actors share theirs.
    async fn write_apart(
        self: &Arc<Self>,
        context: &RequestContext,
        question: &Arc<Question>,
        evidence: Vec<Evidence>,
        deadline_ms: u64,
    ) -> Result<Written, NyxError> {
        let (parts, question) = (Arc::clone(self), Arc::clone(question));
        let writing = tokio::task::spawn_blocking(move || parts.write(&question, evidence, deadline_ms));
        let written = async { writing.await.map_err(|error| NyxError::Internal(error.to_string()))? };
        context.bound("the prompt was written", written).await
    }

    /// Refuses at once what cannot fit, however it is tokenised.
    fn check_size(&self, question: &Question) -> Result<(), NyxError> {
        let choices = question.choices.iter().flatten();
        let bytes: usize =
            question.messages.iter().map(|message| &message.content).chain(choices).chain(&question.inputs.context).map(String::len).sum();
        if bytes > self.context_length * self.text.longest_token() {
            return Err(nyx_engine::EngineError::PromptTooLong { bytes, window: self.context_length }.into());
        }
        Ok(())
    }

    /// Writes the prompt; where it leaves no room for an answer, with less evidence: the worst is left out first, the best one cut.
    fn write(&self, question: &Question, mut evidence: Vec<Evidence>, deadline_ms: u64) -> Result<Written, NyxError> {
        let asked = question.last_user_message();
        let choices = question.choices.iter().flatten().map(|choice| self.text.encode(choice)).collect::<Result<Vec<_>, _>>()?;
        let usual = self.policy.as_ref().map_or(BASE_MAX_TOKENS, |policy| policy.max_tokens).min(self.context_length / 4);
        let room = choices.iter().map(Vec::len).max().unwrap_or_else(|| question.sampling.max_tokens.unwrap_or(usual));
        let now = question.now();
        loop {
            let situation = PromptContext { now, deadline_ms, evidence: &evidence, question: &asked };
            let prompt = PromptWriter { text: &self.text, policy: self.policy.as_ref() }.write(question, &situation)?;
            let fits = prompt.tokens.len() + room <= self.context_length;
            match evidence.last_mut() {
                Some(worst) if !fits => {
                    let chars = worst.text.chars().count();
                    if evidence.len() > 1 || chars < LEAST_EVIDENCE {
                        evidence.pop();
                    } else if let Some(only) = evidence.last_mut() {
                        only.text = only.text.chars().take(chars / 2).chain(['\u{2026}']).collect();
                    }
                }
                _ => return Ok(Written { prompt, evidence, choices }),
            }
        }
    }

    /// The caller's settings over the file's; refuses a prompt that leaves no room for an answer.
    fn sampling(&self, question: &Question, prompt: usize) -> Result<SamplingParams, NyxError> {
        let wanted = &question.sampling;
        let policy = self.policy.as_ref();
        let room = self.context_length.saturating_sub(prompt);
        if room == 0 || wanted.max_tokens.is_some_and(|max_tokens| max_tokens > room) {
            let max_tokens = wanted.max_tokens.unwrap_or(1);
            return Err(NyxError::Engine(nyx_engine::EngineError::ContextOverflow { prompt, max_tokens, window: self.context_length }));
        }
        let params = SamplingParams {
            temperature: wanted.temperature.unwrap_or(policy.map_or(BASE_TEMPERATURE, |policy| policy.temperature)),
            top_k: wanted.top_k.unwrap_or(0),
            top_p: wanted.top_p.unwrap_or(policy.map_or(1.0, |policy| policy.top_p)),
            min_p: wanted.min_p.unwrap_or(0.0),
            repetition_penalty: wanted.repetition_penalty.unwrap_or(policy.map_or(1.0, |policy| policy.repetition_penalty)),
            presence_penalty: wanted.presence_penalty.unwrap_or(0.0),
            frequency_penalty: wanted.frequency_penalty.unwrap_or(0.0),
            logit_bias: wanted.logit_bias.iter().map(|(&token, &bias)| (token, bias)).collect(),
            // one that every client can send back: JSON numbers are exact below 2^53
            seed: wanted.seed.unwrap_or_else(|| rand::random::<u64>() >> 11),
            logprobs: wanted.logprobs,
            max_tokens: wanted.max_tokens.unwrap_or(policy.map_or(BASE_MAX_TOKENS, |policy| policy.max_tokens)).min(room),
            stop: wanted.stop.clone(),
        };
        params.validate(self.text.vocabulary())?;
        Ok(params)
    }

    fn adapter_lease(&self) -> Option<AdapterLease> {
        self.active_adapter.lease.clone()
    }

    /// Says through what it was response.
    fn attach_adapter(&self, response: &mut SpecialistAnswer) {
        response.adapter.clone_from(&self.active_adapter.version);
        response.trace.canary.clone_from(&self.active_adapter.canary);
        if self.active_adapter.version.is_none() && self.active_adapter.generation > 0 {
            // the base as a generation of its own, after a rollback
            response.trace.generation = Some(self.active_adapter.generation);
        }
    }

    fn replica(&self) -> Option<usize> {
        self.policy.as_ref().and_then(|policy| policy.replica)
    }

    async fn generate(
        &self,
        context: &RequestContext,
        prompt: Prompt,
        question: &Question,
        sampling: SamplingParams,
        screened: &Screened,
        events: Option<mpsc::Sender<StreamEvent>>,
    ) -> Result<SpecialistAnswer, NyxError> {
        let answers = self.answers_made(context, question);
        let mut endings = Vec::with_capacity(answers);
        for index in 0..answers {
            let (sink, ending) =
                AnswerSink::new(index, context, self.name(), &self.cells, events.clone(), screened.guard(), index >= question.n);
            // each of the n answers has a seed of its own, derived from the one on record
            let params = SamplingParams { seed: sampling.seed.wrapping_add(index as u64), ..sampling.clone() };
            let job = Generate {
                context: context.clone(),
                prompt: prompt.tokens.clone(),
                cacheable_prefix: prompt.cacheable_prefix,
                params,
                adapter: self.adapter_lease(),
                replica: self.replica(),
                sink: Box::new(sink),
            };
            context.bound("a device was found", self.pool.send(job)).await?;
            endings.push(ending);
        }
        drop(events);
        let mut response = SpecialistAnswer { sampling, ..SpecialistAnswer::default() };
        for ending in endings {
            let said = ending.await.map_err(|_| NyxError::Internal("the device dropped a sequence".into()))??;
            add_timings(&mut response, &said.finished, said.first_token.map(|at| at.duration_since(context.asked).as_secs_f64() * 1e3));
            if response.answers.is_empty() && said.finished.usage.completion_tokens > 0 {
                let Finished { mean_entropy, max_entropy, mean_logprob, .. } = said.finished;
                let [mean_entropy, max_entropy, mean_logprob] =
                    [mean_entropy, max_entropy, mean_logprob].map(|value| Some(f64::from(value)));
                response.signals = Signals { mean_entropy, max_entropy, mean_logprob, ..Signals::default() };
            }
            response.findings.extend(said.findings);
            response.answers.push(Answer { text: said.text, finish_reason: said.finish_reason.to_owned() });
        }
        Ok(response)
    }

    /// Scores the choices as continuations: the answer is the likeliest, its probability the share of its likelihood.
    async fn choose(
        &self,
        context: &RequestContext,
        prompt: Prompt,
        choices: &[String],
        continuations: Vec<Vec<u32>>,
        sampling: SamplingParams,
    ) -> Result<SpecialistAnswer, NyxError> {
        let longest = continuations.iter().map(Vec::len).max().unwrap_or(0);
        if prompt.tokens.len() + longest > self.context_length {
            let overflow =
                nyx_engine::EngineError::ContextOverflow { prompt: prompt.tokens.len(), max_tokens: longest, window: self.context_length };
            return Err(overflow.into());
        }
        let started = Instant::now();
        let prompt_tokens = prompt.tokens.len() as u64;
        let score = Score {
            context: context.clone(),
            prompt: prompt.tokens,
            cacheable_prefix: prompt.cacheable_prefix,
            continuations,
            adapter: self.adapter_lease(),
            replica: self.replica(),
        };
        let scores = context.bound("continuations were scored", self.pool.send(score)).await?;
        let probabilities =
            nyx_specialists::bandit::softmax(&scores.iter().map(nyx_engine::ContinuationScore::total).collect::<Vec<_>>(), 1.0);
        let best = nyx_specialists::bandit::best(&probabilities).unwrap_or_default();
        let signals = Signals { mean_logprob: scores.get(best).map(nyx_engine::ContinuationScore::mean), ..Signals::default() };
        let usage = TokenUsage { prompt_tokens, total_tokens: prompt_tokens, ..TokenUsage::default() };
        let timings = Timings { prefill_ms: ms(started), first_token_ms: Some(ms(context.asked)), ..Timings::default() };
        let answers = vec![Answer { text: choices.get(best).cloned().unwrap_or_default(), finish_reason: "choice".into() }];
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
    // the prompt is one, whatever the number of answers
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

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
