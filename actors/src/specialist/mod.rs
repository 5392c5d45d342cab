//! A specialist: retrieves evidence, writes its prompt, generates on the device pool, reads its own
//! answer and estimates its confidence. What it does in each step is its strategy's decision.

mod actor;
mod answer;
mod confidence;
mod generate;
mod messages;
mod present;
mod prompt;
mod retrieve;
mod screen;
mod self_evaluation;
mod sink;
mod state;

pub use actor::Specialist;
pub use messages::{AnswerRequest, Present, Presented, SpecialistAnswer};
pub(crate) use prompt::common_prefix;
pub use prompt::{Prompt, PromptWriter};
pub use screen::Screened;
pub use state::{SpecialistSetup, SpecialistState};
