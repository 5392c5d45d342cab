//! Time: decides from the measured pace whether to answer in full, short or later; and words
//! elapsed time.
//!
//! Nothing here reads a clock: the current time is an argument of every call.

mod plan;
#[cfg(test)]
mod tests;

use chrono::{DateTime, Utc};

pub use plan::{Measured, PlanRequest, Quality, observe, plan};

/// Elapsed time in words for a prompt: `just now`, `5 minutes ago`, `3 days ago`, `in 2 weeks`.
/// Rounded down.
pub fn age_in_words(now: DateTime<Utc>, at: DateTime<Utc>) -> String {
    let seconds = (now - at).num_seconds();
    let (count, unit) = match seconds.unsigned_abs() {
        0..60 => return "just now".into(),
        seconds @ 60..3_600 => (seconds / 60, "minute"),
        seconds @ 3_600..86_400 => (seconds / 3_600, "hour"),
        seconds @ 86_400..1_209_600 => (seconds / 86_400, "day"),
        seconds @ 1_209_600..5_184_000 => (seconds / 604_800, "week"),
        seconds @ 5_184_000..63_072_000 => (seconds / 2_629_800, "month"),
        seconds => (seconds / 31_557_600, "year"),
    };
    let count = count.max(1);
    let amount = format!("{count} {unit}{}", if count == 1 { "" } else { "s" });
    if seconds < 0 { format!("in {amount}") } else { format!("{amount} ago") }
}
