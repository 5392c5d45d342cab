//! A specialist: retrieves, writes its prompt, speaks through the GPU pool, reads its own answer and judges it.

mod belief;
mod forecast;
mod lesson;
mod prompt;
mod retrieve;
mod screen;
mod sink;
mod timing;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use actix::{Actor, Context, Handler, Message, ResponseFuture};
use nyx_engine::{Finished, SamplingParams, Text};
use nyx_specialists::confidence::Signals;
use nyx_specialists::safety::Finding;
use nyx_specialists::time::Course;
use nyx_specialists::{Evidence, Outcome, Retrieval, Situation, SpecialistPolicy, Verdict};
use tokio::sync::mpsc;

pub use lesson::{Present, Presented};
pub(crate) use prompt::common_prefix;
pub use prompt::{Prompt, PromptWriter};
pub(crate) use screen::STOPPED;
pub use screen::Screened;
pub use timing::Timer;

use crate::adapters::{AdapterLease, Adapters, CANARY_NOTE, Voice};
use crate::cells::{CellStep, CellStream};
use crate::confidence::Calibration;
use crate::decision::{AdapterVersion, Answer, Timings, TokenUsage};
use crate::facts::Facts;
use crate::gpu::{Generate, GpuPool, Score};
use crate::memory::MemoryKeeper;
use crate::observe::Vitals;
use crate::question::{Question, StreamEvent};
use crate::supervise::Supervised;
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
    pub voice: Voice,
    pub pool: Supervised<GpuPool>,
    pub memory: Supervised<MemoryKeeper>,
    pub facts: Facts,
    pub cells: CellStream,
    /// Of a specialist that times its answers.
    pub timer: Option<Arc<Timer>>,
    pub calibration: Calibration,
}

/// The actor of one specialist.
pub struct Specialist {
    parts: Arc<SpecialistParts>,
    vitals: Arc<Vitals>,
}

/// Answers a question that has been given to this specialist.
#[derive(Message)]
#[rtype(result = "Result<Spoken, NyxError>")]
pub struct Speak {
    pub context: RequestContext,
    pub question: Arc<Question>,
    pub screened: Arc<Screened>,
    pub events: Option<mpsc::Sender<StreamEvent>>,
}

/// What a specialist said, and all that is known of it.
#[derive(Debug, Default)]
pub struct Spoken {
    pub evidence: Vec<Evidence>,
    pub answers: Vec<Answer>,
    pub choice_probabilities: Option<Vec<f64>>,
    pub probability: Option<f64>,
    /// How likely the answer is right, in [0, 1]; `None` where nothing was learned yet.
    pub confidence: Option<f64>,
    /// What the confidence is read from.
    pub(crate) signals: Signals,
    pub verdict: Option<Verdict>,
    pub adapter: Option<AdapterVersion>,
    pub sampling: SamplingParams,
    pub usage: TokenUsage,
    /// What took part in the answer, by name: see [`Decision::notes`](crate::Decision::notes).
    pub notes: BTreeMap<String, serde_json::Value>,
    /// What a specialist that times its answers did.
    pub(crate) course: Option<Course>,
    /// What screening found in the answers.
    pub(crate) findings: Vec<Finding>,
    /// `decide_ms` and `total_ms` are the orchestrator's to fill.
    pub timings: Timings,
}

impl Specialist {
    pub fn new(parts: Arc<SpecialistParts>, vitals: Arc<Vitals>) -> Self {
        Self { parts, vitals }
    }
}

impl Actor for Specialist {
    type Context = Context<Self>;
}

impl Handler<Speak> for Specialist {
    type Result = ResponseFuture<Result<Spoken, NyxError>>;

    fn handle(&mut self, message: Speak, _: &mut Self::Context) -> Self::Result {
        self.vitals.taken_up();
        let parts = Arc::clone(&self.parts);
        Box::pin(async move {
            // taken up once: whatever is promoted meanwhile, this request ends as it began
            let question = &message.question;
            let asked = crate::orchestrator::last_question(question);
            let voice = parts.adapters.voice(parts.name(), question.adapter.as_ref(), question.sampling.seed, &asked);
            let voice = message.context.bound("the adapter was looked up", voice).await?;
            Arc::new(SpecialistParts { voice, ..(*parts).clone() }).speak(message).await
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

    async fn speak(self: Arc<Self>, message: Speak) -> Result<Spoken, NyxError> {
        let Speak { context, question, screened, events } = message;
        let retrieving = Instant::now();
        let asked = crate::orchestrator::last_question(&question);
        self.check_size(&question)?;
        let evidence = self.retrieve(&context, &asked, &question.given.memory).await?;
        let retrieve_ms = ms(retrieving);
        if self.policy.as_ref().is_some_and(|policy| policy.retrieval != Retrieval::None) {
            let ids = evidence.iter().map(|item| item.id.clone()).collect();
            self.cells.publish(Some(context.id), Some(self.name()), CellStep::Retrieved { evidence: ids, retrieve_ms });
        }
        let deadline_ms = context.budget_ms();
        let Written { prompt, evidence, choices } = self.write_apart(&context, &question, evidence, deadline_ms).await?;
        let mut sampling = self.sampling(&question, prompt.tokens.len())?;
        let timer = self.timer.as_ref().filter(|_| question.choices.is_none());
        let plan = timer.and_then(|timer| self.plan(&context, timer, prompt.tokens.len(), &sampling, question.given.allow_defer));
        let course = Self::instead(plan.as_ref(), &mut sampling);
        let mut spoken = match &question.choices {
            None if course == Course::Defer => Spoken { sampling, ..Spoken::default() },
            Some(texts) => self.choose(&context, prompt, texts, choices, sampling).await?,
            None => self.generate(&context, prompt, &question, sampling, &screened, events).await?,
        };
        spoken.notes.insert("safety".into(), screened.note(std::mem::take(&mut spoken.findings)));
        if let Some(timer) = &self.timer {
            timer.observe(&spoken);
            spoken.notes.insert("timing".into(), serde_json::json!({ "plan": plan }));
        }
        spoken.course = plan.as_ref().map(|plan| plan.chosen.course);
        spoken.timings.retrieve_ms = retrieve_ms;
        if course != Course::Defer {
            self.sign(&mut spoken);
        }
        self.forecast(&question, &mut spoken);
        if let Some(policy) = &self.policy {
            let answer = spoken.answers.first().map_or("", |answer| answer.text.as_str());
            let complete = spoken.answers.iter().all(|answer| matches!(answer.finish_reason.as_str(), "stop" | "choice"));
            if policy.retrieval != Retrieval::None && question.choices.is_none() {
                spoken.notes.insert("cited".into(), nyx_specialists::cited(answer, &evidence).into());
            }
            let elapsed_ms = ms(context.asked);
            spoken.verdict = policy.judge(&Outcome { answer, evidence: &evidence, elapsed_ms, deadline_ms, complete });
        }
        spoken.evidence = evidence;
        if self.policy.is_some() {
            spoken.signals.p_true = self.p_true(&context, &question, &asked, &spoken).await;
            self.calibration.judge(self.name(), &question, &mut spoken);
        }
        Ok(spoken)
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
            question.messages.iter().map(|message| &message.content).chain(choices).chain(&question.given.context).map(String::len).sum();
        if bytes > self.context_length * self.text.longest_token() {
            return Err(nyx_engine::EngineError::PromptTooLong { bytes, window: self.context_length }.into());
        }
        Ok(())
    }

    /// Writes the prompt; where it leaves no room for an answer, with less evidence: the worst is left out first, the best one cut.
    fn write(&self, question: &Question, mut evidence: Vec<Evidence>, deadline_ms: u64) -> Result<Written, NyxError> {
        let asked = crate::orchestrator::last_question(question);
        let choices = question.choices.iter().flatten().map(|choice| self.text.encode(choice)).collect::<Result<Vec<_>, _>>()?;
        let usual = self.policy.as_ref().map_or(BASE_MAX_TOKENS, |policy| policy.max_tokens).min(self.context_length / 4);
        let room = choices.iter().map(Vec::len).max().unwrap_or_else(|| question.sampling.max_tokens.unwrap_or(usual));
        let now = question.now();
        loop {
            let situation = Situation { now, deadline_ms, evidence: &evidence, question: &asked };
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
        self.voice.lease.clone()
    }

    /// Says through what it was spoken.
    fn sign(&self, spoken: &mut Spoken) {
        spoken.adapter.clone_from(&self.voice.version);
        if let Some(note) = &self.voice.canary {
            spoken.notes.insert(CANARY_NOTE.into(), note.clone());
        }
        if self.voice.version.is_none() && self.voice.generation > 0 {
            // the base as a generation of its own, after a rollback
            spoken.notes.insert("generation".into(), self.voice.generation.into());
        }
    }

    fn pool_group(&self) -> Option<usize> {
        self.policy.as_ref().and_then(|policy| policy.group)
    }

    async fn generate(
        &self,
        context: &RequestContext,
        prompt: Prompt,
        question: &Question,
        sampling: SamplingParams,
        screened: &Screened,
        events: Option<mpsc::Sender<StreamEvent>>,
    ) -> Result<Spoken, NyxError> {
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
                group: self.pool_group(),
                sink: Box::new(sink),
            };
            context.bound("a device was found", self.pool.send(job)).await?;
            endings.push(ending);
        }
        drop(events);
        let mut spoken = Spoken { sampling, ..Spoken::default() };
        for ending in endings {
            let said = ending.await.map_err(|_| NyxError::Internal("the device dropped a sequence".into()))??;
            add_timings(&mut spoken, &said.finished, said.first_token.map(|at| at.duration_since(context.asked).as_secs_f64() * 1e3));
            if spoken.answers.is_empty() && said.finished.usage.completion_tokens > 0 {
                let Finished { mean_entropy, max_entropy, mean_logprob, .. } = said.finished;
                let [mean_entropy, max_entropy, mean_logprob] =
                    [mean_entropy, max_entropy, mean_logprob].map(|value| Some(f64::from(value)));
                spoken.signals = Signals { mean_entropy, max_entropy, mean_logprob, ..Signals::default() };
            }
            spoken.findings.extend(said.findings);
            spoken.answers.push(Answer { text: said.text, finish_reason: said.finish_reason.to_owned() });
        }
        Ok(spoken)
    }

    /// Scores the choices as continuations: the answer is the likeliest, its probability the share of its likelihood.
    async fn choose(
        &self,
        context: &RequestContext,
        prompt: Prompt,
        choices: &[String],
        continuations: Vec<Vec<u32>>,
        sampling: SamplingParams,
    ) -> Result<Spoken, NyxError> {
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
            group: self.pool_group(),
        };
        let scores = context.bound("continuations were scored", self.pool.send(score)).await?;
        let probabilities =
            nyx_specialists::bandit::softmax(&scores.iter().map(nyx_engine::ContinuationScore::total).collect::<Vec<_>>(), 1.0);
        let best = nyx_specialists::bandit::best(&probabilities).unwrap_or_default();
        let signals = Signals { mean_logprob: scores.get(best).map(nyx_engine::ContinuationScore::mean), ..Signals::default() };
        let usage = TokenUsage { prompt_tokens, total_tokens: prompt_tokens, ..TokenUsage::default() };
        let timings = Timings { prefill_ms: ms(started), first_token_ms: Some(ms(context.asked)), ..Timings::default() };
        let answers = vec![Answer { text: choices.get(best).cloned().unwrap_or_default(), finish_reason: "choice".into() }];
        Ok(Spoken { answers, choice_probabilities: Some(probabilities), signals, sampling, usage, timings, ..Spoken::default() })
    }
}

fn add_timings(spoken: &mut Spoken, finished: &Finished, first_token_ms: Option<f64>) {
    let usage = finished.usage;
    // the prompt is one, whatever the number of answers
    spoken.usage.prompt_tokens = usage.prompt_tokens as u64;
    spoken.usage.cached_tokens = spoken.usage.cached_tokens.max(usage.cached_tokens as u64);
    spoken.usage.completion_tokens += usage.completion_tokens as u64;
    spoken.usage.total_tokens = spoken.usage.prompt_tokens + spoken.usage.completion_tokens;
    let timings = &mut spoken.timings;
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
