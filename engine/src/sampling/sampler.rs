//! One sequence's sampler.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::SamplingParams;

/// Candidates sorted first when a nucleus is looked for: nearly always enough.
const NUCLEUS_GUESS: usize = 256;

/// Draws tokens for one sequence: its random numbers depend on its seed alone, whatever else is in the batch.
#[derive(Debug)]
pub(crate) struct Sampler {
    params: SamplingParams,
    rng: StdRng,
    /// How often each token stands in the prompt and in the answer.
    prompt_counts: Vec<(u32, u32)>,
    answer_counts: Vec<(u32, u32)>,
    scratch: Vec<(u32, f32)>,
}

/// What a step's raw distribution looked like, before temperature and penalties.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct StepStats {
    /// Natural logarithm of the chosen token's probability.
    pub logprob: f32,
    /// In nats.
    pub entropy: f32,
    /// log Σ exp(logit).
    pub log_normaliser: f32,
}

impl Sampler {
    pub(crate) fn new(params: SamplingParams, prompt: &[u32]) -> Self {
        let mut prompt_counts = Vec::new();
        if params.repetition_penalty != 1.0 {
            let mut sorted = prompt.to_vec();
            sorted.sort_unstable();
            sorted.dedup();
            prompt_counts.extend(sorted.into_iter().map(|token| (token, 1)));
        }
        let rng = StdRng::seed_from_u64(params.seed);
        Self { params, rng, prompt_counts, answer_counts: Vec::new(), scratch: Vec::new() }
    }

    /// The next token and what is known of it.
    pub(crate) fn sample(&mut self, logits: &[f32]) -> (u32, StepStats) {
        let token = self.choose(logits);
        match self.answer_counts.binary_search_by_key(&token, |(token, _)| *token) {
            Ok(at) => self.answer_counts[at].1 += 1,
            Err(at) => self.answer_counts.insert(at, (token, 1)),
        }
        let (log_normaliser, entropy) = normaliser_and_entropy(logits);
        (token, StepStats { logprob: logits[token as usize] - log_normaliser, entropy, log_normaliser })
    }

    fn choose(&mut self, logits: &[f32]) -> u32 {
        let params = &self.params;
        let scratch = &mut self.scratch;
        scratch.clear();
        scratch.extend(logits.iter().enumerate().map(|(token, &logit)| (token as u32, logit)));
        if params.repetition_penalty != 1.0 {
            for (token, _) in self
                .prompt_counts
                .iter()
                .chain(self.answer_counts.iter().filter(|(t, _)| self.prompt_counts.binary_search_by_key(t, |(p, _)| *p).is_err()))
            {
                let logit = &mut scratch[*token as usize].1;
                *logit = if *logit > 0.0 { *logit / params.repetition_penalty } else { *logit * params.repetition_penalty };
            }
        }
        if params.presence_penalty != 0.0 || params.frequency_penalty != 0.0 {
            for &(token, count) in &self.answer_counts {
                scratch[token as usize].1 -= params.presence_penalty + params.frequency_penalty * count as f32;
            }
        }
        for &(token, bias) in &params.logit_bias {
            scratch[token as usize].1 += bias;
        }
        if params.temperature == 0.0 {
            return scratch.iter().fold(scratch[0], |best, &candidate| if candidate.1 > best.1 { candidate } else { best }).0;
        }
        // the better logit first, the lower id among equals
        let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        if params.top_k > 0 && params.top_k < scratch.len() {
            scratch.select_nth_unstable_by(params.top_k - 1, order);
            scratch.truncate(params.top_k);
            // what is drawn must not depend on how the selection left the order
            scratch.sort_unstable_by(order);
        }
        let best = scratch.iter().fold(f32::NEG_INFINITY, |best, &(_, logit)| best.max(logit));
        for (_, logit) in scratch.iter_mut() {
            *logit = ((*logit - best) / params.temperature).exp();
        }
        if params.min_p > 0.0 {
            // the best one's weight is 1
            scratch.retain(|(_, weight)| *weight >= params.min_p);
        }
        let mut total: f64 = scratch.iter().map(|&(_, weight)| f64::from(weight)).sum();
        if params.top_p < 1.0 {
            total = keep_nucleus(scratch, total * f64::from(params.top_p), order);
        }
        let mut left = self.rng.random::<f64>() * total;
        for &(token, weight) in scratch.iter() {
            left -= f64::from(weight);
            if left < 0.0 {
                return token;
            }
        }
        // rounding may leave a crumb: the last candidate with any weight
        scratch.iter().rfind(|(_, weight)| *weight > 0.0).map_or(0, |(token, _)| *token)
    }

    pub(crate) fn params(&self) -> &SamplingParams {
        &self.params
    }
}

/// Keeps the fewest best candidates whose weights reach `wanted`; returns their total.
fn keep_nucleus(scratch: &mut Vec<(u32, f32)>, wanted: f64, order: impl Fn(&(u32, f32), &(u32, f32)) -> std::cmp::Ordering + Copy) -> f64 {
    let mut sorted = 0;
    for guess in [NUCLEUS_GUESS, usize::MAX] {
        if guess < scratch.len() {
            scratch.select_nth_unstable_by(guess, order);
            scratch[..guess].sort_unstable_by(order);
            sorted = guess;
        } else if sorted < scratch.len() {
            scratch.sort_unstable_by(order);
            sorted = scratch.len();
        }
        let mut total = 0.0;
        for (index, &(_, weight)) in scratch[..sorted].iter().enumerate() {
            total += f64::from(weight);
            if total >= wanted {
                scratch.truncate(index + 1);
                return total;
            }
        }
    }
    scratch.iter().map(|&(_, weight)| f64::from(weight)).sum()
}

/// log Σ exp(logit), and the entropy of the softmax in nats.
fn normaliser_and_entropy(logits: &[f32]) -> (f32, f32) {
    let best = logits.iter().fold(f32::NEG_INFINITY, |best, &logit| best.max(logit));
    let (mut sum, mut weighted) = (0.0_f64, 0.0_f64);
    for &logit in logits {
        let shifted = logit - best;
        let weight = f64::from(shifted.exp());
        sum += weight;
        if weight > 0.0 {
            weighted += weight * f64::from(shifted);
        }
    }
    ((f64::from(best) + sum.ln()) as f32, (sum.ln() - weighted / sum).max(0.0) as f32)
}

/// log softmax of one entry of `logits`.
pub(crate) fn logprob(logits: &[f32], token: u32) -> f32 {
    logits[token as usize] - normaliser_and_entropy(logits).0
}

/// The `count` best tokens, best first.
pub(crate) fn best_tokens(logits: &[f32], count: usize) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    let order = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    if count == 0 {
        return Vec::new();
    }
    if count < ids.len() {
        ids.select_nth_unstable_by(count - 1, order);
        ids.truncate(count);
    }
    ids.sort_unstable_by(order);
    ids
}
