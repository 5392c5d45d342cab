//! Screening an answer while it is made.

use std::sync::Arc;

use super::normal::{Token, tokens};
use super::pattern::Match;
use super::policy::{Action, DENIAL_WORDS, EXCEPTION_WORDS, Finding, SafetyPolicy, Side};

/// What may go out now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Released {
    pub text: String,
    /// Something was found that the answer must not go on from: what follows is never to be sent.
    pub stopped: Option<Finding>,
}

/// Follows one answer. Text is held back from where a phrase may have begun until it is clear that it has not, never more than the longest phrase
/// (with the words after it that may excuse it), so that no part of what is stopped has left before.
#[derive(Debug)]
pub struct Screening {
    policy: Arc<SafetyPolicy>,
    /// The end of what was released (for what must be read before a phrase), then all that is held back.
    text: String,
    /// Bytes of `text` that have been released.
    released: usize,
    findings: Vec<Finding>,
    stopped: bool,
}

impl SafetyPolicy {
    /// Screens an answer while it is made.
    pub fn follow(self: std::sync::Arc<Self>) -> Screening {
        Screening::new(self)
    }
}

impl Screening {
    pub(super) fn new(policy: Arc<SafetyPolicy>) -> Self {
        Self { policy, text: String::new(), released: 0, findings: Vec::new(), stopped: false }
    }

    /// What was found so far.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Whether some of the text has not been released yet.
    pub fn holds_back(&self) -> bool {
        self.released < self.text.len()
    }

    /// Takes more text.
    pub fn push(&mut self, more: &str) -> Released {
        self.text.push_str(more);
        self.advance(true)
    }

    /// The answer is complete: what was held back, unless it is stopped.
    pub fn finish(&mut self) -> Released {
        self.advance(false)
    }

    fn advance(&mut self, growing: bool) -> Released {
        if self.stopped {
            return Released { text: String::new(), stopped: None };
        }
        let tokens = tokens(&self.text);
        let mut free = self.text.len();
        for start in 0..tokens.len() {
            let unreleased = tokens[start].span.end > self.released;
            if !unreleased {
                continue;
            }
            if growing && self.may_begin(&tokens, start) {
                free = free.min(tokens[start].span.start);
                break;
            }
            for hit in self.policy.hits_at(&tokens, start, Side::Answer) {
                let finding = self.policy.finding(hit.rule, Side::Answer);
                let stops = finding.action != Action::Warn;
                if !self.findings.contains(&finding) {
                    self.findings.push(finding.clone());
                }
                if stops {
                    self.stopped = true;
                    let from = self.released;
                    let to = tokens[hit.start].span.start.max(from);
                    return Released { text: self.text[from..to].to_owned(), stopped: Some(finding) };
                }
            }
        }
        let free = free.max(self.released);
        let text = self.text[self.released..free].to_owned();
        self.released = free;
        self.forget(&tokens);
        Released { text, stopped: None }
    }

    /// Whether a phrase may stand here that is not complete, or that the next words may excuse.
    fn may_begin(&self, tokens: &[Token], start: usize) -> bool {
        let here = &tokens[start..];
        // letters that stand alone may be the beginning of a word that is spelt out
        if here.len() <= 3 && here.iter().all(|token| token.plain.chars().count() == 1) {
            return true;
        }
        let answers = self.policy.rules.iter().filter(|rule| rule.answer);
        answers.flat_map(|rule| rule.phrases.iter().map(move |phrase| (rule, phrase))).any(|(rule, phrase)| match phrase.at(here, true) {
            Match::Begun => true,
            Match::Whole(length) => {
                !rule.unless.is_empty() && here.len() < length + EXCEPTION_WORDS && !rule.excused(tokens, start, start + length)
            }
            Match::No => false,
        })
    }

    /// Drops what is too far back to matter.
    fn forget(&mut self, tokens: &[Token]) {
        let keep = EXCEPTION_WORDS.max(DENIAL_WORDS) + 1;
        let behind = tokens.iter().filter(|token| token.span.end <= self.released).count();
        if behind > 4 * keep
            && let Some(first) = tokens.get(behind - keep)
        {
            let cut = first.span.start;
            self.text.drain(..cut);
            self.released -= cut;
        }
    }
}
