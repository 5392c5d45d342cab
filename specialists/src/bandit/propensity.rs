//! Converts logits to the probabilities with which candidates are drawn.

/// Softmax of `logits / temperature`; sums to 1.
pub fn softmax(logits: &[f64], temperature: f64) -> Vec<f64> {
    let best = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> =
        logits.iter().map(|logit| ((logit - best) / temperature).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / total).collect()
}

/// The probability of each candidate: `(1 − ε) softmax(logits / τ) + ε/n`.
pub fn propensities(logits: &[f64], temperature: f64, epsilon: f64) -> Vec<f64> {
    let even = epsilon / logits.len() as f64;
    softmax(logits, temperature).into_iter().map(|share| (1.0 - epsilon) * share + even).collect()
}

/// The index of the largest value, the first of equals; `None` for an empty list.
pub fn best(logits: &[f64]) -> Option<usize> {
    (0..logits.len()).reduce(|best, at| if logits[at] > logits[best] { at } else { best })
}
