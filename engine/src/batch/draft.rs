//! Guessing the next tokens from what was said before: prompt lookup (Saxena 2023), a draft that costs nothing, checked by one forward pass
//! (speculative decoding, Leviathan et al. 2023). What is sampled is what would have been sampled without: a draft is only believed where
//! the sampler, given the same logits, draws the same token.

use std::ops::Range;

/// The longest and shortest end of a text that is looked for.
const LONGEST: usize = 4;
const SHORTEST: usize = 2;
/// Tokens drafted at once at most.
const MOST: usize = 8;
/// Old observations lose this share of their weight with each new one.
const FORGET: f64 = 0.02;
/// A row's share of the time of a step with one, before anything was measured.
const PRIOR_SHARE: f64 = 0.3;

/// What follows, where the end of `tokens` last stood before: at most `most` places among them.
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

/// How often one sequence's drafts were right.
#[derive(Debug, Clone, Copy)]
pub(super) struct Acceptance {
    right: f64,
    made: f64,
}

impl Default for Acceptance {
    fn default() -> Self {
        // as if one draft of two had been right
        Self { right: 1.0, made: 2.0 }
    }
}

impl Acceptance {
    pub(super) fn rate(&self) -> f64 {
        self.right / self.made
    }

    /// Of `made` drafts, the first `right` were. Those after the first wrong one say nothing.
    pub(super) fn observe(&mut self, made: usize, right: usize) {
        let looked_at = made.min(right + 1) as f64;
        // about the last twenty count
        let keep = (1.0 - looked_at * 0.05).max(0.5);
        self.right = self.right * keep + right as f64;
        self.made = self.made * keep + looked_at;
    }

    /// A sequence that drafts badly tries again now and then: texts change.
    pub(super) fn retry(&mut self) {
        self.right += 0.01 * (0.5 - self.rate()) * self.made;
    }
}

/// What a step costs by its rows: a least-squares line through the steps seen, the newest counting most.
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

    /// A step's fixed cost in rows: a step of `n` rows takes as long as this plus `n` of its rows.
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

/// How many tokens to draft for a sequence, in a step that has `rows` rows so far and gives `tokens` tokens: as long as one more is worth
/// more than its row costs.
pub(super) fn worthwhile(cost: &StepCost, acceptance: &Acceptance, rows: usize, tokens: f64) -> usize {
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
    fn the_longest_end_that_stood_before_says_what_follows() {
        let text = [1, 2, 3, 4, 5, 9, 2, 3, 7, 8, 2, 3];
        let found = |text: &[u32], most: usize| text[propose(text, most)].to_vec();
        assert_eq!(found(&text, 3), [7, 8, 2]);
        assert_eq!(found(&text, 1), [7]);
        // a longer match goes before a later one
        assert_eq!(found(&[5, 1, 2, 3, 8, 6, 2, 3, 9, 1, 2, 3], 2), [8, 6]);
        assert_eq!(found(&[1, 1, 1], 8), [1]);
        assert!(found(&[1, 2, 3, 4], 8).is_empty() && found(&[], 8).is_empty() && found(&text, 0).is_empty());
    }

    #[test]
    fn guesses_are_made_where_they_pay() {
        let mut cost = StepCost::default();
        let (mut sure, mut wrong) = (Acceptance::default(), Acceptance::default());
        for _ in 0..20 {
            sure.observe(4, 4);
            wrong.observe(4, 0);
        }
        // before anything is measured: one row is a third of a step of one
        assert!(worthwhile(&cost, &sure, 1, 1.0) >= 4);
        assert_eq!(worthwhile(&cost, &wrong, 1, 1.0), 0);
        (0..100).for_each(|_| wrong.retry());
        assert!(worthwhile(&cost, &wrong, 1, 1.0) > 0, "{}", wrong.rate());
        // a machine on which rows cost everything
        (0..200).for_each(|step| cost.observe(1 + step % 5, (1 + step % 5) as f64));
        assert!(cost.fixed_rows() < 0.01);
        let mut often = Acceptance::default();
        (0..20).for_each(|_| often.observe(1, 0));
        (0..20).for_each(|step| often.observe(1, usize::from(step % 4 > 0)));
        assert_eq!(worthwhile(&cost, &often, 5, 5.0), 0);
        // and one on which they cost nothing
        let mut cost = StepCost::default();
        (0..200).for_each(|step| cost.observe(1 + step % 5, 1.0));
        assert!(worthwhile(&cost, &often, 5, 5.0) > 0);
    }
}
