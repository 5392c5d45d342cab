//! A specialist that reads facts: a statement is checked against the registered tables, and where a query decides, its word is the answer.

use std::time::Instant;

use nyx_specialists::facts::bare_statement;
use nyx_specialists::{Evidence, Finding, Retrieval};
use tokio::sync::mpsc;

use super::{SpecialistParts, Spoken, ms};
use crate::decision::{Answer, Timings};
use crate::facts::{Check, DecidedBy, FactVerdict};
use crate::question::{Question, StreamEvent, ending};
use crate::{NyxError, RequestContext};

/// The note of a decision that holds its [`Check`].
pub const NOTE: &str = "facts";
/// Words that a question begins with which states nothing.
const ASKING: [&str; 12] = ["who", "what", "when", "where", "which", "how", "why", "whose", "whom", "list", "name", "tell"];
/// Left to a choice such as `unknown`, when the tables tell.
const LEFT: f64 = 0.02;

/// What a choice says of a statement.
fn said(choice: &str) -> Option<FactVerdict> {
    match choice.trim().trim_end_matches('.').to_lowercase().as_str() {
        "supported" | "supports" | "true" | "yes" | "correct" | "entailed" | "right" => Some(FactVerdict::Supported),
        "refuted" | "refutes" | "false" | "no" | "incorrect" | "wrong" => Some(FactVerdict::Refuted),
        "unknown" | "not enough info" | "not enough information" | "cannot tell" => Some(FactVerdict::Unknown),
        _ => None,
    }
}

/// What a query found, where one decides.
pub(super) fn found(check: &Check) -> Option<Finding> {
    (check.decided_by == DecidedBy::Query).then_some(match check.verdict {
        FactVerdict::Supported => Finding::Supported,
        FactVerdict::Refuted => Finding::Refuted,
        FactVerdict::Unknown => Finding::Unknown,
    })
}

/// The choices' probabilities from the statement's; `None` where they are no verdicts.
fn probabilities(choices: &[String], supported: f64) -> Option<Vec<f64>> {
    let said: Vec<FactVerdict> = choices.iter().map(|choice| said(choice)).collect::<Option<_>>()?;
    let count = |verdict: FactVerdict| said.iter().filter(|said| **said == verdict).count();
    if (count(FactVerdict::Supported), count(FactVerdict::Refuted)) != (1, 1) || count(FactVerdict::Unknown) > 1 {
        return None;
    }
    let left = LEFT * count(FactVerdict::Unknown) as f64;
    let share = |verdict: &FactVerdict| match verdict {
        FactVerdict::Supported => supported * (1.0 - left),
        FactVerdict::Refuted => (1.0 - supported) * (1.0 - left),
        FactVerdict::Unknown => left,
    };
    Some(said.iter().map(share).collect())
}

/// Whether a question states something that can be true or false.
fn states(asked: &str) -> bool {
    let first = bare_statement(asked).split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default().to_lowercase();
    bare_statement(asked).len() < asked.trim_end_matches(['?', '.', ' ']).len() || !ASKING.contains(&first.as_str())
}

impl Check {
    /// What the prompt and the decision show: the rows, and before them what the plan came to.
    pub(super) fn evidence(&self) -> Vec<Evidence> {
        let outcome = self.plans.first().zip(self.tables.first()).map(|(outcome, (table, score))| {
            let verdict = if self.decided_by == DecidedBy::Query { self.verdict } else { FactVerdict::Unknown };
            let holds = match outcome.holds {
                Some(true) => "holds",
                Some(false) => "does not hold",
                None => "gives nothing",
            };
            let text = format!("{}: the query {} {holds}", verdict.as_str(), outcome.plan);
            Evidence {
                id: format!("table:{table}"),
                text,
                score: *score,
                source: table.clone(),
                speaker: None,
                when: None,
                context: vec![],
            }
        });
        self.rows.iter().cloned().chain(outcome).collect()
    }
}

impl SpecialistParts {
    /// Checks what is asked against the registered tables, where this specialist reads records and a table is found.
    pub(super) async fn check_facts(&self, context: &RequestContext, asked: &str) -> Result<Option<Check>, NyxError> {
        let reads = self.policy.as_ref().is_some_and(|policy| matches!(policy.retrieval, Retrieval::Record { .. }));
        if !reads || asked.trim().is_empty() {
            return Ok(None);
        }
        let check = context.bound("registered tables were read", Box::pin(self.facts.check(ending(asked, super::QUERY_CHARS)))).await?;
        Ok(Some(check).filter(|check| !check.tables.is_empty()))
    }

    /// The answer that needs no model: among choices by the probability that the tables give, in words where a query decides. Streams it.
    pub(super) fn tell(
        &self,
        context: &RequestContext,
        check: &Check,
        question: &Question,
        asked: &str,
        events: Option<&mpsc::Sender<StreamEvent>>,
    ) -> Option<Spoken> {
        let began = Instant::now();
        let timings = Timings { first_token_ms: Some(ms(context.asked)), ..Timings::default() };
        if let Some(choices) = &question.choices {
            let probabilities = probabilities(choices, check.p_supported?)?;
            let best = (0..probabilities.len()).fold(0, |best, at| if probabilities[at] > probabilities[best] { at } else { best });
            let answers = vec![Answer { text: choices[best].clone(), finish_reason: "choice".into() }];
            return Some(Spoken { answers, choice_probabilities: Some(probabilities), timings, ..Spoken::default() });
        }
        if check.decided_by != DecidedBy::Query || !states(asked) {
            return None;
        }
        let plan = check.plans.iter().map(|outcome| outcome.plan.as_str()).collect::<Vec<_>>().join("; ");
        let mut text = format!("{}. ", check.verdict.as_str());
        match check.rows.first() {
            Some(row) => text.push_str(&format!("{} [1]", row.text)),
            None => text.push_str(&format!("No row of {} fits: {plan}", check.tables.first().map_or("", |(name, _)| name))),
        }
        for index in 0..question.n {
            let Some(events) = events else { break };
            let said = StreamEvent::Token { index, text: text.clone(), logprobs: Vec::new() };
            // whether a reader is still there is told by the decision that follows
            drop(events.try_send(said));
            drop(events.try_send(StreamEvent::Finished { index, finish_reason: "stop".into() }));
        }
        let answers = vec![Answer { text, finish_reason: "stop".into() }; question.n];
        let timings = Timings { decode_ms: ms(began), ..timings };
        Some(Spoken { answers, timings, ..Spoken::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_that_are_verdicts_share_the_probability() {
        let of = |choices: &[&str], p: f64| probabilities(&choices.iter().map(|&choice| choice.to_owned()).collect::<Vec<_>>(), p);
        assert_eq!(of(&["supported", "refuted"], 0.75), Some(vec![0.75, 0.25]));
        assert_eq!(of(&["No", "Yes."], 0.75), Some(vec![0.25, 0.75]));
        let three = of(&["true", "false", "unknown"], 1.0).unwrap();
        assert!((three.iter().sum::<f64>() - 1.0).abs() < 1e-12 && three[2] > 0.0);
        for other in [&["supported", "paris"][..], &["supported"], &["true", "yes"], &["unknown", "refuted"]] {
            assert_eq!(of(other, 0.5), None, "{other:?}");
        }
    }

    #[test]
    fn a_question_is_no_statement() {
        for asked in ["Is it true that who wins dares?", "the reds have won 3 games", "Paris is in Italy."] {
            assert!(states(asked), "{asked}");
        }
        for asked in ["Who won?", "how many games were won?", "List the games"] {
            assert!(!states(asked), "{asked}");
        }
    }
}
