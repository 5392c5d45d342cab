//! Screens questions and answers for crises and harm, by the rules of a policy file
//! (`config/safety.toml`).
//!
//! A rule is a list of phrases with word boundaries; exceptions exclude idioms (`this deadline is
//! killing me`), and a rule may be set to ignore negated phrases (`I would never hurt him`). Texts
//! are normalised first: case, accents, look-alike letters, zero-width characters, digits for
//! letters, letters separated by spaces. A finding names the rule that matched.
//!
//! Phrases cannot determine the intent: the built-in ones are chosen to ignore ordinary
//! conversation, and to route a user in a crisis to Eleos rather than miss them. The table of
//! examples in this module's tests shows their effect.

mod file;
mod normal;
mod pattern;
mod policy;
mod stream;
#[cfg(test)]
mod tests;

pub use policy::{BUILTIN_SAFETY, SafetyPolicy};
pub use stream::{Released, Screening};
