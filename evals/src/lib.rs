//! Datasets, evaluation suites and reports: measures the specialists on questions with known
//! answers, and trains on such data.

#![cfg_attr(test, allow(clippy::too_many_lines))]

mod adapter_training;
mod choices;
mod dataset;
mod environment;
mod error;
mod evaluate;
mod feedback_loop;
mod fit;
mod forecast;
mod html_report;
mod recall;
mod report;
mod routing;
mod stats;
mod verification;

pub use adapter_training::{
    AdapterReport, progress_bar, read_dataset, summary, to_examples, train_adapter,
    without_question,
};
pub use dataset::{ChoiceCase, Dataset, DatasetError, MemoryTurn, RecallCase, Table};
pub use environment::EvalEnvironment;
pub use error::{EvalError, PARTS, SUITES};
pub use evaluate::{EvalPlan, evaluate};
pub use feedback_loop::{FeedbackLoopReport, Listening, feedback_loop_options, run_feedback_loop};
pub use fit::{FittedPart, fit_part};
pub use html_report::html_report;
pub use report::Report;
pub use routing::{RoutingCase, read as read_routing, run as run_routing};
pub use verification::register_all as register;
