//! Probabilities and their log-odds.

/// `1 / (1 + e^-x)`: log-odds as a probability.
pub(crate) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// `ln(p / (1 - p))`, with `p` clamped to at most `surest` and at least `1 - surest`: at 0 and 1 it
/// would be infinite. NaN counts as a half.
pub(crate) fn log_odds(p: f64, surest: f64) -> f64 {
    let p = if p.is_nan() { 0.5 } else { p.clamp(1.0 - surest, surest) };
    (p / (1.0 - p)).ln()
}
