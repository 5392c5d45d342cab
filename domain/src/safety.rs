//! Findings of the safety policy.

use serde::{Deserialize, Serialize};

/// The action when a rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SafetyAction {
    /// The answer is sent; the category's text is appended.
    Warn,
    /// The category's text is sent instead of an answer.
    Refuse,
    /// The support specialist answers, and the category's text is sent first.
    Support,
}

/// The text that a rule applies to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// What the caller wrote.
    Question,
    /// What the model wrote.
    Answer,
}

/// A match of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The category of the policy file.
    pub category: String,
    /// What is done about it.
    pub action: SafetyAction,
    /// 1 to 3; the most severe finding decides.
    pub severity: u8,
    /// The rule's id.
    pub rule: String,
    /// The side on which it was found.
    #[serde(rename = "where")]
    pub side: Side,
}

/// The findings of a screening.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SafetyReport {
    /// SHA-256 of the policy file.
    pub policy: String,
    /// The most severe first.
    pub findings: Vec<Finding>,
}
