//! Automatic reward rules: each returns a trait activation in [0, 1], or `None` where it cannot be
//! determined.

use std::collections::BTreeSet;

use nyx_domain::Evidence;

use crate::tokens::tokens;
use crate::{cited, without_citations};

/// The inputs of a reward.
#[derive(Debug, Clone, Copy)]
pub struct Outcome<'a> {
    /// The first answer's text.
    pub answer: &'a str,
    /// The evidence in the prompt.
    pub evidence: &'a [Evidence],
    /// Milliseconds since the request.
    pub elapsed_ms: f64,
    /// Milliseconds from the request to its deadline.
    pub deadline_ms: u64,
    /// Whether the answer ended by itself (not cut by length or deadline).
    pub complete: bool,
}

/// A reward that follows from the answer alone.
#[derive(Debug, Clone, PartialEq)]
pub struct AutomaticReward {
    /// Trait activation in [0, 1].
    pub activation: f64,
    /// Reward in [-1, 1].
    pub reward: f64,
    /// Name of the rule.
    pub rule: String,
}

/// The reward by the support of what an answer cites; see [`support`].
pub(crate) fn support_reward(outcome: &Outcome<'_>) -> Option<AutomaticReward> {
    let activation = support(outcome.answer, outcome.evidence)?;
    Some(AutomaticReward { activation, reward: reward_of(activation), rule: "support".into() })
}

/// An activation in [0, 1] as a reward in [-1, 1]: `2a − 1`.
pub fn reward_of(activation: f64) -> f64 {
    2.0 * activation.clamp(0.0, 1.0) - 1.0
}

/// The reward of a forecast once the outcome is known: `1 − 2(p − o)²`, the Brier score (Brier
/// 1950) negated and scaled so that more is better. Strictly proper: the true probability has the
/// highest expected reward. A forecast of 0.5 earns 0.5.
///
/// `probability` is clamped to [0, 1]; NaN earns −1.
pub fn brier_reward(probability: f64, happened: bool) -> f64 {
    quadratic_reward(probability, if happened { 1.0 } else { 0.0 })
}

/// [`brier_reward`] for a partial outcome in [0, 1], such as a question that was resolved to 70 %.
pub fn quadratic_reward(probability: f64, outcome: f64) -> f64 {
    if probability.is_nan() || outcome.is_nan() {
        return -1.0;
    }
    let error = probability.clamp(0.0, 1.0) - outcome.clamp(0.0, 1.0);
    reward_of(1.0 - error * error)
}

/// The reward of probabilities over several choices once the outcome is known: `1 − Σ(pᵢ − oᵢ)²`,
/// Brier's score for several categories (Brier 1950); with two it is [`brier_reward`]. NaN, and an
/// outcome that is not one of the choices, earn −1.
pub fn choices_reward(probabilities: &[f64], came_true: usize) -> f64 {
    if came_true >= probabilities.len() || probabilities.iter().any(|p| p.is_nan()) {
        return -1.0;
    }
    let errors = probabilities
        .iter()
        .enumerate()
        .map(|(index, p)| (p.clamp(0.0, 1.0) - if index == came_true { 1.0 } else { 0.0 }).powi(2));
    (1.0 - errors.sum::<f64>()).max(-1.0)
}

/// The calibration term added to a reward of known correctness: `−weight (confidence − correct)²`,
/// in [−weight, 0]. Strictly proper: the true probability of being correct has the lowest expected
/// cost. A negative `weight` counts as 0; a NaN confidence as the worst.
pub fn calibration(confidence: f64, correct: bool, weight: f64) -> f64 {
    let correct = if correct { 1.0 } else { 0.0 };
    let error = if confidence.is_nan() { 1.0 } else { confidence.clamp(0.0, 1.0) - correct };
    -weight.max(0.0) * error * error
}

/// Kairos: a reward in [-1, 1] after the time penalty. Its excess over the minimum is reduced by
/// `penalty` (in [0, 1]) times the fraction of its time that the answer took.
pub fn delayed(reward: f64, penalty: f64, taken: f64) -> f64 {
    let taken = if taken.is_nan() { 1.0 } else { taken.clamp(0.0, 1.0) };
    reward_of((reward + 1.0) / 2.0 * (1.0 - penalty.clamp(0.0, 1.0) * taken))
}

/// Mnemosyne and Aletheia: the fraction of an answer's words found in the evidence that it cites
/// (text, context, speaker, date), in any order.
///
/// Words are the search [`tokens`], in any language, each counted once. Tokens of one character are
/// ignored: in most scripts they carry no meaning, and in scripts without spaces they recur in
/// longer tokens. There is no stop-word list, so an honest answer in its own words does not reach
/// 1; only answers of one specialist are compared, which all lose alike.
///
/// `None` without a citation: an answer that cites nothing claims no support. Whether there was
/// something to cite is left to user feedback.
pub fn support(answer: &str, evidence: &[Evidence]) -> Option<f64> {
    let ids = cited(answer, evidence);
    let said = word_types(&without_citations(answer));
    if ids.is_empty() || said.is_empty() {
        return None;
    }
    let mut known = BTreeSet::new();
    for item in evidence.iter().filter(|item| ids.contains(&item.id)) {
        let date = item.when.map(|when| when.format("%Y-%m-%d").to_string());
        let texts = [&item.text].into_iter().chain(&item.context).chain(&item.speaker).chain(&date);
        texts.for_each(|text| known.extend(word_types(text)));
    }
    Some(said.intersection(&known).count() as f64 / said.len() as f64)
}

/// The distinct tokens of more than one character.
fn word_types(text: &str) -> BTreeSet<String> {
    tokens(text).into_iter().filter(|token| token.chars().nth(1).is_some()).collect()
}

/// Kairos: the activation of an answer after the time penalty. A complete answer starts at 1 and
/// loses `penalty` (in [0, 1]) times the fraction of its time that it took; a truncated or empty
/// one gets 0.
pub fn timeliness(outcome: &Outcome<'_>, penalty: f64) -> f64 {
    if !outcome.complete || !outcome.answer.contains(char::is_alphanumeric) {
        return 0.0;
    }
    // A deadline of 0 gives infinity or, with no time taken, NaN: both mean that the time is used
    // up.
    let taken = outcome.elapsed_ms / outcome.deadline_ms as f64;
    let taken = if taken.is_nan() { 1.0 } else { taken.clamp(0.0, 1.0) };
    (1.0 - penalty * taken).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_rng::TestRng;

    const VOCABULARY: [&str; 12] = [
        "sister",
        "Lisbon",
        "moved",
        "nurse",
        "tea",
        "dogs",
        "the",
        "in",
        "2026",
        "東京",
        "сестра",
        "garden,",
    ];

    fn memory(text: &str) -> Evidence {
        Evidence {
            id: "1".into(),
            text: text.into(),
            score: 0.7,
            source: "memory".into(),
            speaker: None,
            when: None,
            context: vec![],
        }
    }

    fn sentence(random: &mut TestRng, longest: usize) -> String {
        (0..random.below(longest + 1))
            .map(|_| random.pick(&VOCABULARY))
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn support_is_the_share_of_what_the_cited_memories_say() {
        let evidence = [memory("My sister Clara moved to Lisbon and works as a nurse.")];
        assert_eq!(support("Sister Clara moved to Lisbon [1].", &evidence), Some(1.0));
        assert_eq!(support("Clara, nurse, married, kids [1]", &evidence), Some(2.0 / 4.0));
        assert_eq!(support("Bananas grow upwards [1]!", &evidence), Some(0.0));
        let two = [memory("Tea."), Evidence { id: "2".into(), ..memory("Clara moved.") }];
        assert_eq!(
            (support("Clara moved [2]", &two), support("Clara moved [1]", &two)),
            (Some(1.0), Some(0.0)),
            "held to what it cites"
        );
        for (text, answer) in [
            ("Моя сестра переехала в Лиссабон.", "Сестра переехала [1]"),
            ("我住在北京。", "住在北京 [1]"),
            ("Élodie est née à Zürich.", "elodie, ZURICH [1]"),
            ("나는 서울에 산다", "서울에 [1]"),
        ] {
            assert_eq!(support(answer, &[memory(text)]), Some(1.0), "{answer}");
        }
    }

    #[test]
    fn a_speaker_and_a_date_support_too() {
        let when = chrono::DateTime::parse_from_rfc3339("2026-05-02T10:00:00Z").unwrap().to_utc();
        let evidence =
            [Evidence { speaker: Some("Clara".into()), when: Some(when), ..memory("I moved.") }];
        assert_eq!(support("Clara moved: 2026-05-02 [1]", &evidence), Some(1.0));
    }

    #[test]
    fn answers_without_citations_or_text_get_no_reward() {
        for answer in ["I have no memory of that.", "Tea.", "Tea [2].", "[1]", "[1] A.", ""] {
            assert_eq!(support(answer, &[memory("tea")]), None, "{answer}");
        }
        assert_eq!(support("Your brother is Tom [1].", &[]), None);
    }

    #[test]
    fn support_is_bounded_and_monotone() {
        let mut random = TestRng::new();
        for _ in 0..2_000 {
            let (answer, text) = (sentence(&mut random, 8), sentence(&mut random, 6));
            let case = format!("seed {}: {answer:?} from {text:?}", random.seed);
            let Some(score) = support(&format!("{answer} [1]"), &[memory(&text)]) else {
                assert_eq!(answer, "", "{case}");
                continue;
            };
            assert!((0.0..=1.0).contains(&score), "{case}: {score}");
            let invented = support(&format!("{answer} unicorn [1]"), &[memory(&text)]).unwrap();
            assert!(invented <= score, "{case}: an invented word raised {score} to {invented}");
            let quoted =
                support(&format!("{answer} zebra [1]"), &[memory(&format!("{text} zebra"))])
                    .unwrap();
            assert!(quoted >= score, "{case}: a supported word lowered {score} to {quoted}");
        }
    }

    #[test]
    fn a_confidence_costs_least_where_it_is_true() {
        assert_eq!(
            (
                calibration(1.0, true, 1.0),
                calibration(1.0, false, 1.0),
                calibration(0.5, false, 2.0)
            ),
            (0.0, -1.0, -0.5)
        );
        assert_eq!((calibration(f64::NAN, true, 1.0), calibration(0.0, true, -3.0)), (-1.0, 0.0));
        for truth in [0.1, 0.5, 0.8] {
            let expected = |said: f64| {
                truth * calibration(said, true, 1.0) + (1.0 - truth) * calibration(said, false, 1.0)
            };
            assert!([0.0, 0.3, 0.6, 1.0].iter().all(|said| expected(*said) < expected(truth)));
        }
    }

    #[test]
    fn a_delayed_reward_stays_in_its_range() {
        assert_eq!(
            (delayed(1.0, 0.5, 0.0), delayed(1.0, 0.5, 1.0), delayed(-1.0, 0.5, 1.0)),
            (1.0, 0.0, -1.0)
        );
        assert_eq!((delayed(0.5, 0.0, 9.0), delayed(1.0, 0.5, f64::NAN)), (0.5, 0.0));
    }

    fn timed(elapsed_ms: f64, deadline_ms: u64, complete: bool) -> Outcome<'static> {
        Outcome { answer: "Noon.", evidence: &[], elapsed_ms, deadline_ms, complete }
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
        let mut random = TestRng::new();
        for _ in 0..2_000 {
            let (elapsed, more, deadline) =
                (random.unit() * 3e3 - 500.0, random.unit() * 1e3, random.below(2_000) as u64);
            let (penalty, harder) = (random.unit() * 0.5, random.unit() * 0.5);
            let value = timeliness(&timed(elapsed, deadline, true), penalty);
            let case =
                format!("seed {}: {elapsed} of {deadline} ms, penalty {penalty}", random.seed);
            assert!((0.0..=1.0).contains(&value), "{case}: {value}");
            assert!(
                timeliness(&timed(elapsed + more, deadline, true), penalty) <= value,
                "{case}: {more} ms later is worth more"
            );
            assert!(
                timeliness(&timed(elapsed, deadline, true), penalty + harder) <= value,
                "{case}: a harder penalty pays"
            );
            assert!(
                timeliness(&timed(elapsed, deadline + 100, true), penalty) >= value,
                "{case}: a longer deadline costs"
            );
        }
    }

    #[test]
    fn brier_pays_the_truth() {
        assert_eq!(brier_reward(1.0, true), 1.0);
        assert_eq!(brier_reward(1.0, false), -1.0);
        assert_eq!(brier_reward(0.5, true), 0.5);
        assert_eq!(brier_reward(7.0, true), 1.0);
        assert_eq!(brier_reward(f64::NAN, true), -1.0);
        let mut random = TestRng::new();
        for _ in 0..2_000 {
            let (truth, stated) = (random.unit(), random.unit());
            let expected =
                |p: f64| truth * brier_reward(p, true) + (1.0 - truth) * brier_reward(p, false);
            let case = format!("seed {}: true {truth}, stated {stated}", random.seed);
            assert!(expected(truth) >= expected(stated) - 1e-12, "{case}: it pays to lie");
            assert!((-1.0..=1.0).contains(&brier_reward(stated, true)), "{case}");
            let surer = stated + (1.0 - stated) * random.unit();
            assert!(
                brier_reward(surer, true) >= brier_reward(stated, true)
                    && brier_reward(surer, false) <= brier_reward(stated, false),
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
        assert_eq!(
            [
                choices_reward(&[0.5, f64::NAN], 0),
                choices_reward(&[1.0], 1),
                choices_reward(&[], 0)
            ],
            [-1.0; 3]
        );
        assert_eq!(quadratic_reward(0.7, 0.7), 1.0);
        assert!((quadratic_reward(0.2, 0.7) - 0.5).abs() < 1e-12);
        assert_eq!(quadratic_reward(0.2, f64::NAN), -1.0);
    }

    #[test]
    fn no_text_makes_a_rule_panic_or_leave_its_range() {
        let mut random = TestRng::new();
        for _ in 0..2_000 {
            let (answer, text) = (random.unicode(60) + " [1]", random.unicode(60));
            for evidence in [&[][..], &[memory(&text)]] {
                let value = support(&answer, evidence).unwrap_or_default();
                assert!(
                    (0.0..=1.0).contains(&value),
                    "seed {}: {answer:?} from {text:?}: {value}",
                    random.seed
                );
            }
        }
    }
}
