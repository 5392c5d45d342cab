use super::read_probability;
use crate::test_rng::TestRng;

fn check(cases: &[(&str, Option<f64>)]) {
    for (text, expected) in cases {
        let read = read_probability(text);
        let same = match (read, expected) {
            (Some(read), Some(expected)) => (read - expected).abs() < 1e-9,
            (read, expected) => read.is_none() && expected.is_none(),
        };
        assert!(same, "{text:?}: read {read:?}, expected {expected:?}");
    }
}

#[test]
fn the_asked_form_is_read_in_any_language() {
    check(&[
        ("It may rain.\nProbability: 70%", Some(0.7)),
        ("Es regnet oft.\nWahrscheinlichkeit: 12,5 %", Some(0.125)),
        ("Вероятность: **70\u{a0}%**.", Some(0.7)),
        ("可能会下雨。\n概率：７０％", Some(0.7)),
        ("الاحتمال: ٧٠٪", Some(0.7)),
        ("احتمال: \u{200f}۱۲٫۵٪", Some(0.125)),
        ("संभावना: ७०%", Some(0.7)),
        ("Olasılık: %70", Some(0.7)),
        ("ความน่าจะเป็น: ๗๐%", Some(0.7)),
        ("Probability: 0.7", Some(0.7)),
        ("Probabilité : 0,7", Some(0.7)),
        ("Probability: .7", Some(0.7)),
        ("Probability = ~70%", Some(0.7)),
        ("## Probability:\n\n70%", Some(0.7)),
        ("(70%)", Some(0.7)),
        ("Probability that it starts by 10:30: 70%", Some(0.7)),
        ("Probability: 100%", Some(1.0)),
        ("Probability: 0%", Some(0.0)),
        ("Probability: 1.0", Some(1.0)),
    ]);
}

#[test]
fn the_last_line_of_that_form_counts() {
    check(&[
        ("Probability: 20%\nOn second thought:\nProbability: 30%", Some(0.3)),
        ("Probability: 20%\nThat was my forecast for 2027.", Some(0.2)),
        ("Probability: 20%\nProbability: 150%", None),
    ]);
}

#[test]
fn other_numbers_and_words_are_not_parsed_as_probabilities() {
    check(&[
        ("", None),
        ("Brazil will win in 2026.", None),
        ("Inflation rose 3% last year.", None),
        ("There is a 70% chance of rain.", None),
        ("It is very likely.", None),
        ("Year: 2027", None),
        ("Probability: 70", None),
        ("Probability: 1", None),
        ("Probability: NN%", None),
        ("Probability: %", None),
        ("Probability: 60-70%", None),
        ("Probability: 1.000.000", None),
        ("Probability: 12/31/2026", None),
        ("They won 2-1.", None),
        ("Probability: inf%", None),
    ]);
}

#[test]
fn out_of_range_is_none() {
    check(&[
        ("Probability: 150%", None),
        ("Probability: -5%", None),
        ("Probability: \u{2212}5%", None),
        ("Probability: 1.5", None),
        ("Probability: -0.2", None),
        ("Probability: 99999999999999999999999999999999999999%", None),
    ]);
}

#[test]
fn every_written_percentage_is_read_back() {
    let mut random = TestRng::new();
    for _ in 0..2_000 {
        let tenths = random.below(1_001);
        let value = format!("{}{}{}%", tenths / 10, random.pick(&[".", ","]), tenths % 10);
        let text = random
            .pick(&["Probability: {}", "**Probability: {}**", "{}", "Risk ({}).", "p = {}"])
            .replace("{}", &value);
        let read = read_probability(&text);
        let exact = read.is_some_and(|read| (read - tenths as f64 / 1_000.0).abs() < 1e-9);
        assert_eq!(
            exact,
            !text.starts_with("Risk"),
            "seed {}: {text:?} was read as {read:?}",
            random.seed
        );
    }
}

#[test]
fn no_text_makes_it_panic_or_leave_the_range() {
    let mut random = TestRng::new();
    let pieces = [
        ":", "=", "\n", " ", "7", "0", ".", ",", "%", "/", "-", "−", "é", "％", "²", "’", "İ", "٣",
        "٪", "\u{a0}", "*", "2026", "e", "inf",
    ];
    for _ in 0..5_000 {
        let text = match random.below(2) {
            0 => random.unicode(60),
            _ => (0..random.below(14)).map(|_| random.pick(&pieces)).collect(),
        };
        if let Some(read) = read_probability(&text) {
            assert!(
                (0.0..=1.0).contains(&read),
                "seed {}: {text:?} was read as {read}",
                random.seed
            );
        }
    }
}
