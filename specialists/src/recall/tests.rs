use super::features::{names, rows};
use super::*;
use crate::learn::{LearnedFile, LearnedPart, TrainedOn};
use crate::seeded::Seeded;

/// A conversation of two, one turn a line; who speaks takes turns.
fn conversation(texts: &[&str]) -> Vec<Turn> {
    let count = texts.len();
    let turn = |(at, text): (usize, &&str)| Turn {
        text: (*text).to_owned(),
        speaker: Some(["Ada", "Ben"][at % 2].to_owned()),
        when: chrono::DateTime::from_timestamp(1_700_000_000, 0),
        conversation: Some("c".into()),
        previous: at.checked_sub(1),
        next: (at + 1 < count).then_some(at + 1),
        ..Turn::default()
    };
    texts.iter().enumerate().map(turn).collect()
}

fn value(row: &[(&'static str, f64)], name: &str) -> f64 {
    row.iter().find(|(other, _)| *other == name).unwrap_or_else(|| panic!("no feature {name}")).1
}

#[test]
fn features_say_how_a_turn_fits() {
    let turns =
        conversation(&["Which colour did you paint the kitchen?", "Yellow, of course.", "I painted my bicycle red last week.", "Nice!"]);
    let rows = rows("When did Ada paint her bicycle?", &turns);
    let names: Vec<_> = names();
    assert!(rows.iter().all(|row| row.iter().map(|(name, _)| *name).eq(names.iter().copied())), "the same features for all");
    assert_eq!((value(&rows[2], "covered"), value(&rows[3], "covered")), (1.0, 0.0));
    assert_eq!((value(&rows[2], "whole_rank"), value(&rows[2], "whole_relative")), (0.0, 1.0));
    assert_eq!((value(&rows[2], "speaker_named"), value(&rows[3], "speaker_not_named")), (1.0, 1.0));
    assert_eq!((value(&rows[0], "only_asks"), value(&rows[1], "answers"), value(&rows[2], "answers")), (1.0, 1.0, 0.0));
    assert!(value(&rows[1], "answers_covered") > 0.0 && value(&rows[3], "covered_before") == 1.0);
    assert_eq!((value(&rows[2], "when_time"), value(&rows[1], "when_time"), value(&rows[2], "pairs")), (1.0, 0.0, 1.0));
    assert_eq!((value(&rows[0], "opens_session"), value(&rows[1], "opens_session")), (1.0, 0.0));
}

#[test]
fn features_are_finite_whatever_is_asked_of_whatever_turns() {
    let mut random = Seeded::new();
    for _ in 0..300 {
        let count = 1 + random.below(6);
        let turns: Vec<Turn> = (0..count)
            .map(|_| Turn {
                text: random.unicode(30),
                speaker: (random.below(2) == 0).then(|| random.unicode(4)),
                caption: (random.below(3) == 0).then(|| random.unicode(8)),
                when: chrono::DateTime::from_timestamp(random.below(1 << 20) as i64, 0).filter(|_| random.below(3) > 0),
                conversation: (random.below(2) == 0).then(|| "c".to_owned()),
                cosine: 2.0 * random.unit() - 1.0,
                previous: (random.below(2) == 0).then(|| random.below(8)),
                next: (random.below(2) == 0).then(|| random.below(8)),
            })
            .collect();
        let question = random.unicode(30);
        for row in rows(&question, &turns) {
            assert!(row.iter().all(|(_, value)| value.is_finite()), "seed {}: {question:?} {turns:?}", random.seed);
        }
    }
}

/// Questions about what somebody bought: the buyer's turn with the thing answers.
fn examples(random: &mut Seeded) -> Vec<RecallExample> {
    let things = ["lamp", "piano", "kettle", "canoe", "ladder", "violin", "carpet", "telescope"];
    let one = |at: usize, random: &mut Seeded| {
        let thing = things[at % things.len()];
        let (other, who) = (things[(at + 3) % things.len()], at % 2);
        let bought = format!("I bought a {thing} yesterday.");
        let talk = format!("What about the {thing}?");
        let others = format!("We sold the {other} and it was fun.");
        let mut texts = vec![others.as_str(), talk.as_str(), "How are you?", "Fine, it rained all day."];
        let place = random.below(texts.len());
        texts.insert(place, &bought);
        let mut turns = conversation(&texts);
        turns[place].speaker = Some(["Ada", "Ben"][who].into());
        let evidence = (0..turns.len()).map(|at| at == place).collect();
        RecallExample { question: format!("When did {} buy a {thing}?", ["Ada", "Ben"][who]), turns, evidence }
    };
    (0..48).map(|at| one(at, random)).collect()
}

#[test]
fn what_answers_is_learned() {
    let mut random = Seeded::new();
    let (learned, unseen) = (examples(&mut random), examples(&mut random));
    let ranker = RecallRanker::fit(&learned).unwrap();
    assert_eq!(RecallRanker::fit(&learned), Some(ranker.clone()), "the same examples give the same parameters");
    for example in &unseen {
        let probabilities = ranker.probabilities(&example.question, &example.turns);
        let best = (0..probabilities.len()).max_by(|a, b| probabilities[*a].total_cmp(&probabilities[*b])).unwrap();
        assert!(example.evidence[best] && probabilities[best] > 0.5, "seed {}: {example:?} {probabilities:?}", random.seed);
    }
    let file = LearnedFile::new(TrainedOn::of([("question", "one")]), None, ranker.clone());
    assert_eq!(LearnedFile::<RecallRanker>::parse(&file.write().unwrap()).unwrap().parameters, ranker);
}

#[test]
fn what_is_shipped_fits() {
    let file = LearnedFile::<RecallRanker>::parse(SHIPPED).unwrap();
    let turns = conversation(&["I adopted a kitten called Pepper yesterday.", "How sweet!", "It rained all day.", "We had soup."]);
    let probabilities = file.parameters.probabilities("When did Ada adopt her kitten?", &turns);
    assert!(probabilities[1..].iter().all(|other| *other < probabilities[0]), "{probabilities:?}");
}

#[test]
fn nothing_is_learned_from_nothing() {
    let mut random = Seeded::new();
    let mut examples = examples(&mut random);
    examples.iter_mut().for_each(|example| example.evidence.fill(false));
    assert_eq!(RecallRanker::fit(&examples), None);
    assert_eq!(RecallRanker::fit(&[]), None);
}

#[test]
fn parameters_for_other_features_are_refused() {
    let ranker = RecallRanker::fit(&examples(&mut Seeded::new())).unwrap();
    let mut value = serde_json::to_value(&ranker).unwrap();
    value["features"][3] = "moon".into();
    let error = serde_json::from_value::<RecallRanker>(value).unwrap().check().unwrap_err();
    assert!(error.contains("features[3] is \"moon\"") && error.contains("nyx train recall"), "{error}");
    let mut value = serde_json::to_value(&ranker).unwrap();
    value["weights"].as_array_mut().unwrap().pop();
    assert!(serde_json::from_value::<RecallRanker>(value).unwrap().check().unwrap_err().starts_with("weights has"));
}
