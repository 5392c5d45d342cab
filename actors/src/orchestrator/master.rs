//! The master model: the base model without an adapter, with the routing prompt; it scores the
//! specialists for a question.

use std::borrow::Cow;

use nyx_domain::{ChatMessage, Role, tail};
use nyx_engine::{ContinuationScore, Text};
use nyx_specialists::SpecialistPolicy;

use crate::NyxError;
use crate::specialist::common_prefix;

/// A content-free question: a name's score after it measures how common the name is (Zhao et al.
/// 2021, "Calibrate Before Use").
pub(super) const CONTENT_FREE: &str = "N/A";
/// Characters of a question that are used for routing. Of a longer one, half are taken from its
/// beginning and half from its end: more would not fit the embedder's window.
const QUESTION_CHARS: usize = 1_000;

/// The routing prompt and the names to score.
pub(super) struct Master {
    system: String,
    fixed: Vec<u32>,
    /// Each candidate's name in tokens, in the order of the specialists.
    pub(super) names: Vec<Vec<u32>>,
}

/// The text that is used for routing: all of the question, or both ends of a long one.
pub(super) fn excerpt(question: &str) -> Cow<'_, str> {
    let half = QUESTION_CHARS / 2;
    if question.chars().nth(QUESTION_CHARS).is_none() {
        return Cow::Borrowed(question);
    }
    let beginning = question.char_indices().nth(half).map_or(question, |(at, _)| &question[..at]);
    Cow::Owned(format!("{beginning}\n\u{2026}\n{}", tail(question, half)))
}

impl Master {
    pub(super) fn new(text: &Text, specialists: &[SpecialistPolicy]) -> Result<Self, NyxError> {
        let mut system = String::from("You decide who answers. Reply with one name.");
        for specialist in specialists {
            system.push_str(&format!("\n{}: {}", title(&specialist.name), specialist.purpose));
        }
        let fixed = text.encode_chat(&[ChatMessage::new(Role::System, &system)], false)?;
        let names = specialists
            .iter()
            .map(|specialist| text.encode(&title(&specialist.name)))
            .collect::<Result<_, _>>()?;
        Ok(Self { system, fixed, names })
    }

    /// The prompt after which a name is scored, and the number of its leading tokens that are the
    /// same for every question.
    pub(super) fn prompt(
        &self,
        text: &Text,
        question: &str,
    ) -> Result<(Vec<u32>, usize), NyxError> {
        let asked = format!("Who should answer this?\n{}", excerpt(question));
        let messages =
            [ChatMessage::new(Role::System, &self.system), ChatMessage::new(Role::User, asked)];
        let tokens = text.encode_chat(&messages, true)?;
        let shared = common_prefix(&tokens, &self.fixed);
        Ok((tokens, shared))
    }
}

/// Mean token log-probability of each name, minus the same after the content-free question.
pub(super) fn calibrated(scores: &[ContinuationScore], content_free: &[f64]) -> Vec<f64> {
    scores.iter().zip(content_free).map(|(score, baseline)| score.mean() - baseline).collect()
}

/// A name as the prompt writes it: capitalised.
fn title(name: &str) -> String {
    let mut chars = name.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_routed_as_written_and_a_long_one_by_both_ends() {
        for question in ["", "Will it rain?\n ", &"\u{e9}".repeat(QUESTION_CHARS)] {
            assert_eq!(excerpt(question), question);
        }
        let half = QUESTION_CHARS / 2;
        let long =
            format!("{}{}{}", "\u{e9}".repeat(half), "x".repeat(1 << 20), "\u{4f60}".repeat(half));
        assert_eq!(
            excerpt(&long),
            format!("{}\n\u{2026}\n{}", "\u{e9}".repeat(half), "\u{4f60}".repeat(half))
        );
    }
}
