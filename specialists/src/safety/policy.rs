//! The policy: categories, rules, and what they find in a text.

use serde::{Deserialize, Serialize};

use super::normal::{Token, tokens};
use super::pattern::{Match, Pattern};

/// The shipped policy.
pub const SHIPPED_SAFETY: &str = include_str!("../../../config/safety.toml");

/// Words before a phrase in which a denial counts.
pub(super) const DENIAL_WORDS: usize = 3;
/// Words around a phrase in which an exception counts.
pub(super) const EXCEPTION_WORDS: usize = 5;
pub(super) const DENIALS: [&str; 8] = ["not", "never", "no", "without", "nobody", "nor", "neither", "refuse"];

/// What is done when a rule finds something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// The answer goes out; what the category says is added at its end.
    Warn,
    /// Nothing is answered but what the category says.
    Refuse,
    /// Eleos answers, and what the category says comes first.
    Support,
}

/// Which text a rule reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    Question,
    Answer,
}

/// What a rule found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub category: String,
    pub action: Action,
    /// 1 to 3; the gravest finding decides.
    pub severity: u8,
    /// The rule's id.
    pub rule: String,
    /// Where it was found.
    #[serde(rename = "where")]
    pub side: Side,
}

/// What screening found, for the record.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SafetyReport {
    /// SHA-256 of the policy file.
    pub policy: String,
    pub findings: Vec<Finding>,
}

#[derive(Debug, Clone)]
pub(super) struct Category {
    pub(super) name: String,
    pub(super) action: Action,
    pub(super) severity: u8,
    pub(super) text: String,
    pub(super) reroute: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub(super) id: String,
    pub(super) category: usize,
    pub(super) question: bool,
    pub(super) answer: bool,
    pub(super) phrases: Vec<Pattern>,
    pub(super) unless: Vec<Pattern>,
    pub(super) unless_denied: bool,
}

/// A policy, ready to screen.
#[derive(Debug, Clone)]
pub struct SafetyPolicy {
    pub(super) id: String,
    pub(super) support_specialist: Option<String>,
    pub(super) categories: Vec<Category>,
    pub(super) rules: Vec<Rule>,
    /// Tokens that have to be held back at most, so that a phrase is whole before it leaves.
    pub(super) longest: usize,
}

/// A rule's phrase in a text.
pub(super) struct Hit {
    pub(super) rule: usize,
    /// The token at which it begins.
    pub(super) start: usize,
}

impl SafetyPolicy {
    /// SHA-256 of the file, in hexadecimal.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The specialist that questions of a category with `reroute` go to; `None`: they are routed like any other.
    pub fn support_specialist(&self) -> Option<&str> {
        self.support_specialist.as_deref()
    }

    /// Words of an answer that are held back at most while it is made: the longest phrase with the words after it that may excuse it.
    pub fn hold_back(&self) -> usize {
        self.longest
    }

    /// Everything the rules find in a text, the gravest first.
    pub fn screen(&self, text: &str, side: Side) -> Vec<Finding> {
        let tokens = tokens(text);
        let mut found: Vec<Finding> = Vec::new();
        for start in 0..tokens.len() {
            for hit in self.hits_at(&tokens, start, side) {
                let finding = self.finding(hit.rule, side);
                if !found.contains(&finding) {
                    found.push(finding);
                }
            }
        }
        found.sort_by_key(|finding| (std::cmp::Reverse(finding.severity), std::cmp::Reverse(finding.action)));
        found
    }

    /// What is said for a finding: first, instead or at the end, as its action has it.
    pub fn text_of(&self, finding: &Finding) -> &str {
        self.categories.iter().find(|category| category.name == finding.category).map_or("", |category| category.text.as_str())
    }

    /// Whether a question with this finding goes to Eleos, whoever was to answer.
    pub fn reroutes(&self, finding: &Finding) -> bool {
        finding.side == Side::Question && self.categories.iter().any(|category| category.name == finding.category && category.reroute)
    }

    pub(super) fn finding(&self, rule: usize, side: Side) -> Finding {
        let rule = &self.rules[rule];
        let category = &self.categories[rule.category];
        Finding { category: category.name.clone(), action: category.action, severity: category.severity, rule: rule.id.clone(), side }
    }

    /// What begins at a token and counts.
    pub(super) fn hits_at(&self, tokens: &[Token], start: usize, side: Side) -> Vec<Hit> {
        let mut hits = Vec::new();
        for (index, rule) in self.rules.iter().enumerate() {
            if !rule.reads(side) {
                continue;
            }
            let ends = rule.phrases.iter().filter_map(|phrase| match phrase.at(&tokens[start..], false) {
                Match::Whole(length) => Some(start + length),
                Match::Begun | Match::No => None,
            });
            if let Some(end) = ends.max()
                && !rule.excused(tokens, start, end)
            {
                hits.push(Hit { rule: index, start });
            }
        }
        hits
    }
}

impl Rule {
    pub(super) fn reads(&self, side: Side) -> bool {
        match side {
            Side::Question => self.question,
            Side::Answer => self.answer,
        }
    }

    /// An exception overlaps the phrase, or stands close to it, or the phrase is denied.
    pub(super) fn excused(&self, tokens: &[Token], start: usize, end: usize) -> bool {
        // in the same sentence: what is said after it takes nothing back
        let sentence = (0..=start).rev().find(|at| tokens[*at].begins_sentence).unwrap_or(0);
        let next = (end..tokens.len()).find(|at| tokens[*at].begins_sentence).unwrap_or(tokens.len());
        let from = start.saturating_sub(EXCEPTION_WORDS).max(sentence);
        let to = (end + EXCEPTION_WORDS).min(next);
        let excepted =
            (from..to).any(|at| self.unless.iter().any(|exception| matches!(exception.at(&tokens[at..to], false), Match::Whole(_))));
        if excepted {
            return true;
        }
        if !self.unless_denied {
            return false;
        }
        // in the same clause, not before it
        let clause = (0..=start).rev().find(|at| tokens[*at].begins_clause).unwrap_or(0);
        let before = start.saturating_sub(DENIAL_WORDS).max(clause);
        tokens[before..start].iter().any(|token| DENIALS.contains(&token.plain.as_str()))
    }
}
