//! Outcomes of forecasts, users' feedback, and the trait weights that follow from their rewards.

mod handle;
pub(crate) mod scoring;

pub use handle::FeedbackLog;
pub use scoring::NewFeedback;
