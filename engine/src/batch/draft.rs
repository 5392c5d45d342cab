//! Speculative decoding (Leviathan et al. 2023) with prompt lookup (Saxena 2023): draft tokens cost
//! no model call and are verified by one forward pass. The sampled tokens are the same as without
//! drafts: a draft token is accepted only where the sampler, given the same logits, draws the same
//! token.

use std::ops::Range;

/// Longest and shortest n-gram at the end of the text that is looked up.
const LONGEST: usize = 4;
const SHORTEST: usize = 2;
/// Maximum number of draft tokens per step.
const MOST: usize = 8;
/// Fraction of their weight that old observations lose with each new one.
const FORGET: f64 = 0.02;
/// Assumed share of one row in the time of a one-row step, before any measurement.
const PRIOR_SHARE: f64 = 0.3;

/// The tokens that followed the last earlier occurrence of the n-gram that ends `tokens`, as a
/// range of at most `most` indices into `tokens`.
pub(super) fn propose(tokens: &[u32], most: usize) -> Range<usize> {
    let most = most.min(MOST);
    for length in (SHORTEST..=LONGEST).rev() {
        if tokens.len() <= length || most == 0 {
            continue;
        }
        let (before, end) = (&tokens[..tokens.len() - 1], &tokens[tokens.len() - length..]);
        if let Some(at) = before.windows(length).rposition(|window| window == end) {
            let start = at + length;
            return start..tokens.len().min(start + most);
        }
    }
    0..0
}

/// Acceptance rate of one sequence's draft tokens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Acceptance {
    right: f64,
    made: f64,
}

impl Default for Acceptance {
    fn default() -> Self {
        // prior: one of two draft tokens accepted
        Self { right: 1.0, made: 2.0 }
    }
}

impl Acceptance {
    pub(super) fn rate(&self) -> f64 {
        self.right / self.made
    }

    /// Records that the first `right` of `made` draft tokens were accepted. Those after the first
    /// rejected one are not counted.
    pub(super) fn observe(&mut self, made: usize, right: usize) {
        let looked_at = made.min(right + 1) as f64;
        // a window of about the last twenty draft tokens
        let keep = (1.0 - looked_at * 0.05).max(0.5);
        self.right = self.right * keep + right as f64;
        self.made = self.made * keep + looked_at;
    }

    /// Moves a low acceptance rate towards 0.5, so that the sequence drafts again from time to
    /// time: the text may have changed.
    pub(super) fn retry(&mut self) {
        self.right += 0.01 * (0.5 - self.rate()) * self.made;
    }
}

/// Step time as a function of its rows: a least-squares line through the observed steps, weighted
/// towards the newest.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct StepCost {
    weight: f64,
    rows: f64,
    rows_squared: f64,
    seconds: f64,
    rows_seconds: f64,
}

impl StepCost {
    pub(super) fn observe(&mut self, rows: usize, seconds: f64) {
        let rows = rows as f64;
        for (sum, value) in [
            (&mut self.weight, 1.0),
            (&mut self.rows, rows),
            (&mut self.rows_squared, rows * rows),
            (&mut self.seconds, seconds),
            (&mut self.rows_seconds, rows * seconds),
        ] {
            *sum = *sum * (1.0 - FORGET) + value;
        }
    }

    /// The fixed cost of a step, in units of a row's cost: a step of `n` rows takes as long as
    /// `fixed_rows() + n` rows.
    pub(super) fn fixed_rows(&self) -> f64 {
        let prior = (1.0 - PRIOR_SHARE) / PRIOR_SHARE;
        let spread = self.weight * self.rows_squared - self.rows * self.rows;
        if self.weight < 8.0 || spread < 0.05 * self.weight * self.weight {
            return prior;
        }
        let slope = (self.weight * self.rows_seconds - self.rows * self.seconds) / spread;
        let fixed = (self.seconds - slope * self.rows) / self.weight;
        if slope <= 0.0 { 100.0 } else { (fixed / slope).clamp(0.0, 100.0) }
    }
}

/// How many draft tokens to add for a sequence, in a step that has `rows` rows so far and is
/// expected to yield `tokens` tokens: adds drafts as long as the next one raises the expected
/// tokens per unit of time.
pub(super) fn worthwhile(
    cost: &StepCost,
    acceptance: &Acceptance,
    rows: usize,
    tokens: f64,
) -> usize {
    let mut time = cost.fixed_rows() + rows as f64;
    let (mut tokens, mut right) = (tokens, acceptance.rate());
    let mut drafts = 0;
    while drafts < MOST && right > tokens / time {
        drafts += 1;
        tokens += right;
        time += 1.0;
        right *= acceptance.rate();
    }
    drafts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_repeated_suffix_gives_the_draft() {
        let text = [1, 2, 3, 4, 5, 9, 2, 3, 7, 8, 2, 3];
        let found = |text: &[u32], most: usize| text[propose(text, most)].to_vec();
        assert_eq!(found(&text, 3), [7, 8, 2]);
        assert_eq!(found(&text, 1), [7]);
        // a longer match takes precedence over a later one
        assert_eq!(found(&[5, 1, 2, 3, 8, 6, 2, 3, 9, 1, 2, 3], 2), [8, 6]);
        assert_eq!(found(&[1, 1, 1], 8), [1]);
        assert!(
            found(&[1, 2, 3, 4], 8).is_empty()
                && found(&[], 8).is_empty()
                && found(&text, 0).is_empty()
        );
    }

    #[test]
    fn drafts_are_proposed_where_they_pay() {
        let mut cost = StepCost::default();
        let (mut sure, mut wrong) = (Acceptance::default(), Acceptance::default());
        for _ in 0..20 {
            sure.observe(4, 4);
            wrong.observe(4, 0);
        }
        // before any measurement, one row is a third of a one-row step
        assert!(worthwhile(&cost, &sure, 1, 1.0) >= 4);
        assert_eq!(worthwhile(&cost, &wrong, 1, 1.0), 0);
        (0..100).for_each(|_| wrong.retry());
        assert!(worthwhile(&cost, &wrong, 1, 1.0) > 0, "{}", wrong.rate());
        // a machine on which the cost is all per row
        (0..200).for_each(|step| cost.observe(1 + step % 5, (1 + step % 5) as f64));
        assert!(cost.fixed_rows() < 0.01);
        let mut often = Acceptance::default();
        (0..20).for_each(|_| often.observe(1, 0));
        (0..20).for_each(|step| often.observe(1, usize::from(step % 4 > 0)));
        assert_eq!(worthwhile(&cost, &often, 5, 5.0), 0);
        // a machine on which rows cost nothing
        let mut cost = StepCost::default();
        (0..200).for_each(|step| cost.observe(1 + step % 5, 1.0));
        assert!(worthwhile(&cost, &often, 5, 5.0) > 0);
    }
}
