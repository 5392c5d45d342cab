//! Packing of examples into one forward pass, and the gradients of their losses by token.

use std::collections::BTreeMap;

use super::objective::{
    LossSettings, TrainingTarget, advantages, any_of, choice, dpo, grpo, kto, kto_reference_point,
    qrpo, qrpo_choices,
};
use super::options::Example;
use super::pass::{Batch, Read};
use crate::kernels::Tree;

/// Examples computed in one forward pass.
#[derive(Debug)]
pub(super) struct MicroBatch {
    pub(super) batch: Batch,
    /// Indices of the examples.
    examples: Vec<usize>,
    /// For each example, the number of tokens of each continuation, and of the mismatched answer
    /// (another example's answer, for KTO) if it has one.
    lengths: Vec<(Vec<usize>, Option<usize>)>,
}

/// Losses of a micro-batch and their gradient.
#[derive(Debug, Default)]
pub(super) struct Comparisons {
    /// Sum of the losses over the examples.
    pub(super) loss: f64,
    /// d loss / d log-probability of each token.
    pub(super) weights: Vec<f64>,
    /// Margins in nats of examples whose objective has one: see
    /// [`Progress::margin`](super::Progress::margin).
    pub(super) margins: Vec<f64>,
}

/// Number of rows of an example; the last token of a continuation is only predicted, never an
/// input.
fn rows(example: &Example) -> usize {
    example.prompt.len()
        + example.continuations.iter().map(|tokens| tokens.len() - 1).sum::<usize>()
}

/// Minimum length in tokens of a common prefix that is shared.
const LEAST_SHARED: usize = 8;

/// Length in tokens of the common prefix of the prompts of these examples; at least one token of
/// each prompt is left out. Anchor examples are unrelated texts and are excluded. Returns 0 if the
/// prefix is not worth sharing.
fn common_beginning(examples: &[Example], chosen: &[usize]) -> usize {
    let mut prompts = chosen
        .iter()
        .map(|index| &examples[*index])
        .filter(|example| shares(example))
        .map(|example| example.prompt.as_slice());
    let Some(first) = prompts.next() else { return 0 };
    let (mut common, mut count) = (first.len().saturating_sub(1), 1);
    for prompt in prompts {
        let least = common.min(prompt.len().saturating_sub(1));
        common = first[..least].iter().zip(prompt).take_while(|(a, b)| a == b).count();
        count += 1;
    }
    if count > 1 && common >= LEAST_SHARED { common } else { 0 }
}

/// Whether an example may share the common prefix.
fn shares(example: &Example) -> bool {
    !matches!(example.target, TrainingTarget::Anchor)
}

/// Splits examples into micro-batches of about `most` rows each. Examples are assigned longest
/// first to the smallest micro-batch, so that sizes are balanced.
pub(super) fn parts(examples: &[Example], chosen: &[usize], most: usize) -> Vec<Vec<usize>> {
    let common = common_beginning(examples, chosen);
    let own_rows =
        |index: usize| rows(&examples[index]) - if shares(&examples[index]) { common } else { 0 };
    let mut sorted = chosen.to_vec();
    sorted.sort_by_key(|index| (std::cmp::Reverse(own_rows(*index)), *index));
    let total: usize = chosen.iter().map(|index| own_rows(*index)).sum();
    let most = most.saturating_sub(common).max(1);
    let count = total.div_ceil(most).clamp(1, chosen.len().max(1));
    let mut parts: Vec<(usize, Vec<usize>)> = vec![(0, Vec::new()); count];
    for index in sorted {
        let size = own_rows(index);
        let least = (0..parts.len()).min_by_key(|part| parts[*part].0).unwrap_or(0);
        // an example that fits into no micro-batch gets a new one
        if parts[least].0 > 0 && parts[least].0 + size > most {
            parts.push((size, vec![index]));
        } else {
            parts[least].0 += size;
            parts[least].1.push(index);
        }
    }
    parts.into_iter().map(|(_, part)| part).filter(|part| !part.is_empty()).collect()
}

/// Mismatched pairs for KTO's reference point: for each KTO example of the batch, the next KTO
/// example, whose answer is scored after its prompt.
pub(super) fn mismatched_pairs(examples: &[Example], chosen: &[usize]) -> BTreeMap<usize, usize> {
    let liked: Vec<usize> = chosen
        .iter()
        .copied()
        .filter(|index| matches!(examples[*index].target, TrainingTarget::Desirable(_)))
        .collect();
    if liked.len() < 2 {
        return BTreeMap::new();
    }
    (0..liked.len()).map(|at| (liked[at], liked[(at + 1) % liked.len()])).collect()
}

impl MicroBatch {
    /// Packs the examples of `part`. For each of them, `mismatched_pairs` has the example whose
    /// answer is also scored after its prompt. With `share`, the common prefix of the prompts is in
    /// the batch once; without, the result of an example does not depend on the other examples.
    pub(super) fn new(
        examples: &[Example],
        part: &[usize],
        mismatched_pairs: &[Option<usize>],
        share: bool,
    ) -> Self {
        let mut batch = Batch::default();
        let (mut lengths, mut place) = (Vec::new(), 0);
        let common = if share { common_beginning(examples, part) } else { 0 };
        if let Some(first) =
            part.iter().map(|index| &examples[*index]).find(|example| common > 0 && shares(example))
        {
            batch.tokens.extend(&first.prompt[..common]);
            batch.trees.push(Tree { shared: 0, start: 0, prompt: common, branches: Vec::new() });
        }
        for (at, index) in part.iter().enumerate() {
            let example = &examples[*index];
            let strange = mismatched_pairs
                .get(at)
                .copied()
                .flatten()
                .and_then(|other| examples[other].continuations.first());
            let (start, shared) = (batch.tokens.len(), if shares(example) { common } else { 0 });
            batch.tokens.extend(&example.prompt[shared..]);
            let last = batch.tokens.len() - 1;
            let mut branches = Vec::new();
            for tokens in example.continuations.iter().chain(strange) {
                let first = batch.tokens.len();
                batch.tokens.extend(&tokens[..tokens.len() - 1]);
                branches.push(tokens.len() - 1);
                for (at, token) in tokens.iter().enumerate() {
                    let row = if at == 0 { last } else { first + at - 1 };
                    batch.reads.push(Read { row, token: *token, place });
                    place += 1;
                }
            }
            batch.trees.push(Tree {
                shared,
                start,
                prompt: example.prompt.len() - shared,
                branches,
            });
            lengths.push((
                example.continuations.iter().map(Vec::len).collect(),
                strange.map(Vec::len),
            ));
        }
        batch.reads.sort_unstable();
        Self { batch, examples: part.to_vec(), lengths }
    }

    /// Number of input tokens; the shared prefix is counted for each example.
    pub(super) fn tokens(&self) -> usize {
        self.batch.trees.iter().map(|tree| tree.shared + tree.rows()).sum::<usize>()
            - self.batch.trees.iter().map(|tree| tree.shared).max().unwrap_or(0)
    }

    /// Splits `flat` into log-probabilities by example, continuation and token.
    pub(super) fn unflatten(&self, flat: &[f32]) -> Vec<Vec<Vec<f32>>> {
        let mut at = 0;
        let mut take = |length: usize| {
            at += length;
            flat[at - length..at].to_vec()
        };
        self.lengths
            .iter()
            .map(|(own, strange)| {
                let own = own.iter().map(|length| take(*length)).collect();
                strange.map(&mut take);
                own
            })
            .collect()
    }

    /// The log-probability of each mismatched answer.
    pub(super) fn strange(&self, flat: &[f32]) -> Vec<f64> {
        let mut at = 0;
        let mut totals = Vec::new();
        for (own, strange) in &self.lengths {
            at += own.iter().sum::<usize>();
            if let Some(length) = strange {
                totals.push(total(&flat[at..at + length]));
                at += length;
            }
        }
        totals
    }

    /// Computes the losses of all examples and their gradient by each token's log-probability.
    /// `strange_references` are the reference log-probabilities of the mismatched answers.
    pub(super) fn judge(
        &self,
        examples: &[Example],
        flat: &[f32],
        references: &[Option<Vec<Vec<f32>>>],
        strange_references: &[f64],
        settings: &LossSettings,
    ) -> Comparisons {
        let pairs: Vec<(f64, f64)> =
            self.strange(flat).into_iter().zip(strange_references.iter().copied()).collect();
        let point = kto_reference_point(&pairs);
        let mut compared = Comparisons { weights: vec![0.0; flat.len()], ..Comparisons::default() };
        let mut at = 0;
        for ((index, logps), (own, strange)) in
            self.examples.iter().zip(self.unflatten(flat)).zip(&self.lengths)
        {
            let none = Vec::new();
            let reference = references[*index].as_ref().unwrap_or(&none);
            let (loss, by_token, margin) =
                loss_of(&examples[*index].target, &logps, reference, point, settings);
            compared.loss += loss;
            compared.margins.extend(margin);
            for weight in by_token.into_iter().flatten() {
                compared.weights[at] = weight;
                at += 1;
            }
            debug_assert_eq!(own.len(), logps.len());
            at += strange.unwrap_or(0);
        }
        compared
    }
}

fn total(logps: &[f32]) -> f64 {
    logps.iter().map(|logp| f64::from(*logp)).sum()
}

/// The loss of a group of sampled answers (GRPO), and its gradient by token.
fn group_loss(
    logps: &[Vec<f32>],
    reference: &[Vec<f32>],
    rewards: &[f64],
    settings: &LossSettings,
) -> (f64, Vec<Vec<f64>>) {
    let count = logps.len().max(1) as f64;
    let wide = |logps: &[f32]| logps.iter().map(|logp| f64::from(*logp)).collect::<Vec<_>>();
    let (mut loss, mut by_token) = (0.0, Vec::new());
    for ((logps, reference), advantage) in logps.iter().zip(reference).zip(advantages(rewards)) {
        // on-policy: one step per sampled group, so the sampling policy is the current policy
        let log_probs = wide(logps);
        let (one, gradient) = grpo(&log_probs, &log_probs, &wide(reference), advantage, settings);
        loss += one / count;
        by_token.push(gradient.into_iter().map(|g| g / count).collect());
    }
    (loss, by_token)
}

/// One example's loss, its gradient by the log-probability of every token of every continuation,
/// and its margin in nats if the objective has one. `point` is KTO's reference point.
fn loss_of(
    target: &TrainingTarget,
    logps: &[Vec<f32>],
    reference: &[Vec<f32>],
    point: f64,
    settings: &LossSettings,
) -> (f64, Vec<Vec<f64>>, Option<f64>) {
    let totals: Vec<f64> = logps.iter().map(|logps| total(logps)).collect();
    let references: Vec<f64> = reference.iter().map(|logps| total(logps)).collect();
    // a continuation's log-probability is a sum over tokens: each token has the same gradient
    let spread = |gradient: Vec<f64>| -> Vec<Vec<f64>> {
        logps.iter().zip(gradient).map(|(logps, g)| vec![g; logps.len()]).collect()
    };
    let gain = |at: usize| totals[at] - references.get(at).copied().unwrap_or(totals[at]);
    match target {
        TrainingTarget::Answer => {
            let count = logps.first().map_or(1, Vec::len).max(1) as f64;
            (-totals[0] / count, spread(vec![-1.0 / count]), None)
        }
        TrainingTarget::Anchor => {
            let count = logps.first().map_or(1, Vec::len).max(1) as f64;
            let away = |at: usize| {
                f64::from(logps[0][at])
                    - reference
                        .first()
                        .and_then(|row| row.get(at))
                        .map_or(0.0, |value| f64::from(*value))
            };
            let gradient: Vec<f64> =
                (0..logps[0].len()).map(|at| settings.anchor * 2.0 * away(at) / count).collect();
            (
                settings.anchor * (0..logps[0].len()).map(|at| away(at).powi(2)).sum::<f64>()
                    / count,
                vec![gradient],
                None,
            )
        }
        TrainingTarget::Distribution(shares) => {
            let (loss, gradient) = choice(&totals, shares);
            let best =
                (0..shares.len()).max_by(|a, b| shares[*a].total_cmp(&shares[*b])).unwrap_or(0);
            let others = (0..totals.len())
                .filter(|at| *at != best)
                .map(|at| totals[at])
                .fold(f64::NEG_INFINITY, f64::max);
            (loss, spread(gradient), others.is_finite().then(|| totals[best] - others))
        }
        TrainingTarget::AnyOf(marked) => {
            let (loss, gradient) = any_of(&totals, marked);
            (loss, spread(gradient), None)
        }
        TrainingTarget::Rewards(rewards) => {
            let (loss, gradient) = qrpo_choices(&totals, &references, rewards, settings.beta);
            let by_reward = |a: &usize, b: &usize| rewards[*a].total_cmp(&rewards[*b]);
            let worst = (0..rewards.len()).min_by(by_reward);
            let best = (0..rewards.len()).max_by(by_reward);
            let margin = best.zip(worst).map(|(best, worst)| gain(best) - gain(worst));
            (loss, spread(gradient), margin)
        }
        TrainingTarget::Quantile(quantile) => {
            let (loss, gradient) = qrpo(totals[0], references[0], *quantile, settings.beta);
            (loss, spread(vec![gradient]), Some(gain(0) * (2.0 * quantile - 1.0)))
        }
        TrainingTarget::Desirable(liked) => {
            let (loss, gradient) = kto(totals[0], references[0], *liked, point, settings);
            (loss, spread(vec![gradient]), Some(if *liked { gain(0) } else { -gain(0) }))
        }
        TrainingTarget::Pair => {
            let (loss, gradient) =
                dpo([totals[0], totals[1]], [references[0], references[1]], settings.beta);
            (loss, spread(gradient.to_vec()), Some(gain(0) - gain(1)))
        }
        TrainingTarget::Group(rewards) => {
            let (loss, by_token) = group_loss(logps, reference, rewards, settings);
            (loss, by_token, None)
        }
    }
}
