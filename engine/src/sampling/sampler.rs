//! One sequence's sampler.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::params::SamplingParams;
use crate::kernels::{Isa, SoftmaxSums, exp_shifted, most_of, softmax_sums};

/// Number of candidates sorted first for nucleus sampling: nearly always enough.
const NUCLEUS_GUESS: usize = 256;

/// Samples tokens for one sequence: its random numbers depend on its seed alone, not on the batch.
#[derive(Debug)]
pub(crate) struct Sampler {
    params: SamplingParams,
    rng: StdRng,
    /// Occurrences of each token in the prompt and in the answer.
    prompt_counts: Vec<(u32, u32)>,
    answer_counts: Vec<(u32, u32)>,
    /// Logits after penalties, then weights.
    adjusted: Vec<f32>,
    candidates: Vec<(u32, f32)>,
    isa: Isa,
}

/// Statistics of a step's raw distribution, before temperature and penalties.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct StepStats {
    /// Log-probability of the chosen token (natural logarithm).
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
        Self {
            params,
            rng,
            prompt_counts,
            answer_counts: Vec::new(),
            adjusted: Vec::new(),
            candidates: Vec::new(),
            isa: Isa::detect(),
        }
    }

    /// The next token and its statistics.
    pub(crate) fn sample(&mut self, logits: &[f32]) -> (u32, StepStats) {
        let sums = softmax_sums(self.isa, logits);
        let token = self.choose(logits, sums.best);
        match self.answer_counts.binary_search_by_key(&token, |(token, _)| *token) {
            Ok(at) => self.answer_counts[at].1 += 1,
            Err(at) => self.answer_counts.insert(at, (token, 1)),
        }
        let (log_normaliser, entropy) = normaliser_and_entropy(sums);
        (
            token,
            StepStats { logprob: logits[token as usize] - log_normaliser, entropy, log_normaliser },
        )
    }

    /// `best` is the largest logit.
    fn choose(&mut self, logits: &[f32], best: f32) -> u32 {
        let params = &self.params;
        let penalised = params.repetition_penalty != 1.0
            || params.presence_penalty != 0.0
            || params.frequency_penalty != 0.0
            || !params.logit_bias.is_empty();
        if params.temperature == 0.0 && !penalised {
            return first_of(logits, best);
        }
        self.adjusted.clear();
        self.adjusted.extend_from_slice(logits);
        if penalised {
            self.penalise();
        }
        let (params, adjusted) = (&self.params, &mut self.adjusted);
        let best = if penalised { most_of(self.isa, adjusted) } else { best };
        if params.temperature == 0.0 {
            return first_of(adjusted, best);
        }
        exp_shifted(self.isa, adjusted, best, 1.0 / params.temperature);
        // higher weight first, lower id among equals: the draw must not depend on the order in
        // which a selection left the candidates
        let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        let candidates = &mut self.candidates;
        candidates.clear();
        candidates
            .extend(adjusted.iter().enumerate().map(|(token, &weight)| (token as u32, weight)));
        if params.top_k > 0 && params.top_k < candidates.len() {
            candidates.select_nth_unstable_by(params.top_k - 1, order);
            candidates.truncate(params.top_k);
            candidates.sort_unstable_by(order);
        }
        if params.min_p > 0.0 {
            // the top token's weight is 1
            candidates.retain(|(_, weight)| *weight >= params.min_p);
        }
        let mut total: f64 = candidates.iter().map(|&(_, weight)| f64::from(weight)).sum();
        if params.top_p < 1.0 {
            total = keep_nucleus(candidates, total * f64::from(params.top_p), order);
        }
        let mut left = self.rng.random::<f64>() * total;
        for &(token, weight) in candidates.iter() {
            left -= f64::from(weight);
            if left < 0.0 {
                return token;
            }
        }
        // rounding may leave a remainder: return the last candidate with a positive weight
        candidates.iter().rfind(|(_, weight)| *weight > 0.0).map_or(0, |(token, _)| *token)
    }

    /// Applies penalties and biases to the logits.
    fn penalise(&mut self) {
        let (params, adjusted) = (&self.params, &mut self.adjusted);
        if params.repetition_penalty != 1.0 {
            let of_answer = self
                .answer_counts
                .iter()
                .filter(|(t, _)| self.prompt_counts.binary_search_by_key(t, |(p, _)| *p).is_err());
            for (token, _) in self.prompt_counts.iter().chain(of_answer) {
                let logit = &mut adjusted[*token as usize];
                *logit = if *logit > 0.0 {
                    *logit / params.repetition_penalty
                } else {
                    *logit * params.repetition_penalty
                };
            }
        }
        if params.presence_penalty != 0.0 || params.frequency_penalty != 0.0 {
            for &(token, count) in &self.answer_counts {
                adjusted[token as usize] -=
                    params.presence_penalty + params.frequency_penalty * count as f32;
            }
        }
        for &(token, bias) in &params.logit_bias {
            adjusted[token as usize] += bias;
        }
    }

    pub(crate) fn params(&self) -> &SamplingParams {
        &self.params
    }
}

/// Keeps the fewest top candidates whose weights reach `wanted`; returns their total.
fn keep_nucleus(
    candidates: &mut Vec<(u32, f32)>,
    wanted: f64,
    order: impl Fn(&(u32, f32), &(u32, f32)) -> std::cmp::Ordering + Copy,
) -> f64 {
    let mut sorted = 0;
    for draft in [NUCLEUS_GUESS, usize::MAX] {
        if draft < candidates.len() {
            candidates.select_nth_unstable_by(draft, order);
            candidates[..draft].sort_unstable_by(order);
            sorted = draft;
        } else if sorted < candidates.len() {
            candidates.sort_unstable_by(order);
            sorted = candidates.len();
        }
        let mut total = 0.0;
        for (index, &(_, weight)) in candidates[..sorted].iter().enumerate() {
            total += f64::from(weight);
            if total >= wanted {
                candidates.truncate(index + 1);
                return total;
            }
        }
    }
    candidates.iter().map(|&(_, weight)| f64::from(weight)).sum()
}

/// The first index that holds `value`: the lowest id among equals.
fn first_of(values: &[f32], value: f32) -> u32 {
    // without an early exit, the loop over a chunk vectorises
    const FEW: usize = 64;
    let few = values
        .chunks(FEW)
        .position(|few| few.iter().fold(false, |any, other| any | (*other == value)));
    let start = few.map_or(0, |few| few * FEW);
    (start + values[start..].iter().position(|other| *other == value).unwrap_or(0)) as u32
}

/// log Σ exp(logit), and the entropy of the softmax in nats.
fn normaliser_and_entropy(SoftmaxSums { best, total, weighted }: SoftmaxSums) -> (f32, f32) {
    let (total, weighted) = (f64::from(total), f64::from(weighted));
    ((f64::from(best) + total.ln()) as f32, (total.ln() - weighted / total).max(0.0) as f32)
}

/// log softmax of one entry of `logits`.
pub(crate) fn logprob(logits: &[f32], token: u32) -> f32 {
    logits[token as usize] - normaliser_and_entropy(softmax_sums(Isa::detect(), logits)).0
}

/// The `count` best tokens, best first.
pub(crate) fn best_tokens(logits: &[f32], count: usize) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..logits.len() as u32).collect();
    let order =
        |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
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
