//! A specialist's file: its keys, their ranges, and the errors for invalid values.

use serde::Deserialize;

use crate::limits::{above, count, within};
use crate::prompt::PromptTemplate;
use crate::strategy::strategy;
use crate::{SpecialistError, SpecialistPolicy};

const NAME_CHARS: usize = 32;
const PURPOSE_CHARS: usize = 200;
const EXAMPLE_CHARS: usize = 300;
const MAX_EXAMPLES: usize = 64;
/// The name of the base model itself, which is not a specialist.
const RESERVED: &str = "base";

impl SpecialistPolicy {
    /// Parses and validates one file; `origin` names it in errors. Unknown keys are rejected.
    ///
    /// # Errors
    /// [`SpecialistError::BadFile`] naming the key, its value and the expected value.
    pub fn parse(origin: &str, toml: &str) -> Result<Self, SpecialistError> {
        self::parse(toml)
            .map_err(|reason| SpecialistError::BadFile { origin: origin.into(), reason })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    purpose: String,
    #[serde(default)]
    examples: Vec<String>,
    adapter: Option<String>,
    replica: Option<usize>,
    prompt: Prompt,
    #[serde(default = "plain")]
    strategy: String,
    settings: Option<toml::Table>,
    #[serde(default)]
    sampling: Sampling,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Prompt {
    fixed: String,
    #[serde(default)]
    context: String,
}

fn plain() -> String {
    "plain".into()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Sampling {
    temperature: f32,
    top_p: f32,
    repetition_penalty: f32,
    max_tokens: usize,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.7, top_p: 0.95, repetition_penalty: 1.1, max_tokens: 256 }
    }
}

/// Parses and validates a file's text.
pub(crate) fn parse(text: &str) -> Result<SpecialistPolicy, String> {
    let file: File = toml::from_str(text).map_err(|error| misread(text, &error))?;
    check_name(&file.name)?;
    let purpose = one_line("purpose", &file.purpose, PURPOSE_CHARS)?;
    let examples = examples(&file.examples)?;
    if let Some(adapter) = &file.adapter {
        one_line("adapter", adapter, 4_096)?;
    }
    let fixed = file.prompt.fixed.trim();
    if fixed.is_empty() {
        return Err(
            "prompt.fixed is empty, expected the part of the system prompt that never changes"
                .into(),
        );
    }
    let strategy = strategy(&file.strategy, file.settings)?;
    let prompt = PromptTemplate { fixed: fixed.into(), context: file.prompt.context };
    let used = prompt.check().map_err(|reason| format!("prompt.context: {reason}"))?;
    if !strategy.retrieve().is_empty() && !used.iter().any(|name| name.starts_with("evidence")) {
        return Err(
            "prompt.context does not use `evidence`, expected it to show what retrieval finds"
                .into(),
        );
    }
    let sampling = file.sampling;
    within("sampling.temperature", f64::from(sampling.temperature), 0.0, 2.0)?;
    above("sampling.top_p", f64::from(sampling.top_p), 0.0, 1.0)?;
    above("sampling.repetition_penalty", f64::from(sampling.repetition_penalty), 0.0, 2.0)?;
    count("sampling.max_tokens", sampling.max_tokens, 32_768)?;
    Ok(SpecialistPolicy {
        name: file.name,
        purpose,
        examples,
        adapter: file.adapter,
        replica: file.replica,
        strategy,
        temperature: sampling.temperature,
        top_p: sampling.top_p,
        repetition_penalty: sampling.repetition_penalty,
        max_tokens: sampling.max_tokens,
        prompt,
    })
}

/// The error of TOML or serde, with the offending line, which shows the key and its value.
pub(crate) fn misread(text: &str, error: &toml::de::Error) -> String {
    let reason = error.message().replace('\n', ", ");
    let Some(before) = error.span().and_then(|span| text.get(..span.start)) else { return reason };
    let line: String = text
        .lines()
        .nth(before.matches('\n').count())
        .unwrap_or_default()
        .trim()
        .chars()
        .take(120)
        .collect();
    format!("line {} (`{line}`): {reason}", before.matches('\n').count() + 1)
}

fn check_name(name: &str) -> Result<(), String> {
    let starts = name.starts_with(|c: char| c.is_ascii_lowercase());
    let rest =
        name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-');
    if !starts || !rest || name.len() > NAME_CHARS {
        return Err(format!(
            "name is {name:?}, expected a lower-case letter and then up to 31 of a-z, 0-9, `_` and `-`"
        ));
    }
    if name == RESERVED {
        return Err(format!(
            "name is {name:?}, expected another one: `{RESERVED}` is the model itself"
        ));
    }
    Ok(())
}

fn examples(given: &[String]) -> Result<Vec<String>, String> {
    if given.len() > MAX_EXAMPLES {
        return Err(format!(
            "examples has {} entries, expected at most {MAX_EXAMPLES}",
            given.len()
        ));
    }
    given
        .iter()
        .enumerate()
        .map(|(index, example)| one_line(&format!("examples[{index}]"), example, EXAMPLE_CHARS))
        .collect()
}

fn one_line(key: &str, value: &str, longest: usize) -> Result<String, String> {
    let value = value.trim();
    let chars = value.chars().count();
    match chars {
        0 => Err(format!("{key} is empty, expected one line of text")),
        _ if chars > longest => {
            Err(format!("{key} has {chars} characters, expected at most {longest}"))
        }
        _ if value.contains(char::is_control) => {
            Err(format!("{key} is {value:?}, expected one line of text"))
        }
        _ => Ok(value.into()),
    }
}
