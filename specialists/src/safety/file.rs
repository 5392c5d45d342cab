//! The safety policy's file.

use nyx_domain::SafetyAction;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::pattern::Pattern;
use super::policy::{BUILTIN_SAFETY, Category, EXCEPTION_WORDS, Rule, SafetyPolicy};
use crate::SpecialistError;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    support_specialist: Option<String>,
    category: Vec<CategoryKeys>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CategoryKeys {
    name: String,
    action: SafetyAction,
    severity: u8,
    #[serde(default)]
    text: String,
    reroute: Option<bool>,
    rule: Vec<RuleKeys>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleKeys {
    id: String,
    #[serde(default)]
    reads: Reads,
    phrases: Vec<String>,
    #[serde(default)]
    unless: Vec<String>,
    #[serde(default)]
    unless_denied: bool,
}

#[derive(Deserialize, Default, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum Reads {
    #[default]
    Both,
    Question,
    Answer,
}

impl SafetyPolicy {
    /// Parses and validates a file; `origin` names it in errors. Unknown keys are rejected.
    ///
    /// # Errors
    /// [`SpecialistError::BadFile`] naming the invalid value and the expected one.
    pub fn parse(origin: &str, text: &str) -> Result<Self, SpecialistError> {
        parse(text).map_err(|reason| SpecialistError::BadFile { origin: origin.into(), reason })
    }

    /// The policy embedded in the binary.
    ///
    /// # Errors
    /// As [`parse`](Self::parse); a test ensures that there are none.
    pub fn builtin() -> Result<Self, SpecialistError> {
        Self::parse("config/safety.toml", BUILTIN_SAFETY)
    }
}

fn parse(text: &str) -> Result<SafetyPolicy, String> {
    let file: File = toml::from_str(text).map_err(|error| crate::file::misread(text, &error))?;
    let (mut categories, mut rules): (Vec<Category>, Vec<Rule>) = (Vec::new(), Vec::new());
    for keys in file.category {
        let name = keys.name;
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
            return Err(format!("a category's name is {name:?}, expected letters a-z and `_`"));
        }
        if categories.iter().any(|known| known.name == name) {
            return Err(format!("category {name:?} is defined twice, expected each once"));
        }
        if !(1..=3).contains(&keys.severity) {
            return Err(format!(
                "category {name:?} has severity {}, expected 1 to 3",
                keys.severity
            ));
        }
        if keys.text.trim().is_empty() && keys.action != SafetyAction::Warn {
            return Err(format!(
                "category {name:?} has no text, expected what is said when it is found"
            ));
        }
        let reroute = keys.reroute.unwrap_or(keys.action == SafetyAction::Support);
        categories.push(Category {
            name: name.clone(),
            action: keys.action,
            severity: keys.severity,
            text: keys.text.trim().into(),
            reroute,
        });
        for rule in keys.rule {
            if rule.id.is_empty() || rules.iter().any(|known| known.id == rule.id) {
                return Err(format!(
                    "category {name:?} has a rule with the id {:?}, expected one that is not taken",
                    rule.id
                ));
            }
            if rule.phrases.is_empty() {
                return Err(format!("rule {:?} has no phrases, expected at least one", rule.id));
            }
            let patterns = |phrases: &[String]| {
                phrases
                    .iter()
                    .map(|phrase| Pattern::parse(phrase))
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(|reason| format!("rule {:?}: {reason}", rule.id))
            };
            rules.push(Rule {
                category: categories.len() - 1,
                question: rule.reads != Reads::Answer,
                answer: rule.reads != Reads::Question,
                phrases: patterns(&rule.phrases)?,
                unless: patterns(&rule.unless)?,
                unless_denied: rule.unless_denied,
                id: rule.id,
            });
        }
    }
    let longest =
        rules.iter().flat_map(|rule| &rule.phrases).map(Pattern::longest).max().unwrap_or(0)
            + EXCEPTION_WORDS;
    let id = hex::encode(Sha256::digest(text.as_bytes()));
    Ok(SafetyPolicy { id, support_specialist: file.support_specialist, categories, rules, longest })
}
