//! Screening for crises and harm, before and after an answer is made, by the rules of a policy file (`config/safety.toml`).
//!
//! A rule is a list of phrases with word boundaries; exceptions take idioms back out (`this deadline is killing me`), and a rule may be told to
//! pass over what is denied (`I would never hurt him`). Texts are brought to a plain form first: case, accents, look-alike letters, zero-width
//! characters, digits for letters, letters with spaces between them. What is found says which rule found it.
//!
//! Phrases cannot know what is meant: the shipped ones are chosen to leave ordinary talk alone, and to send a person in need to Eleos rather than
//! miss them. The table of examples in this module's tests shows what they do.

mod file;
mod normal;
mod pattern;
mod policy;
mod stream;
#[cfg(test)]
mod tests;

pub use policy::{Action, Finding, SHIPPED_SAFETY, SafetyPolicy, SafetyReport, Side};
pub use stream::{Released, Screening};
