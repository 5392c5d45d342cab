//! The orchestrator: has the master decide which specialist speaks, has it response, judged and recorded.

mod choice;
pub(crate) mod deferred;
mod examples;
mod master;
pub mod messages;
pub(crate) mod record;
mod remember;
mod route;
mod safety;
mod weights;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{Actor, Context, Handler, ResponseFuture};
use chrono::Datelike;
use nyx_engine::{ModelInfo, Text};
use nyx_specialists::SpecialistPolicy;
use nyx_specialists::safety::SafetyPolicy;
use tokio::sync::{OnceCell, Semaphore, mpsc};
use tracing::Instrument as _;

pub use choice::{Choice, choose};
use examples::Examples;
use master::Master;
use messages::{Ask, Route, Routing, TraitWeights, TraitWeightsMoved, UpdateTraitWeight};
use weights::KnownWeights;

use crate::cells::CellStream;
use crate::devices::GpuPool;
use crate::memory::MemoryKeeper;
use crate::metrics::Metrics;
use crate::observe::ActorMetrics;
use crate::options::RoutingOptions;
use crate::phoebe::{self, Phoebe};
use crate::specialist::{AnswerRequest, Screened, Specialist, SpecialistAnswer};
use crate::supervise::{ActorRef, SEND_LIMIT};
use crate::{NyxError, RequestContext};
use nyx_domain::{CellStep, Decision, Question, RequestTrace, Status, StreamEvent, Target, Timings, Trace, TraitWeightChange};

/// What a device may take after the deadline to end the step that it is in: then it says what there is.
pub(crate) const STEP_GRACE: Duration = Duration::from_secs(10);
const MAX_CHOICES: usize = 64;
const MAX_ANSWERS: usize = 8;
const MAX_MESSAGES: usize = 1024;

/// Everything the orchestrator works with; outlives an instance that panics.
pub struct OrchestratorParts {
    pub instance: String,
    pub text: Arc<Text>,
    pub model: Arc<ModelInfo>,
    pub specialists: Arc<[SpecialistPolicy]>,
    /// By name, `base` among them.
    pub actors: BTreeMap<String, ActorRef<Specialist>>,
    pub pool: ActorRef<GpuPool>,
    pub phoebe: ActorRef<Phoebe>,
    pub memory: ActorRef<MemoryKeeper>,
    pub cells: CellStream,
    pub metrics: Arc<Metrics>,
    pub options: RoutingOptions,
    pub safety: Arc<SafetyPolicy>,
    /// Places for answers that come later.
    pub later: Arc<Semaphore>,
    /// Places for decisions on their way to the record.
    pub recording: Arc<Semaphore>,
    master: Master,
    examples: Examples,
    /// Each name's mean log-probability after the content-free question, measured once.
    content_free: OnceCell<Vec<f64>>,
    weights: KnownWeights,
}

/// What an orchestrator is made of.
pub struct OrchestratorSetup {
    pub instance: String,
    pub text: Arc<Text>,
    pub model: Arc<ModelInfo>,
    pub specialists: Arc<[SpecialistPolicy]>,
    pub actors: BTreeMap<String, ActorRef<Specialist>>,
    pub pool: ActorRef<GpuPool>,
    pub phoebe: ActorRef<Phoebe>,
    pub memory: ActorRef<MemoryKeeper>,
    pub cells: CellStream,
    pub metrics: Arc<Metrics>,
    pub options: RoutingOptions,
    pub safety: Arc<SafetyPolicy>,
    /// Places for answers that come later.
    pub later: Arc<Semaphore>,
    /// Places for decisions on their way to the record: [`record::PLACES`].
    pub recording: Arc<Semaphore>,
}

/// The actor.
pub struct Orchestrator {
    parts: Arc<OrchestratorParts>,
    metrics: Arc<ActorMetrics>,
}

impl Orchestrator {
    pub fn new(parts: Arc<OrchestratorParts>, metrics: Arc<ActorMetrics>) -> Self {
        Self { parts, metrics }
    }
}

impl Actor for Orchestrator {
    type Context = Context<Self>;
}

impl Handler<Ask> for Orchestrator {
    type Result = ResponseFuture<Result<Box<Decision>, NyxError>>;

    fn handle(&mut self, message: Ask, _: &mut Self::Context) -> Self::Result {
        self.metrics.taken_up();
        let parts = Arc::clone(&self.parts);
        let span = message.context.span.clone();
        Box::pin(async move { parts.ask(message).await }.instrument(span))
    }
}

impl Handler<UpdateTraitWeight> for Orchestrator {
    type Result = ResponseFuture<Result<TraitWeightChange, NyxError>>;

    fn handle(&mut self, message: UpdateTraitWeight, _: &mut Self::Context) -> Self::Result {
        self.metrics.taken_up();
        let parts = Arc::clone(&self.parts);
        Box::pin(async move { parts.update_trait_weight(message.0).await })
    }
}

impl Handler<TraitWeightsMoved> for Orchestrator {
    type Result = ResponseFuture<Result<(), NyxError>>;

    fn handle(&mut self, message: TraitWeightsMoved, _: &mut Self::Context) -> Self::Result {
        self.metrics.taken_up();
        let parts = Arc::clone(&self.parts);
        Box::pin(async move { parts.trait_weights_moved(&message.0).await })
    }
}

impl Handler<TraitWeights> for Orchestrator {
    type Result = ResponseFuture<Result<BTreeMap<String, f64>, NyxError>>;

    fn handle(&mut self, _: TraitWeights, _: &mut Self::Context) -> Self::Result {
        self.metrics.taken_up();
        let parts = Arc::clone(&self.parts);
        Box::pin(async move { Ok(parts.fresh_weights(Instant::now() + SEND_LIMIT).await) })
    }
}

impl Handler<Route> for Orchestrator {
    type Result = ResponseFuture<Result<Routing, NyxError>>;

    fn handle(&mut self, message: Route, _: &mut Self::Context) -> Self::Result {
        self.metrics.taken_up();
        let parts = Arc::clone(&self.parts);
        Box::pin(async move {
            let trait_weights = parts.fresh_weights(message.context.deadline).await;
            // nobody is drawn
            Ok(parts.score_candidates(&message.context, &message.question, &trait_weights, 0.0).await?.0)
        })
    }
}

impl OrchestratorParts {
    /// Reads the trait weights from phoebe, and embeds the specialists' examples.
    ///
    /// # Errors
    /// When phoebe or the embedder does not answer, or the names cannot be encoded.
    pub async fn new(setup: OrchestratorSetup) -> Result<Self, NyxError> {
        let master = Master::new(&setup.text, &setup.specialists)?;
        let weights = KnownWeights::load(&setup.phoebe, &setup.specialists).await?;
        let examples = Examples::embed(&setup.memory, &setup.specialists).await?;
        Ok(Self {
            instance: setup.instance,
            text: setup.text,
            model: setup.model,
            specialists: setup.specialists,
            actors: setup.actors,
            pool: setup.pool,
            phoebe: setup.phoebe,
            memory: setup.memory,
            cells: setup.cells,
            metrics: setup.metrics,
            options: setup.options,
            safety: setup.safety,
            later: setup.later,
            recording: setup.recording,
            master,
            examples,
            content_free: OnceCell::new(),
            weights,
        })
    }

    fn known(&self) -> String {
        let names: Vec<&str> = self.specialists.iter().map(|specialist| specialist.name.as_str()).collect();
        names.join(", ")
    }

    async fn ask(self: &Arc<Self>, message: Ask) -> Result<Box<Decision>, NyxError> {
        let Ask { context, mut question, events } = message;
        self.check(&question)?;
        let asked_at = phoebe::now();
        let asked = question.last_user_message();
        let requested = question.target.model();
        self.cells.publish(Some(context.id), None, CellStep::Asked { requested: requested.clone(), question: asked.clone() });
        let screened = self.screen(&context, &question, &asked);
        let inputs = question.inputs.clone();
        let later = self.place_later(&mut question, events.is_some());
        let question = Arc::new(question);
        let trait_weights = self.fresh_weights(context.deadline).await;
        let routed = match self.route(&context, &question, &asked, &screened, &trait_weights).await {
            Ok(routed) => routed,
            Err(error) => return Err(self.failed(&context, None, error)),
        };
        let name = routed.specialist.clone();
        let decided = CellStep::Decided {
            propensity: routed.propensity,
            propensities: routed.routing.propensities.clone(),
            trait_weights: trait_weights.clone(),
        };
        self.cells.publish(Some(context.id), Some(&name), decided);
        let left = events
            .as_ref()
            .is_some_and(|events| events.try_send(StreamEvent::Decided { decision: context.id, specialist: name.clone() }).is_err());
        let response = match (left, screened.refusal()) {
            (true, _) => Err(NyxError::Cancelled),
            (false, Some(text)) => Ok(safety::refused(&text, &question, &screened, events.as_ref())),
            (false, None) => self.speak(&context, &question, &screened, &name, events).await,
        };
        let mut decision = Box::new(Decision {
            id: context.id,
            asked_at,
            instance: self.instance.clone(),
            conversation: question.conversation.clone(),
            endpoint: question.endpoint.to_owned(),
            requested,
            messages: question.messages.clone(),
            inputs,
            trace: Trace { request: Some(RequestTrace { deadline_ms: context.budget_ms() }), ..Trace::default() },
            question: asked,
            specialist: routed.specialist,
            scores: routed.routing.scores,
            similarities: routed.routing.similarities,
            logits: routed.routing.logits,
            propensities: routed.routing.propensities,
            trait_weights,
            propensity: routed.propensity,
            evidence: Vec::new(),
            answers: Vec::new(),
            choices: question.choices.clone(),
            choice_probabilities: None,
            probability: None,
            confidence: None,
            activation: None,
            reward: 0.0,
            adapter: None,
            base_sha256: self.model.sha256.clone(),
            sampling: serde_json::Value::Null,
            usage: Default::default(),
            timings: Timings::default(),
            status: Status::Answered,
            error: None,
        });
        let mut reward = None;
        let mut deferred = false;
        let failure = match response {
            Ok(response) => {
                deferred = deferred::is_deferred(&response);
                reward = fill(&mut decision, response)?;
                None
            }
            Err(error) => {
                decision.status = if matches!(error, NyxError::Cancelled) { Status::Cancelled } else { Status::Failed };
                decision.error = Some(error.to_string());
                Some(error)
            }
        };
        decision.timings.decide_ms = routed.routing.decide_ms;
        decision.timings.total_ms = context.asked.elapsed().as_secs_f64() * 1e3;
        let recorded = self.recorded(&context, &question, decision, reward).await;
        let decision = match (failure, recorded) {
            (None, Ok(decision)) => decision,
            (Some(error), _) | (None, Err(error)) => return Err(self.failed(&context, Some(&name), error)),
        };
        if let (true, Some(later)) = (deferred, later) {
            self.answer_later(decision.clone(), later, screened, &context);
        }
        Ok(decision)
    }

    fn check(&self, question: &Question) -> Result<(), NyxError> {
        if let Target::Specialist(name) = &question.target
            && !self.actors.contains_key(name)
        {
            return Err(NyxError::UnknownSpecialist { name: name.clone(), known: self.known() });
        }
        if question.messages.is_empty() {
            return Err(NyxError::invalid("messages", "messages is empty, expected at least one"));
        }
        if question.messages.len() > MAX_MESSAGES {
            let found = question.messages.len();
            return Err(NyxError::invalid("messages", format!("messages has {found} entries, expected at most {MAX_MESSAGES}")));
        }
        if question.last_user_message().trim().is_empty() {
            return Err(NyxError::invalid("messages", "there is no user message with text in it, expected at least one"));
        }
        if !(1..=MAX_ANSWERS).contains(&question.n) {
            return Err(NyxError::invalid("n", format!("n is {}, expected 1 to {MAX_ANSWERS}", question.n)));
        }
        for (index, message) in question.messages.iter().enumerate() {
            phoebe::storable(&format!("messages[{index}].content"), &message.content)?;
        }
        let inputs = &question.inputs;
        inputs.context.as_deref().map_or(Ok(()), |context| phoebe::storable("context", context))?;
        inputs.external_key.as_deref().map_or(Ok(()), |key| phoebe::storable_name("external_key", key))?;
        if let Some(prior) = inputs.prior.filter(|prior| !(0.0..=1.0).contains(prior)) {
            return Err(NyxError::invalid("prior", format!("prior is {prior}, expected a probability from 0 to 1")));
        }
        for (param, moment) in [("now", inputs.now), ("memory.after", inputs.memory.after), ("memory.before", inputs.memory.before)] {
            // sums with days and months must not leave what a date can hold
            if let Some(moment) = moment.filter(|moment| !(1..=9_999).contains(&moment.year())) {
                return Err(NyxError::invalid(param, format!("{param} is {moment}, expected a moment in the years 1 to 9999")));
            }
        }
        let texts =
            question.messages.iter().map(|message| &message.content).chain(question.choices.iter().flatten()).chain(&inputs.context);
        let (bytes, window) = (texts.map(String::len).sum::<usize>(), self.model.context_length);
        if bytes > window.saturating_mul(self.text.longest_token()) {
            // before anything reads it: what cannot fit is not worth a screening
            return Err(nyx_engine::EngineError::PromptTooLong { bytes, window }.into());
        }
        question.conversation.as_deref().map_or(Ok(()), |conversation| phoebe::storable_name("conversation", conversation))?;
        for stop in &question.sampling.stop {
            phoebe::storable("stop", stop)?;
        }
        let Some(choices) = &question.choices else { return Ok(()) };
        if !(2..=MAX_CHOICES).contains(&choices.len()) {
            return Err(NyxError::invalid("choices", format!("choices has {} entries, expected 2 to {MAX_CHOICES}", choices.len())));
        }
        for (index, choice) in choices.iter().enumerate() {
            phoebe::storable(&format!("choices[{index}]"), choice)?;
            if choice.trim().is_empty() || choices[..index].contains(choice) {
                return Err(NyxError::invalid("choices", format!("choices[{index}] is {choice:?}, expected different, non-empty texts")));
            }
        }
        Ok(())
    }

    async fn speak(
        &self,
        context: &RequestContext,
        question: &Arc<Question>,
        screened: &Arc<Screened>,
        name: &str,
        events: Option<mpsc::Sender<StreamEvent>>,
    ) -> Result<SpecialistAnswer, NyxError> {
        let known = || NyxError::UnknownSpecialist { name: name.to_owned(), known: self.known() };
        let actor = self.actors.get(name).ok_or_else(known)?;
        let (question, screened) = (Arc::clone(question), Arc::clone(screened));
        let answer_by = context.deadline + STEP_GRACE;
        actor.send_until(AnswerRequest { context: context.clone(), question, screened, events }, answer_by).await
    }

    fn failed(&self, context: &RequestContext, specialist: Option<&str>, error: NyxError) -> NyxError {
        self.metrics.failure(error.error_type());
        self.cells.publish(Some(context.id), specialist, CellStep::Failed { error: error.error_type(), message: error.to_string() });
        error
    }
}

/// What was said, into the decision; the automatic reward with its rule, if there is one.
fn fill(decision: &mut Decision, response: SpecialistAnswer) -> Result<Option<(f64, String)>, NyxError> {
    let reason = |reason: &str| response.answers.iter().any(|answer| answer.finish_reason == reason);
    decision.status = if deferred::is_deferred(&response) {
        Status::Deferred
    } else if reason("cancelled") {
        Status::Cancelled
    } else if reason("deadline") {
        Status::Partial
    } else {
        Status::Answered
    };
    decision.evidence = response.evidence;
    decision.answers = response.answers;
    decision.choice_probabilities = response.choice_probabilities;
    decision.probability = response.probability;
    decision.confidence = response.confidence;
    decision.adapter = response.adapter;
    decision.sampling = serde_json::to_value(&response.sampling).map_err(|error| NyxError::Internal(error.to_string()))?;
    decision.usage = response.usage;
    decision.timings = response.timings;
    decision.trace.extend(response.trace);
    let judged = !matches!(decision.status, Status::Cancelled | Status::Deferred);
    let Some(automatic) = response.automatic_reward.filter(|_| judged) else { return Ok(None) };
    decision.activation = Some(automatic.activation);
    decision.reward = automatic.reward;
    Ok(Some((automatic.reward, automatic.rule)))
}
