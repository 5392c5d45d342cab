use super::read_probability;
use crate::seeded::Seeded;

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
fn the_asked_form_and_its_neighbours() {
    check(&[
        ("It may rain.\nProbability: 70%", Some(0.7)),
        ("probability: 70", Some(0.7)),
        ("Probability: 0.7", Some(0.7)),
        ("Probability: .7", Some(0.7)),
        ("Probability: 0,7", Some(0.7)),
        ("Probability: 70 percent.", Some(0.7)),
        ("Probability: 7 in 10", Some(0.7)),
        ("Probability: 7 out of 10", Some(0.7)),
        ("Probability: 7/10", Some(0.7)),
        ("Probability: 60/40", Some(0.6)),
        ("Probability: 1 in 1,000", Some(0.001)),
        ("**Probability:** 12.5 %", Some(0.125)),
        ("Probability: **about 70%**", Some(0.7)),
        ("Probability = ~70%", Some(0.7)),
        ("Probability of rain: I'd say 70%", Some(0.7)),
        ("Probability: high (70%)", Some(0.7)),
        ("## Probability:\n\n70%", Some(0.7)),
        ("Probability: 0", Some(0.0)),
        ("Probability: 1", Some(1.0)),
        ("Probability: 100%", Some(1.0)),
        ("Probability: 1%", Some(0.01)),
        ("Probability: <1%", Some(0.01)),
        ("Likelihood: 35%", Some(0.35)),
    ]);
}

#[test]
fn ranges_and_bounds() {
    check(&[
        ("Probability: between 60 and 70%", Some(0.65)),
        ("Probability: 60-70%", Some(0.65)),
        ("Probability: 60% – 70%", Some(0.65)),
        ("Probability: from 60 to 70 percent", Some(0.65)),
        ("Probability: 0.6 to 0.7", Some(0.65)),
        ("Probability: 60-70", Some(0.65)),
        ("The chance is between 60% and 70%.", Some(0.65)),
        ("Probability: over 90%", Some(0.9)),
        ("Probability: less than 10%", Some(0.1)),
    ]);
}

#[test]
fn in_running_text() {
    check(&[
        ("There is a 70% chance of rain.", Some(0.7)),
        ("I think it is 70 percent likely.", Some(0.7)),
        ("There is a 70% chance of 5% growth.", Some(0.7)),
        ("The probability is about 0.7, I think.", Some(0.7)),
        ("I put the probability at 30%.", Some(0.3)),
        ("The probability of rain in 2027 is 70%.", Some(0.7)),
        ("A chance of 7 in 10.", Some(0.7)),
        ("At first a 20% chance. After the news a 40% chance.", Some(0.4)),
        ("It is likely.\nAbout 70%.", Some(0.7)),
        ("70%", Some(0.7)),
        ("0.25", Some(0.25)),
    ]);
}

#[test]
fn the_label_counts_more_than_the_text_and_the_last_more_than_the_first() {
    check(&[
        ("In 2019 there was a 90% chance.\nProbability: 20%\nThat was my forecast for 2027.", Some(0.2)),
        ("Probability: 20%\nOn second thought:\nProbability: 30%", Some(0.3)),
        ("The probability is 60%.\nProbability: NN%", Some(0.6)),
        ("Probability of 3% inflation by 2027: 70%", Some(0.7)),
        ("Probability that it starts by 10:30: 70%", Some(0.7)),
    ]);
}

#[test]
fn other_numbers_do_not_count() {
    check(&[
        ("", None),
        ("Brazil will win in 2026.", None),
        ("Inflation rose 3% last year.", None),
        ("The probability is hard to tell. Prices rose 3% in 2025.", None),
        ("A chance of 5% growth.", None),
        ("It happened in 1 of 3 years, on 12/31.", None),
        ("There were 5 in 2027.", None),
        ("They won 2-1.", None),
        ("It costs $0.5 million.", None),
        ("Probability: 12/31/2026", None),
        ("Probability: 3 days", None),
        ("Probability: NN%", None),
        ("Probability: high", None),
        ("Probability: 2027", None),
        ("Probably 7", None),
        ("The improbability: 70", None),
    ]);
}

#[test]
fn out_of_range_is_none() {
    check(&[
        ("Probability: 150%", None),
        ("Probability: -5%", None),
        ("Probability: 1.5", None),
        ("Probability: -0.2", None),
        ("Probability: 11 in 10", None),
        ("There is a 110% chance.", None),
        ("Probability: 99999999999999999999999999999999999999%", None),
    ]);
}

#[test]
fn every_written_percentage_is_read_back() {
    let mut random = Seeded::new();
    let frames =
        ["Probability: {}", "**Probability: {}**", "So there is a {} chance.", "In 2026 the probability is about {}.", "Roughly {}"];
    for _ in 0..2_000 {
        let tenths = random.below(1_001);
        let value = format!("{}.{}%", tenths / 10, tenths % 10);
        let text = random.pick(&frames).replace("{}", &value);
        let read = read_probability(&text);
        let exact = read.is_some_and(|read| (read - tenths as f64 / 1_000.0).abs() < 1e-9);
        assert!(exact, "seed {}: {text:?} was read as {read:?}", random.seed);
    }
}

#[test]
fn no_text_makes_it_panic_or_leave_the_range() {
    let mut random = Seeded::new();
    let pieces = [
        "probability",
        "chance",
        ":",
        "=",
        "\n",
        " ",
        "7",
        "0",
        ".",
        ",",
        "%",
        "/",
        "-",
        "−",
        "–",
        " in ",
        " to ",
        "between ",
        "and ",
        "é",
        "％",
        "²",
        "’",
        "is",
        "of",
        "İ",
        "٣",
        "\u{a0}",
        "*",
        "2026",
    ];
    for _ in 0..5_000 {
        let text = match random.below(2) {
            0 => random.unicode(60),
            _ => (0..random.below(14)).map(|_| random.pick(&pieces)).collect(),
        };
        if let Some(read) = read_probability(&text) {
            assert!((0.0..=1.0).contains(&read), "seed {}: {text:?} was read as {read}", random.seed);
        }
    }
}
