//! Screens an answer during generation.

use std::sync::Arc;

use nyx_domain::{Finding, SafetyAction, Side};

use super::normal::{Token, tokens};
use super::pattern::Match;
use super::policy::{DENIAL_WORDS, EXCEPTION_WORDS, SafetyPolicy};

/// The output of one step of the screening.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Released {
    /// The text that may be sent.
    pub text: String,
    /// A finding that stops the answer: the following text must not be sent.
    pub stopped: Option<Finding>,
}

/// The screening of one answer. Text is buffered from where a phrase may begin until the phrase is
/// ruled out, at most the longest phrase (with the following words that may exempt it), so that no
/// part of a stopped phrase is sent.
#[derive(Debug)]
pub struct Screening {
    policy: Arc<SafetyPolicy>,
    /// The tail of the released text (context for the words before a phrase), then all buffered
    /// text.
    text: String,
    /// Bytes of `text` that have been released.
    released: usize,
    findings: Vec<Finding>,
    stopped: bool,
}

impl SafetyPolicy {
    /// Screens an answer during generation.
    pub fn screening(self: std::sync::Arc<Self>) -> Screening {
        Screening::new(self)
    }
}

impl Screening {
    pub(super) fn new(policy: Arc<SafetyPolicy>) -> Self {
        Self { policy, text: String::new(), released: 0, findings: Vec::new(), stopped: false }
    }

    /// The findings so far.
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Whether some of the text is still buffered.
    pub fn is_buffering(&self) -> bool {
        self.released < self.text.len()
    }

    /// Adds generated text.
    pub fn push(&mut self, more: &str) -> Released {
        self.text.push_str(more);
        self.advance(true)
    }

    /// Ends the answer: releases the buffered text, unless the answer is stopped.
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
                let stops = finding.action != SafetyAction::Warn;
                if !self.findings.contains(&finding) {
                    self.findings.push(finding.clone());
                }
                if stops {
                    self.stopped = true;
                    let from = self.released;
                    let to = tokens[hit.start].span.start.max(from);
                    return Released {
                        text: self.text[from..to].to_owned(),
                        stopped: Some(finding),
                    };
                }
            }
        }
        let free = free.max(self.released);
        let text = self.text[self.released..free].to_owned();
        self.released = free;
        self.drop_context(&tokens);
        Released { text, stopped: None }
    }

    /// Whether a phrase may begin here that is incomplete, or that the next words may exempt.
    fn may_begin(&self, tokens: &[Token], start: usize) -> bool {
        let here = &tokens[start..];
        // single letters may begin a word written with spaces
        if here.len() <= 3 && here.iter().all(|token| token.plain.chars().count() == 1) {
            return true;
        }
        let answers = self.policy.rules.iter().filter(|rule| rule.answer);
        answers.flat_map(|rule| rule.phrases.iter().map(move |phrase| (rule, phrase))).any(
            |(rule, phrase)| match phrase.at(here, true) {
                Match::Partial => true,
                Match::Full(length) => {
                    !rule.unless.is_empty()
                        && here.len() < length + EXCEPTION_WORDS
                        && !rule.is_exempt(tokens, start, start + length)
                }
                Match::No => false,
            },
        )
    }

    /// Drops released text that is no longer needed as context.
    fn drop_context(&mut self, tokens: &[Token]) {
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
