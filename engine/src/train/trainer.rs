//! The training loop.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::adapter::{Base, Layout};
use super::frozen::{FrozenModel, Multiplier};
use super::micro_batch::{self, MicroBatch};
use super::optimiser::Moments;
use super::options::{Example, TrainOptions};
use super::pass::{LoraActivations, Model, Tape};
use super::state;
use crate::{EngineError, ModelFiles, ModelInfo, Result};

/// Progress of a run, reported after each step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Number of completed steps.
    pub step: u64,
    /// Total number of steps of the run.
    pub steps: u64,
    /// Mean loss of the step's examples.
    pub loss: f64,
    /// Mean margin in nats between preferred and rejected continuations under the policy; `None` if
    /// the step has no example with a comparing objective.
    pub margin: Option<f64>,
    /// L2 norm of the gradient before clipping.
    pub norm: f64,
    /// Number of tokens of the step's examples; a shared prefix is computed once but counted for
    /// each example.
    pub tokens: u64,
    /// Time since the start of [`Trainer::run`].
    pub elapsed: Duration,
}

/// Result of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Number of completed steps, including those before a resume.
    pub steps: u64,
    /// Whether all steps were completed; `false` if the caller ended the run.
    pub complete: bool,
    /// Mean loss of each step of this call; steps before a resume are not included.
    pub losses: Vec<f64>,
    /// Number of tokens processed in this call.
    pub tokens: u64,
    /// Duration of this call in seconds.
    pub seconds: f64,
}

/// Trains one LoRA adapter on a frozen base model.
#[derive(Debug)]
pub struct Trainer {
    model: Model,
    info: ModelInfo,
    options: TrainOptions,
    pub(super) layout: Layout,
    pub(super) values: Vec<f32>,
    moments: Moments,
}

impl Trainer {
    /// Loads the base model from `files` and initialises a new adapter.
    ///
    /// # Errors
    /// [`EngineError::Training`] names an invalid option or an unsupported model shape; other
    /// errors when the files cannot be read.
    pub fn new(files: &ModelFiles, options: TrainOptions) -> Result<Self> {
        options.check().map_err(|reason| EngineError::Training { reason })?;
        let frozen = FrozenModel::load(files)?;
        let layout = Layout::new(&frozen.config, options.lora.clone())?;
        let threads = match options.threads {
            0 => std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get),
            threads => threads,
        };
        let values = layout.begin(options.seed);
        let moments = Moments::new(layout.len);
        let model =
            Model::new(frozen, Multiplier::new(threads, options.precision)?, options.checkpoint);
        Ok(Self { model, info: files.info().clone(), options, layout, values, moments })
    }

    /// Starts from the weights of the adapter in the PEFT folder `folder`, which must have the
    /// configured shape. Call it before [`run`](Self::run): the optimiser state is not reset.
    ///
    /// # Errors
    /// The folder does not contain an adapter of this shape.
    pub fn begin_from(&mut self, folder: &Path) -> Result<()> {
        self.values = self.layout.read(&self.model.frozen.config, folder)?;
        Ok(())
    }

    /// Sets a callback that is invoked after each layer and each block of logits, in which the
    /// caller can run other work.
    pub fn pause_by(&mut self, pause: impl FnMut() + Send + 'static) {
        self.model.pause = Box::new(pause);
    }

    /// The training options.
    pub fn options(&self) -> &TrainOptions {
        &self.options
    }

    /// Number of trained parameters.
    pub fn parameters(&self) -> usize {
        self.layout.len / self.layout.padded * self.layout.shape.rank
    }

    /// Trains on `examples`; `on_progress` is called after every step and may end the run. With
    /// `resume`, continues from the checkpoint in that file if it has the same examples, options
    /// and base, and writes a checkpoint there every 20 s and when the caller ends the run; the
    /// file is deleted when all steps are completed. The same examples, options and number of
    /// threads give the same adapter, interrupted or not.
    ///
    /// # Errors
    /// An example is invalid (the message has its number, from 1), the loss is not finite, or the
    /// checkpoint cannot be written.
    pub fn run(
        &mut self,
        examples: &[Example],
        resume: Option<&Path>,
        on_progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
    ) -> Result<Summary> {
        self.check_examples(examples)?;
        let per_epoch = examples.len().div_ceil(self.options.batch) as u64;
        let steps = per_epoch * self.options.epochs as u64;
        let key = state::key(&self.options, &self.info.sha256, examples);
        if let Some((values, moments)) =
            resume.and_then(|path| state::read(path, &key, self.layout.len))
        {
            (self.values, self.moments) = (values, moments);
        }
        let started = Instant::now();
        let (mut tokens, mut losses, mut kept_at) = (0, Vec::new(), Instant::now());
        let mut order = Vec::new();
        let mut references: Vec<Option<Vec<Vec<f32>>>> = vec![None; examples.len()];
        let mut gradient = vec![0.0; self.layout.len];
        while self.moments.step < steps {
            let (epoch, at) =
                (self.moments.step / per_epoch, (self.moments.step % per_epoch) as usize);
            if at == 0 || order.is_empty() {
                order = (0..examples.len()).collect();
                order.shuffle(&mut StdRng::seed_from_u64(self.options.seed.wrapping_add(epoch)));
            }
            let chosen: Vec<usize> =
                order[at * self.options.batch..].iter().take(self.options.batch).copied().collect();
            gradient.fill(0.0);
            let made = self.step(examples, &chosen, &mut references, &mut gradient)?;
            if !made.loss.is_finite() {
                let reason = format!(
                    "the loss of step {} is {}: the weights or the examples contain non-finite values",
                    self.moments.step, made.loss
                );
                return Err(EngineError::Training { reason });
            }
            let norm =
                self.moments.step(&self.options.optimiser, steps, &mut self.values, &gradient);
            tokens += made.tokens;
            losses.push(made.loss);
            let progress = Progress {
                step: self.moments.step,
                steps,
                loss: made.loss,
                margin: made.margin,
                norm,
                tokens: made.tokens,
                elapsed: started.elapsed(),
            };
            let ended = on_progress(&progress).is_break();
            if let Some(path) = resume.filter(|_| ended || kept_at.elapsed() >= KEPT_EVERY) {
                state::write(path, &key, &self.values, &self.moments)?;
                kept_at = Instant::now();
            }
            if ended {
                break;
            }
        }
        let complete = self.moments.step == steps;
        if let Some(path) = resume.filter(|path| complete && path.exists()) {
            std::fs::remove_file(path)
                .map_err(|source| EngineError::Io { path: path.to_owned(), source })?;
        }
        Ok(Summary {
            steps: self.moments.step,
            complete,
            losses,
            tokens,
            seconds: started.elapsed().as_secs_f64(),
        })
    }

    /// Performs one step on a batch with learning rate `rate`; returns the mean loss before the
    /// step. For comparisons with other implementations: [`run`](Self::run) uses a schedule.
    ///
    /// # Errors
    /// An example is invalid.
    pub fn single_step(&mut self, batch: &[Example], rate: f64) -> Result<f64> {
        self.check_examples(batch)?;
        let (chosen, mut gradient): (Vec<usize>, _) =
            ((0..batch.len()).collect(), vec![0.0; self.layout.len]);
        let made = self.step(batch, &chosen, &mut vec![None; batch.len()], &mut gradient)?;
        self.moments.step_at(&self.options.optimiser, rate, &mut self.values, &gradient);
        Ok(made.loss)
    }

    /// Log-probabilities in nats by example, continuation and token, with or without the adapter.
    ///
    /// # Errors
    /// An example is invalid, for instance longer than the context window.
    pub fn log_probabilities(
        &mut self,
        examples: &[Example],
        with_adapter: bool,
    ) -> Result<Vec<Vec<Vec<f32>>>> {
        self.check_examples(examples)?;
        let chosen: Vec<usize> = (0..examples.len()).collect();
        let mut log_probs = vec![Vec::new(); examples.len()];
        for part in micro_batch::parts(examples, &chosen, self.options.micro_tokens) {
            let round = MicroBatch::new(examples, &part, &[], true);
            let low = with_adapter
                .then_some(LoraActivations { layout: &self.layout, values: &self.values });
            let x = self.model.forward(&round.batch, low, None);
            let (flat, _) = self.model.log_probabilities(&round.batch, &x, false);
            for (index, logps) in part.iter().zip(round.unflatten(&flat)) {
                log_probs[*index] = logps;
            }
        }
        Ok(log_probs)
    }

    /// Writes the adapter as a PEFT folder in f32, with the name and checksum of the base.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn save(&self, folder: &Path) -> Result<()> {
        let base = Base { name: &self.info.name, sha256: &self.info.sha256 };
        self.layout.save(&self.values, &self.model.frozen.config, &base, folder)
    }

    fn check_examples(&self, examples: &[Example]) -> Result<()> {
        let config = &self.model.frozen.config;
        let wrong = |at: usize, reason: String| {
            Err(EngineError::Training { reason: format!("example {}: {reason}", at + 1) })
        };
        if examples.is_empty() {
            return Err(EngineError::Training { reason: "there are no examples".into() });
        }
        for (at, example) in examples.iter().enumerate() {
            if example.prompt.is_empty() || example.continuations.iter().any(Vec::is_empty) {
                return wrong(
                    at,
                    "its prompt or a continuation is empty, expected at least one token each"
                        .into(),
                );
            }
            let longest = example.prompt.len()
                + example.continuations.iter().map(Vec::len).max().unwrap_or(0);
            if longest > config.context_length {
                return wrong(
                    at,
                    format!("it has {longest} tokens, the model holds {}", config.context_length),
                );
            }
            let tokens = example.prompt.iter().chain(example.continuations.iter().flatten());
            if let Some(token) = tokens.copied().find(|token| *token as usize >= config.vocabulary)
            {
                return Err(EngineError::TokenOutOfRange { token, vocabulary: config.vocabulary });
            }
            if let Err(reason) = example.target.check(example.continuations.len()) {
                return wrong(at, reason);
            }
        }
        Ok(())
    }

    /// Mean loss of all examples as one batch, its gradient in the layout of the parameters, and
    /// the number of tokens.
    #[cfg(test)]
    pub(super) fn gradient(&mut self, examples: &[Example]) -> Result<(f64, Vec<f32>, u64)> {
        self.check_examples(examples)?;
        let (chosen, mut gradient): (Vec<usize>, _) =
            ((0..examples.len()).collect(), vec![0.0; self.layout.len]);
        let made = self.step(examples, &chosen, &mut vec![None; examples.len()], &mut gradient)?;
        Ok((made.loss, gradient, made.tokens))
    }

    /// Computes missing reference log-probabilities of the examples that need them, and returns the
    /// reference log-probabilities of the mismatched answers. The batch is built without a shared
    /// prefix: the values depend on the example alone, so a resumed run computes the same values.
    fn refer(
        &mut self,
        examples: &[Example],
        part: &[usize],
        strange: &[Option<usize>],
        references: &mut [Option<Vec<Vec<f32>>>],
    ) -> Vec<f64> {
        let missing = |index: &usize| {
            examples[*index].target.needs_reference() && references[*index].is_none()
        };
        let asked: Vec<(usize, Option<usize>)> = part
            .iter()
            .copied()
            .zip(strange.iter().copied())
            .filter(|(index, stranger)| missing(index) || stranger.is_some())
            .collect();
        if asked.is_empty() {
            return Vec::new();
        }
        let (asked, mismatched_pairs): (Vec<usize>, Vec<Option<usize>>) = asked.into_iter().unzip();
        let round = MicroBatch::new(examples, &asked, &mismatched_pairs, false);
        let x = self.model.forward(&round.batch, None, None);
        let (flat, _) = self.model.log_probabilities(&round.batch, &x, false);
        for (index, logps) in asked.iter().zip(round.unflatten(&flat)) {
            references[*index].get_or_insert(logps);
        }
        round.strange(&flat)
    }

    /// Computes one batch's mean loss and adds its gradient to `gradient`.
    fn step(
        &mut self,
        examples: &[Example],
        chosen: &[usize],
        references: &mut [Option<Vec<Vec<f32>>>],
        gradient: &mut [f32],
    ) -> Result<Made> {
        let mut all = Made::default();
        let mismatched_pairs = micro_batch::mismatched_pairs(examples, chosen);
        let share = 1.0 / chosen.len() as f64;
        for part in micro_batch::parts(examples, chosen, self.options.micro_tokens) {
            let strange: Vec<_> =
                part.iter().map(|index| mismatched_pairs.get(index).copied()).collect();
            let round = MicroBatch::new(examples, &part, &strange, true);
            all.tokens += round.tokens() as u64;
            let strange_references = self.refer(examples, &part, &strange, references);
            let low = LoraActivations { layout: &self.layout, values: &self.values };
            let mut tape = Tape::default();
            let x = self.model.forward(&round.batch, Some(low), Some(&mut tape));
            let (flat, head) = self.model.log_probabilities(&round.batch, &x, true);
            drop(x);
            let judged =
                round.judge(examples, &flat, references, &strange_references, &self.options.loss);
            all.loss += judged.loss * share;
            all.add_margins(&judged.margins);
            let weights: Vec<f32> =
                judged.weights.iter().map(|weight| (weight * share) as f32).collect();
            let dx = self.model.log_probabilities_backward(&round.batch, &tape, head, &weights);
            self.model.backward(&round.batch, low, &mut tape, dx, gradient);
        }
        all.margin = (all.margins > 0).then(|| all.margin_sum / all.margins as f64);
        Ok(all)
    }
}

/// Interval between checkpoints.
const KEPT_EVERY: Duration = Duration::from_secs(20);

/// Statistics of a step.
#[derive(Debug, Default)]
struct Made {
    loss: f64,
    margin: Option<f64>,
    margin_sum: f64,
    margins: usize,
    tokens: u64,
}

impl Made {
    fn add_margins(&mut self, margins: &[f64]) {
        self.margin_sum += margins.iter().sum::<f64>();
        self.margins += margins.len();
    }
}
