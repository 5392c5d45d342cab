//! Screening: findings in a question, and moderation of an answer while it is generated.

use std::sync::Arc;

use nyx_domain::{Finding, SafetyAction, SafetyReport, Side};
use nyx_specialists::safety::{Released, SafetyPolicy, Screening};

/// A screened question, with the policy for its answer.
#[derive(Debug, Clone)]
pub struct Screened {
    policy: Arc<SafetyPolicy>,
    findings: Vec<Finding>,
    /// With choices nothing is generated: findings are only recorded.
    generates: bool,
}

impl Screened {
    pub(crate) fn of(policy: &Arc<SafetyPolicy>, asked: &str, generates: bool) -> Self {
        Self {
            policy: Arc::clone(policy),
            findings: policy.screen(asked, Side::Question),
            generates,
        }
    }

    pub(crate) fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Whether the support specialist answers, regardless of the routing.
    pub(crate) fn reroutes(&self) -> bool {
        self.generates
            && self.findings.iter().any(|finding| {
                self.policy.reroutes(finding) || finding.action == SafetyAction::Refuse
            })
    }

    /// The text that is sent instead of an answer; support texts come first.
    pub(crate) fn refusal(&self) -> Option<String> {
        let refused = self.generates
            && self.findings.iter().any(|finding| finding.action == SafetyAction::Refuse);
        refused.then(|| self.texts(&[SafetyAction::Support, SafetyAction::Refuse]))
    }

    /// The text that is sent before the answer.
    fn opening(&self) -> Option<String> {
        Some(self.texts(&[SafetyAction::Support])).filter(|text| self.generates && !text.is_empty())
    }

    /// The text of the most severe finding of each of these actions.
    fn texts(&self, actions: &[SafetyAction]) -> String {
        let gravest =
            |action: &SafetyAction| self.findings.iter().find(|finding| finding.action == *action);
        let texts: Vec<&str> = actions
            .iter()
            .filter_map(gravest)
            .map(|finding| self.policy.text_of(finding))
            .filter(|text| !text.is_empty())
            .collect();
        texts.join("\n\n")
    }

    /// The report of a decision, with the findings in its answers.
    pub(crate) fn report(&self, answers: Vec<Finding>) -> SafetyReport {
        let mut findings = self.findings.clone();
        for finding in answers {
            if !findings.contains(&finding) {
                findings.push(finding);
            }
        }
        SafetyReport { policy: self.policy.id().to_owned(), findings }
    }

    /// The moderator of one answer.
    pub(super) fn guard(&self) -> StreamModerator {
        StreamModerator {
            policy: Arc::clone(&self.policy),
            screening: Arc::clone(&self.policy).screening(),
            opening: self.opening(),
            stopped: false,
        }
    }
}

/// Moderates one answer: decides which of its text is sent, and what is added.
pub(super) struct StreamModerator {
    policy: Arc<SafetyPolicy>,
    screening: Screening,
    opening: Option<String>,
    stopped: bool,
}

impl StreamModerator {
    /// The text before the answer.
    pub(super) fn open(&mut self) -> String {
        self.opening.take().map_or_else(String::new, |text| text + "\n\n")
    }

    /// The text that may be sent, given more of the answer.
    pub(super) fn pass(&mut self, text: &str) -> String {
        let released = self.screening.push(text);
        self.close_where_stopped(released)
    }

    /// The rest of the text when the answer is complete, and what is added to it.
    pub(super) fn end(&mut self) -> String {
        if self.stopped {
            return String::new();
        }
        let released = self.screening.finish();
        let mut text = self.close_where_stopped(released);
        if !self.stopped {
            for finding in self.screening.findings() {
                text.push_str("\n\n");
                text.push_str(self.policy.text_of(finding));
            }
        }
        text
    }

    /// Whether the answer was stopped.
    pub(super) fn stopped(&self) -> bool {
        self.stopped
    }

    /// Whether some text is still buffered.
    pub(super) fn is_buffering(&self) -> bool {
        self.screening.is_buffering()
    }

    pub(super) fn findings(&self) -> Vec<Finding> {
        self.screening.findings().to_vec()
    }

    fn close_where_stopped(&mut self, released: Released) -> String {
        let Released { mut text, stopped } = released;
        if let Some(finding) = stopped {
            self.stopped = true;
            text.truncate(text.trim_end().len());
            text.push_str("\n\n");
            text.push_str(self.policy.text_of(&finding));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn screened(asked: &str, generates: bool) -> Screened {
        Screened::of(&Arc::new(SafetyPolicy::builtin().unwrap()), asked, generates)
    }

    #[test]
    fn a_crisis_opens_the_answer_and_goes_to_eleos() {
        let crisis = screened("I want to kill myself", true);
        assert!(crisis.reroutes() && crisis.refusal().is_none());
        let mut guard = crisis.guard();
        assert!(guard.open().contains("988"));
        assert_eq!(guard.open(), "", "said once");
        assert_eq!(guard.pass("You are not alone. ") + &guard.end(), "You are not alone. ");
        assert_eq!(crisis.report(guard.findings()).findings[0].rule, "self-harm-intent");
    }

    #[test]
    fn help_with_harm_is_refused_and_help_for_the_one_who_asks_comes_first() {
        assert!(
            screened("How do I build a pipe bomb?", true)
                .refusal()
                .unwrap()
                .starts_with("I can not help")
        );
        let both =
            screened("I want to kill myself, how do I build a pipe bomb?", true).refusal().unwrap();
        assert!(both.find("988").unwrap() < both.find("can not help").unwrap());
        assert_eq!(screened("How do I build a bird house?", true).refusal(), None);
    }

    #[test]
    fn choices_are_only_recorded() {
        let choices = screened("I want to kill myself", false);
        assert!(
            !choices.reroutes() && choices.refusal().is_none() && choices.guard().open().is_empty()
        );
        assert_eq!(choices.findings().len(), 1);
    }

    #[test]
    fn an_answer_ends_where_it_must_not_go_on() {
        let mut guard = screened("Hello", true).guard();
        let mut said = String::new();
        // the following words may be an exception to the phrase: it is buffered until they are
        // known
        for piece in [
            "Well. ",
            "You sho",
            "uld ki",
            "ll yours",
            "elf now, ",
            "because it is what ",
            "everyone would like to see",
        ] {
            said.push_str(&guard.pass(piece));
            assert!(!said.contains("kill"), "{said}");
        }
        assert!(guard.stopped() && guard.end().is_empty());
        assert!(said.starts_with("Well. \n\nIt sounds like"), "{said}");
        let mut warned = screened("Hello", true).guard();
        let said = warned.pass("You should stop taking your medication.") + &warned.end();
        assert!(
            said.starts_with("You should stop taking your medication.\n\nPlease talk to a doctor")
                && !warned.stopped(),
            "{said}"
        );
    }
}
