//! A specialist's file: its keys, their ranges, and the errors for invalid values.

use serde::Deserialize;

use crate::policy::{AnswerForm, Retrieval, RewardRule};
use crate::prompt;
use crate::time::Quality;
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
        self::parse(toml).map_err(|reason| SpecialistError::BadFile { origin: origin.into(), reason })
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
    #[serde(default)]
    retrieval: RetrievalKeys,
    #[serde(default)]
    answer: AnswerKeys,
    #[serde(default)]
    reward: RewardKeys,
    timing: Option<Quality>,
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

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RetrievalKeys {
    kind: RetrievalKind,
    k: Option<usize>,
    memories: Option<usize>,
    min_score: Option<f32>,
}

#[derive(Deserialize, Default, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum RetrievalKind {
    #[default]
    None,
    Memory,
    Tables,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct AnswerKeys {
    kind: AnswerKind,
    samples: Option<usize>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "lowercase")]
enum AnswerKind {
    #[default]
    Text,
    Probability,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct RewardKeys {
    rule: RuleKind,
    penalty: Option<f64>,
}

#[derive(Deserialize, Default, Clone, Copy, PartialEq)]
#[serde(rename_all = "lowercase")]
enum RuleKind {
    Support,
    Probability,
    Timeliness,
    #[default]
    Rating,
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
        return Err("prompt.fixed is empty, expected the part of the system prompt that never changes".into());
    }
    let retrieval = file.retrieval.check()?;
    let used = prompt::check(&file.prompt.context).map_err(|reason| format!("prompt.context: {reason}"))?;
    if retrieval != Retrieval::None && !used.iter().any(|name| name.starts_with("evidence")) {
        return Err("prompt.context does not use `evidence`, expected it to show what retrieval finds".into());
    }
    let answer = match file.answer.kind {
        AnswerKind::Text => AnswerForm::Text,
        AnswerKind::Probability => AnswerForm::Probability,
    };
    let samples = match file.answer.samples {
        Some(samples) if answer != AnswerForm::Probability => {
            return Err(format!("answer.samples is {samples}, expected no such key but with answer.kind = \"probability\""));
        }
        samples => count("answer.samples", samples.unwrap_or(1), 8)?,
    };
    let reward = file.reward.check(&retrieval, answer)?;
    if let Some(Quality { full, short }) = file.timing {
        within("timing.full", full, 0.0, 1.0)?;
        within("timing.short", short, 0.0, 1.0)?;
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
        retrieval,
        timing: file.timing,
        temperature: sampling.temperature,
        top_p: sampling.top_p,
        repetition_penalty: sampling.repetition_penalty,
        max_tokens: sampling.max_tokens,
        fixed: fixed.into(),
        context: file.prompt.context,
        answer,
        samples,
        reward,
    })
}

impl RetrievalKeys {
    fn check(&self) -> Result<Retrieval, String> {
        if let Some(memories) = self.memories.filter(|_| self.kind != RetrievalKind::Tables) {
            return Err(format!("retrieval.memories is {memories}, expected no such key but with retrieval.kind = \"tables\""));
        }
        if self.kind == RetrievalKind::None {
            let given = self.k.map(|k| format!("k is {k}")).or_else(|| self.min_score.map(|score| format!("min_score is {score}")));
            return match given {
                Some(given) => Err(format!("retrieval.{given}, expected no such key with retrieval.kind = \"none\"")),
                None => Ok(Retrieval::None),
            };
        }
        let (k, min_score) = (count("retrieval.k", self.k.unwrap_or(5), 50)?, self.min_score.unwrap_or(0.0));
        within("retrieval.min_score", f64::from(min_score), -1.0, 1.0)?;
        if self.kind == RetrievalKind::Memory {
            return Ok(Retrieval::Memory { k, min_score });
        }
        let memories = self.memories.unwrap_or(3);
        if memories > 50 {
            return Err(format!("retrieval.memories is {memories}, expected a whole number from 0 to 50"));
        }
        Ok(Retrieval::Tables { k, memories, min_score })
    }
}

impl RewardKeys {
    fn check(&self, retrieval: &Retrieval, answer: AnswerForm) -> Result<RewardRule, String> {
        if let (Some(penalty), true) = (self.penalty, self.rule != RuleKind::Timeliness) {
            return Err(format!("reward.penalty is {penalty}, expected no such key but with reward.rule = \"timeliness\""));
        }
        match self.rule {
            RuleKind::Support if *retrieval == Retrieval::None => {
                Err("reward.rule is \"support\", expected retrieval.kind = \"memory\" or \"tables\" with it".into())
            }
            RuleKind::Probability if answer != AnswerForm::Probability => {
                Err("reward.rule is \"probability\", expected answer.kind = \"probability\" with it".into())
            }
            RuleKind::Support => Ok(RewardRule::Support),
            RuleKind::Probability => Ok(RewardRule::Probability),
            RuleKind::Rating => Ok(RewardRule::Rating),
            RuleKind::Timeliness => {
                let penalty = self.penalty.unwrap_or(0.5);
                within("reward.penalty", penalty, 0.0, 1.0)?;
                Ok(RewardRule::Timeliness { penalty })
            }
        }
    }
}

/// The error of TOML or serde, with the offending line, which shows the key and its value.
pub(crate) fn misread(text: &str, error: &toml::de::Error) -> String {
    let reason = error.message().replace('\n', ", ");
    let Some(before) = error.span().and_then(|span| text.get(..span.start)) else { return reason };
    let line: String = text.lines().nth(before.matches('\n').count()).unwrap_or_default().trim().chars().take(120).collect();
    format!("line {} (`{line}`): {reason}", before.matches('\n').count() + 1)
}

fn check_name(name: &str) -> Result<(), String> {
    let starts = name.starts_with(|c: char| c.is_ascii_lowercase());
    let rest = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-');
    if !starts || !rest || name.len() > NAME_CHARS {
        return Err(format!("name is {name:?}, expected a lower-case letter and then up to 31 of a-z, 0-9, `_` and `-`"));
    }
    if name == RESERVED {
        return Err(format!("name is {name:?}, expected another one: `{RESERVED}` is the model itself"));
    }
    Ok(())
}

fn examples(given: &[String]) -> Result<Vec<String>, String> {
    if given.len() > MAX_EXAMPLES {
        return Err(format!("examples has {} entries, expected at most {MAX_EXAMPLES}", given.len()));
    }
    given.iter().enumerate().map(|(index, example)| one_line(&format!("examples[{index}]"), example, EXAMPLE_CHARS)).collect()
}

fn one_line(key: &str, value: &str, longest: usize) -> Result<String, String> {
    let value = value.trim();
    let chars = value.chars().count();
    match chars {
        0 => Err(format!("{key} is empty, expected one line of text")),
        _ if chars > longest => Err(format!("{key} has {chars} characters, expected at most {longest}")),
        _ if value.contains(char::is_control) => Err(format!("{key} is {value:?}, expected one line of text")),
        _ => Ok(value.into()),
    }
}

fn within(key: &str, value: f64, low: f64, high: f64) -> Result<(), String> {
    if (low..=high).contains(&value) { Ok(()) } else { Err(format!("{key} is {value}, expected a number from {low} to {high}")) }
}

fn above(key: &str, value: f64, low: f64, high: f64) -> Result<(), String> {
    if value > low && value <= high { Ok(()) } else { Err(format!("{key} is {value}, expected a number above {low}, at most {high}")) }
}

fn count(key: &str, value: usize, most: usize) -> Result<usize, String> {
    if (1..=most).contains(&value) { Ok(value) } else { Err(format!("{key} is {value}, expected a whole number from 1 to {most}")) }
}
