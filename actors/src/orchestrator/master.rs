//! The master: the base model with no adapter and the routing prompt; it scores the specialists for a question.

use nyx_engine::{ChatMessage, ContinuationScore, Role, Text};
use nyx_specialists::SpecialistPolicy;

use crate::NyxError;
use crate::question::ending;
use crate::specialist::common_prefix;

/// A question that says nothing: what a name scores after it is how common the name is (Zhao et al. 2021, "Calibrate Before Use").
pub(super) const CONTENT_FREE: &str = "N/A";
/// Characters of a question that the master reads: its end, where the asking is.
const QUESTION_CHARS: usize = 600;

/// The routing prompt and the names it scores.
pub(super) struct Master {
    system: String,
    fixed: Vec<u32>,
    /// Each candidate's name in tokens, in the order of the specialists.
    pub(super) names: Vec<Vec<u32>>,
}

/// What the master reads of a question.
pub(crate) fn read(question: &str) -> &str {
    ending(question, QUESTION_CHARS)
}

impl Master {
    pub(super) fn new(text: &Text, specialists: &[SpecialistPolicy]) -> Result<Self, NyxError> {
        let mut system = String::from("You decide who answers. Reply with one name.");
        for specialist in specialists {
            system.push_str(&format!("\n{}: {}", title(&specialist.name), specialist.purpose));
        }
        let fixed = text.encode_chat(&[ChatMessage::new(Role::System, &system)], false)?;
        let names = specialists.iter().map(|specialist| text.encode(&title(&specialist.name))).collect::<Result<_, _>>()?;
        Ok(Self { system, fixed, names })
    }

    /// The prompt after which a name is scored, and how much of it is the same for every question.
    pub(super) fn prompt(&self, text: &Text, question: &str) -> Result<(Vec<u32>, usize), NyxError> {
        let asked = format!("Who should answer this?\n{}", read(question));
        let messages = [ChatMessage::new(Role::System, &self.system), ChatMessage::new(Role::User, asked)];
        let tokens = text.encode_chat(&messages, true)?;
        let shared = common_prefix(&tokens, &self.fixed);
        Ok((tokens, shared))
    }
}

/// Mean token log-probability of each name, less the same after the content-free question.
pub(super) fn calibrated(scores: &[ContinuationScore], content_free: &[f64]) -> Vec<f64> {
    scores.iter().zip(content_free).map(|(score, baseline)| score.mean() - baseline).collect()
}

/// As a prompt says a name: with a capital.
fn title(name: &str) -> String {
    let mut chars = name.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
