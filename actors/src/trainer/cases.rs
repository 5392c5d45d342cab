//! Texts on which a candidate is checked beside its own examples.

use crate::NyxError;

/// A text unrelated to any specialist, for the perplexity.
pub(super) const NEUTRAL: &str = include_str!("neutral.txt");

/// Questions whose answers are screened by the safety policy.
pub(super) fn cases() -> Result<Vec<String>, NyxError> {
    serde_json::from_str(include_str!("cases.json"))
        .map_err(|error| NyxError::Internal(format!("the safety cases: {error}")))
}
