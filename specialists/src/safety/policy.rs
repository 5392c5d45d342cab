//! The policy: categories, rules, and their findings in a text.

use nyx_domain::{Finding, SafetyAction, Side};

use super::normal::{Token, tokens};
use super::pattern::{Match, Pattern};

/// The built-in policy.
pub const BUILTIN_SAFETY: &str = include_str!("../../../config/safety.toml");

/// Number of words before a phrase within which a negation counts.
pub(super) const DENIAL_WORDS: usize = 3;
/// Number of words around a phrase within which an exception counts.
pub(super) const EXCEPTION_WORDS: usize = 5;
pub(super) const DENIALS: [&str; 8] =
    ["not", "never", "no", "without", "nobody", "nor", "neither", "refuse"];

#[derive(Debug, Clone)]
pub(super) struct Category {
    pub(super) name: String,
    pub(super) action: SafetyAction,
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

/// A compiled policy.
#[derive(Debug, Clone)]
pub struct SafetyPolicy {
    pub(super) id: String,
    pub(super) support_specialist: Option<String>,
    pub(super) categories: Vec<Category>,
    pub(super) rules: Vec<Rule>,
    /// Maximum number of tokens to buffer, so that a phrase is complete before any of it is sent.
    pub(super) longest: usize,
}

/// A match of a rule's phrase in a text.
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

    /// The specialist that answers questions of a category with `reroute`; `None`: they are routed
    /// normally.
    pub fn support_specialist(&self) -> Option<&str> {
        self.support_specialist.as_deref()
    }

    /// Maximum number of words of an answer that are buffered during generation: the longest phrase
    /// with the following words that may exempt it.
    pub fn hold_back(&self) -> usize {
        self.longest
    }

    /// All findings in a text, the most severe first.
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
        found.sort_by_key(|finding| {
            (std::cmp::Reverse(finding.severity), std::cmp::Reverse(finding.action))
        });
        found
    }

    /// The text for a finding; its action determines whether it is sent first, instead or at the
    /// end.
    pub fn text_of(&self, finding: &Finding) -> &str {
        self.categories
            .iter()
            .find(|category| category.name == finding.category)
            .map_or("", |category| category.text.as_str())
    }

    /// Whether a question with this finding is rerouted to the support specialist, whichever
    /// specialist was chosen.
    pub fn reroutes(&self, finding: &Finding) -> bool {
        finding.side == Side::Question
            && self
                .categories
                .iter()
                .any(|category| category.name == finding.category && category.reroute)
    }

    pub(super) fn finding(&self, rule: usize, side: Side) -> Finding {
        let rule = &self.rules[rule];
        let category = &self.categories[rule.category];
        Finding {
            category: category.name.clone(),
            action: category.action,
            severity: category.severity,
            rule: rule.id.clone(),
            side,
        }
    }

    /// The matches that begin at a token and are not exempt.
    pub(super) fn hits_at(&self, tokens: &[Token], start: usize, side: Side) -> Vec<Hit> {
        let mut hits = Vec::new();
        for (index, rule) in self.rules.iter().enumerate() {
            if !rule.reads(side) {
                continue;
            }
            let ends =
                rule.phrases.iter().filter_map(|phrase| match phrase.at(&tokens[start..], false) {
                    Match::Full(length) => Some(start + length),
                    Match::Partial | Match::No => None,
                });
            if let Some(end) = ends.max()
                && !rule.is_exempt(tokens, start, end)
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

    /// Whether an exception overlaps or is close to the phrase, or the phrase is negated.
    pub(super) fn is_exempt(&self, tokens: &[Token], start: usize, end: usize) -> bool {
        // exceptions count only within the sentence of the phrase
        let sentence = (0..=start).rev().find(|at| tokens[*at].begins_sentence).unwrap_or(0);
        let next =
            (end..tokens.len()).find(|at| tokens[*at].begins_sentence).unwrap_or(tokens.len());
        let from = start.saturating_sub(EXCEPTION_WORDS).max(sentence);
        let to = (end + EXCEPTION_WORDS).min(next);
        let excepted = (from..to).any(|at| {
            self.unless
                .iter()
                .any(|exception| matches!(exception.at(&tokens[at..to], false), Match::Full(_)))
        });
        if excepted {
            return true;
        }
        if !self.unless_denied {
            return false;
        }
        // negations count only within the clause of the phrase
        let clause = (0..=start).rev().find(|at| tokens[*at].begins_clause).unwrap_or(0);
        let before = start.saturating_sub(DENIAL_WORDS).max(clause);
        tokens[before..start].iter().any(|token| DENIALS.contains(&token.plain.as_str()))
    }
}
