//! The rules of the automatic reward: each gives a trait activation in [0, 1], or `None` where it cannot know.

use std::collections::HashSet;

use crate::words::content_words;
use crate::{Evidence, Outcome};

/// Clauses that say that nothing was found (after [`plain`]).
const ABSTENTIONS: [&str; 12] = [
    "no memor",
    "none of the memor",
    "none of these memor",
    "nothing fits",
    "no memory fits",
    "no information",
    "no record",
    "not remember",
    "n't remember",
    "not recall",
    "n't recall",
    "nothing about that",
];

/// An activation in [0, 1] as a reward in [-1, 1]: `2a − 1`.
pub fn reward_of(activation: f64) -> f64 {
    2.0 * activation.clamp(0.0, 1.0) - 1.0
}

/// The reward of a forecast once it is known whether it happened: `1 − 2(p − o)²`, the Brier score (Brier 1950) turned so that more is
/// better. Strictly proper: in expectation nothing pays more than the true probability. An even forecast earns 0.5.
///
/// `probability` outside [0, 1] is taken as the nearer end; NaN earns −1.
pub fn brier_reward(probability: f64, happened: bool) -> f64 {
    quadratic_reward(probability, if happened { 1.0 } else { 0.0 })
}

/// [`brier_reward`] of what happened in part: `outcome` in [0, 1], such as a question that was resolved to 70 %.
pub fn quadratic_reward(probability: f64, outcome: f64) -> f64 {
    if probability.is_nan() || outcome.is_nan() {
        return -1.0;
    }
    let error = probability.clamp(0.0, 1.0) - outcome.clamp(0.0, 1.0);
    reward_of(1.0 - error * error)
}

/// The reward of probabilities of several choices once it is known which one came true: `1 − Σ(pᵢ − oᵢ)²`, Brier's score for several categories
/// (Brier 1950); with two it is [`brier_reward`]. NaN, and a choice that there is not, earn −1.
pub fn choices_reward(probabilities: &[f64], came_true: usize) -> f64 {
    if came_true >= probabilities.len() || probabilities.iter().any(|p| p.is_nan()) {
        return -1.0;
    }
    let errors =
        probabilities.iter().enumerate().map(|(index, p)| (p.clamp(0.0, 1.0) - if index == came_true { 1.0 } else { 0.0 }).powi(2));
    (1.0 - errors.sum::<f64>()).max(-1.0)
}

/// Eleos: what people say of an answer, less the fairness penalty of its pair. `rating` in [-1, 1] (a thumb down to a thumb up) and `penalty` in [0, 1]
/// (0 where no pair was asked); `weight` is what a penalty of 1 takes off. The reward stays in [-1, 1]; NaN counts as the worst.
pub fn rated(rating: f64, penalty: f64, weight: f64) -> f64 {
    let worst_of = |value: f64, worst: f64| if value.is_nan() { worst } else { value };
    let (rating, penalty) = (worst_of(rating, -1.0).clamp(-1.0, 1.0), worst_of(penalty, 1.0).clamp(0.0, 1.0));
    (rating - weight.max(0.0) * penalty).clamp(-1.0, 1.0)
}

/// What a stated confidence adds to a reward whose truth is known: `−weight (confidence − correct)²`, in [−weight, 0]. Strictly proper: in expectation
/// nothing costs less than the true probability of being right. `weight` below 0 counts as 0; a confidence that is NaN as the worst.
pub fn calibration(confidence: f64, correct: bool, weight: f64) -> f64 {
    let correct = if correct { 1.0 } else { 0.0 };
    let error = if confidence.is_nan() { 1.0 } else { confidence.clamp(0.0, 1.0) - correct };
    -weight.max(0.0) * error * error
}

/// Kairos: a reward in [-1, 1] after the delay. What it is worth above the worst loses `penalty` (in [0, 1]) in proportion to the share of its time that
/// the answer took.
pub fn delayed(reward: f64, penalty: f64, taken: f64) -> f64 {
    let taken = if taken.is_nan() { 1.0 } else { taken.clamp(0.0, 1.0) };
    reward_of((reward + 1.0) / 2.0 * (1.0 - penalty.clamp(0.0, 1.0) * taken))
}

/// Mnemosyne: the share of the answer's content words that stand in its evidence (text, speaker, date), in any order.
///
/// Clauses that say that nothing fits are not content. With no evidence they alone are right (1), and every other claim is made up (0).
/// `None` where there is nothing to measure: an answer without content words, or one that says that nothing fits although something was
/// found (whether it fits, only people know).
pub fn support(answer: &str, evidence: &[Evidence]) -> Option<f64> {
    let claims: Vec<String> = clauses(answer).filter(|clause| !is_abstention(clause)).flat_map(content_words).collect();
    if claims.is_empty() {
        return (evidence.is_empty() && abstains(answer)).then_some(1.0);
    }
    let known: HashSet<String> = evidence
        .iter()
        .flat_map(|item| {
            let date = item.when.map(|when| when.format("%A %-d %B %Y").to_string()).unwrap_or_default();
            content_words(&format!("{}\n{}\n{date}", item.text, item.speaker.as_deref().unwrap_or_default()))
        })
        .collect();
    let supported = claims.iter().filter(|word| known.contains(*word)).count();
    Some(supported as f64 / claims.len() as f64)
}

/// Whether an answer says, somewhere, that nothing was found.
pub fn abstains(answer: &str) -> bool {
    clauses(answer).any(is_abstention)
}

fn clauses(answer: &str) -> impl Iterator<Item = &str> {
    answer.split(['.', '!', '?', ';', ',', ':', '\n'])
}

fn is_abstention(clause: &str) -> bool {
    let clause = clause.to_lowercase().replace('’', "'");
    ABSTENTIONS.iter().any(|phrase| clause.contains(phrase))
}

/// Aletheia's three verdicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    Supported,
    Refuted,
    Unknown,
}

/// The first verdict word of an answer; a negated one (`not supported`, `neither supported nor refuted`) is unknown.
pub fn finding(answer: &str) -> Option<Finding> {
    let lower = answer.to_lowercase().replace('’', "'");
    let words: Vec<&str> = lower.split(|c: char| !c.is_alphanumeric() && c != '\'').filter(|word| !word.is_empty()).collect();
    let (at, found) = words.iter().enumerate().find_map(|(at, word)| match *word {
        "supported" => Some((at, Finding::Supported)),
        "refuted" => Some((at, Finding::Refuted)),
        "unknown" | "unsupported" => Some((at, Finding::Unknown)),
        _ => None,
    })?;
    let negated = words[at.saturating_sub(3)..at]
        .iter()
        .any(|word| ["not", "cannot", "neither", "never", "nor", "no"].contains(word) || word.ends_with("n't"));
    Some(if negated { Finding::Unknown } else { found })
}

/// Aletheia: whether verdict and rows agree. Where a query over the rows decides (`rows`), its finding is the truth; else without rows only `unknown`
/// agrees (1), and another verdict has nothing to stand on (0).
///
/// `None` with rows that decide nothing, and for an answer without a verdict word.
pub fn agreement(answer: &str, evidence: &[Evidence], rows: Option<Finding>) -> Option<f64> {
    match (finding(answer)?, rows) {
        (said, Some(truth)) => Some(if said == truth { 1.0 } else { 0.0 }),
        (said, None) => unfounded(said, evidence),
    }
}

fn unfounded(said: Finding, evidence: &[Evidence]) -> Option<f64> {
    match said {
        _ if !evidence.is_empty() => None,
        Finding::Unknown => Some(1.0),
        Finding::Supported | Finding::Refuted => Some(0.0),
    }
}

/// Kairos: what an answer is worth after the delay. A whole answer starts at 1 and loses `penalty` (in [0, 1]) in proportion to the part
/// of its time that it took; one that was cut, or says nothing, is worth 0.
pub fn timeliness(outcome: &Outcome<'_>, penalty: f64) -> f64 {
    if !outcome.complete || !outcome.answer.contains(char::is_alphanumeric) {
        return 0.0;
    }
    // A deadline of 0 gives infinity or, with no time taken, NaN: both mean that the time is used up.
    let taken = outcome.elapsed_ms / outcome.deadline_ms as f64;
    let taken = if taken.is_nan() { 1.0 } else { taken.clamp(0.0, 1.0) };
    (1.0 - penalty * taken).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Reading;
    use crate::seeded::Seeded;

    const VOCABULARY: [&str; 14] =
        ["sister", "Lisbon", "moved", "nurse", "tea", "dogs", "the", "in", "not", "2026", "[1]", "東京", "no memory of that.", "garden,"];

    fn memory(text: &str) -> Evidence {
        Evidence { id: "1".into(), text: text.into(), score: 0.7, source: "memory".into(), speaker: None, when: None, context: vec![] }
    }

    fn sentence(random: &mut Seeded, longest: usize) -> String {
        (0..random.below(longest + 1)).map(|_| random.pick(&VOCABULARY)).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn support_is_the_share_of_what_the_memories_say() {
        let evidence = [memory("My sister Clara moved to Lisbon and works as a nurse.")];
        assert_eq!(support("Your sister Clara moved to Lisbon [1].", &evidence), Some(1.0));
        assert_eq!(support("Clara is a nurse in Lisbon, married, with kids", &evidence), Some(3.0 / 5.0));
        assert_eq!(support("Bananas grow upwards!", &evidence), Some(0.0));
    }

    #[test]
    fn a_speaker_and_a_date_support_too() {
        let when = chrono::DateTime::parse_from_rfc3339("2026-05-02T10:00:00Z").unwrap().to_utc();
        let evidence = [Evidence { speaker: Some("Clara".into()), when: Some(when), ..memory("I moved.") }];
        assert_eq!(support("Clara moved on Saturday, 2 May 2026.", &evidence), Some(1.0));
    }

    #[test]
    fn saying_that_nothing_fits() {
        assert_eq!(support("I have no memory of that.", &[]), Some(1.0));
        assert_eq!(support("I don’t remember.", &[]), Some(1.0));
        assert_eq!(support("Your brother is Tom.", &[]), Some(0.0));
        assert_eq!(support("I have no memory of that, but your brother is Tom.", &[]), Some(0.0));
        assert_eq!(support("I have no memory of that.", &[memory("tea")]), None, "whether it fits, only people know");
        assert_eq!(support("Yes. [1]", &[memory("tea")]), None);
        assert_eq!(support("", &[]), None);
    }

    #[test]
    fn support_is_bounded_and_monotone() {
        let mut random = Seeded::new();
        for _ in 0..2_000 {
            let (answer, first, second) = (sentence(&mut random, 8), sentence(&mut random, 6), sentence(&mut random, 6));
            let few = [memory(&first)];
            let many = [memory(&first), memory(&second)];
            let case = format!("seed {}: {answer:?} from {first:?}, {second:?}", random.seed);
            let (Some(few_score), Some(many_score)) = (support(&answer, &few), support(&answer, &many)) else {
                assert_eq!(support(&answer, &few), support(&answer, &many), "{case}");
                continue;
            };
            assert!((0.0..=1.0).contains(&few_score) && few_score <= many_score, "{case}: {few_score} then {many_score}");
            let invented = support(&format!("{answer}\nunicorn"), &few).unwrap();
            assert!(invented <= few_score, "{case}: an invented word raised {few_score} to {invented}");
            let quoted = support(&format!("{answer}\nzebra"), &[memory(&format!("{first} zebra"))]).unwrap();
            assert!(quoted >= few_score, "{case}: a supported word lowered {few_score} to {quoted}");
        }
    }

    #[test]
    fn verdict_words() {
        for (answer, expected) in [
            ("Supported: row [1] says so.", Some(Finding::Supported)),
            ("**Refuted.** It opened in 2019, not supported", Some(Finding::Refuted)),
            ("unknown", Some(Finding::Unknown)),
            ("The statement is not supported by the rows.", Some(Finding::Unknown)),
            ("It isn’t refuted", Some(Finding::Unknown)),
            ("Neither supported nor refuted", Some(Finding::Unknown)),
            ("True, I think.", None),
            ("", None),
        ] {
            assert_eq!(finding(answer), expected, "{answer}");
        }
    }

    #[test]
    fn agreement_waits_for_rows_to_decide() {
        assert_eq!(agreement("Unknown.", &[], None), Some(1.0));
        assert_eq!(agreement("Supported.", &[], None), Some(0.0));
        assert_eq!(agreement("Perhaps.", &[], None), None);
        assert_eq!(agreement("Supported [1].", &[memory("row")], None), None);
        for (rows, expected) in [(Finding::Supported, 1.0), (Finding::Refuted, 0.0)] {
            assert_eq!(agreement("Supported [1].", &[memory("row")], Some(rows)), Some(expected));
            assert_eq!(agreement("Perhaps.", &[], Some(rows)), None);
        }
    }

    #[test]
    fn a_confidence_costs_least_where_it_is_true() {
        assert_eq!((calibration(1.0, true, 1.0), calibration(1.0, false, 1.0), calibration(0.5, false, 2.0)), (0.0, -1.0, -0.5));
        assert_eq!((calibration(f64::NAN, true, 1.0), calibration(0.0, true, -3.0)), (-1.0, 0.0));
        for truth in [0.1, 0.5, 0.8] {
            let expected = |said: f64| truth * calibration(said, true, 1.0) + (1.0 - truth) * calibration(said, false, 1.0);
            assert!([0.0, 0.3, 0.6, 1.0].iter().all(|said| expected(*said) < expected(truth)));
        }
    }

    #[test]
    fn a_delayed_reward_stays_in_its_range() {
        assert_eq!((delayed(1.0, 0.5, 0.0), delayed(1.0, 0.5, 1.0), delayed(-1.0, 0.5, 1.0)), (1.0, 0.0, -1.0));
        assert_eq!((delayed(0.5, 0.0, 9.0), delayed(1.0, 0.5, f64::NAN)), (0.5, 0.0));
    }

    fn timed(elapsed_ms: f64, deadline_ms: u64, complete: bool) -> Outcome<'static> {
        Outcome { answer: "Noon.", evidence: &[], reading: Reading::default(), elapsed_ms, deadline_ms, complete, rows: None }
    }

    #[test]
    fn timeliness_falls_with_the_share_of_time_taken() {
        assert_eq!(timeliness(&timed(0.0, 1_000, true), 0.5), 1.0);
        assert_eq!(timeliness(&timed(500.0, 1_000, true), 0.5), 0.75);
        assert_eq!(timeliness(&timed(9_000.0, 1_000, true), 0.5), 0.5);
        assert_eq!(timeliness(&timed(10.0, 1_000, false), 0.5), 0.0);
        assert_eq!(timeliness(&Outcome { answer: " …", ..timed(10.0, 1_000, true) }, 0.5), 0.0);
        for elapsed in [0.0, 1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(timeliness(&timed(elapsed, 0, true), 0.25), 0.75);
        }
    }

    #[test]
    fn timeliness_is_bounded_and_monotone() {
        let mut random = Seeded::new();
        for _ in 0..2_000 {
            let (elapsed, more, deadline) = (random.unit() * 3e3 - 500.0, random.unit() * 1e3, random.below(2_000) as u64);
            let (penalty, harder) = (random.unit() * 0.5, random.unit() * 0.5);
            let value = timeliness(&timed(elapsed, deadline, true), penalty);
            let case = format!("seed {}: {elapsed} of {deadline} ms, penalty {penalty}", random.seed);
            assert!((0.0..=1.0).contains(&value), "{case}: {value}");
            assert!(timeliness(&timed(elapsed + more, deadline, true), penalty) <= value, "{case}: {more} ms later is worth more");
            assert!(timeliness(&timed(elapsed, deadline, true), penalty + harder) <= value, "{case}: a harder penalty pays");
            assert!(timeliness(&timed(elapsed, deadline + 100, true), penalty) >= value, "{case}: a longer deadline costs");
        }
    }

    #[test]
    fn brier_pays_the_truth() {
        assert_eq!(brier_reward(1.0, true), 1.0);
        assert_eq!(brier_reward(1.0, false), -1.0);
        assert_eq!(brier_reward(0.5, true), 0.5);
        assert_eq!(brier_reward(7.0, true), 1.0);
        assert_eq!(brier_reward(f64::NAN, true), -1.0);
        let mut random = Seeded::new();
        for _ in 0..2_000 {
            let (truth, told) = (random.unit(), random.unit());
            let expected = |p: f64| truth * brier_reward(p, true) + (1.0 - truth) * brier_reward(p, false);
            let case = format!("seed {}: true {truth}, told {told}", random.seed);
            assert!(expected(truth) >= expected(told) - 1e-12, "{case}: it pays to lie");
            assert!((-1.0..=1.0).contains(&brier_reward(told, true)), "{case}");
            let surer = told + (1.0 - told) * random.unit();
            assert!(
                brier_reward(surer, true) >= brier_reward(told, true) && brier_reward(surer, false) <= brier_reward(told, false),
                "{case}"
            );
        }
    }

    #[test]
    fn choices_and_parts_are_scored_alike() {
        for p in [0.0, 0.2, 0.5, 1.0] {
            assert!((choices_reward(&[p, 1.0 - p], 0) - brier_reward(p, true)).abs() < 1e-12);
            assert!((choices_reward(&[1.0 - p, p], 0) - brier_reward(p, false)).abs() < 1e-12);
        }
        assert_eq!(choices_reward(&[0.0, 1.0, 0.0], 1), 1.0);
        assert_eq!(choices_reward(&[0.0, 1.0, 0.0], 2), -1.0);
        assert_eq!([choices_reward(&[0.5, f64::NAN], 0), choices_reward(&[1.0], 1), choices_reward(&[], 0)], [-1.0; 3]);
        assert_eq!(quadratic_reward(0.7, 0.7), 1.0);
        assert!((quadratic_reward(0.2, 0.7) - 0.5).abs() < 1e-12);
        assert_eq!(quadratic_reward(0.2, f64::NAN), -1.0);
    }

    #[test]
    fn a_rating_is_worth_less_when_the_pair_was_unfair() {
        assert_eq!(rated(1.0, 0.0, 1.0), 1.0);
        assert_eq!(rated(1.0, 0.5, 1.0), 0.5);
        assert_eq!(rated(-0.5, 1.0, 1.0), -1.0);
        assert_eq!((rated(f64::NAN, 0.0, 1.0), rated(1.0, f64::NAN, 1.0)), (-1.0, 0.0));
        let mut random = Seeded::new();
        for _ in 0..1_000 {
            let (rating, penalty, more) = (random.unit() * 2.0 - 1.0, random.unit(), random.unit());
            let value = rated(rating, penalty, 1.0);
            assert!(
                (-1.0..=1.0).contains(&value) && rated(rating, penalty + more, 1.0) <= value,
                "seed {}: {rating} {penalty}",
                random.seed
            );
        }
    }

    #[test]
    fn no_text_makes_a_rule_panic_or_leave_its_range() {
        let mut random = Seeded::new();
        for _ in 0..2_000 {
            let (answer, text) = (random.unicode(60), random.unicode(60));
            for evidence in [&[][..], &[memory(&text)]] {
                for value in [support(&answer, evidence), agreement(&answer, evidence, None)].into_iter().flatten() {
                    assert!((0.0..=1.0).contains(&value), "seed {}: {answer:?} from {text:?}: {value}", random.seed);
                }
            }
        }
    }
}
