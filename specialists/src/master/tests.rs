use chrono::DateTime;

use super::*;
use crate::learn::{LearnedFile, TrainedOn};
use crate::seeded::Seeded;

/// Three specialists whose questions differ in a word, with embeddings that say nothing.
fn examples() -> Vec<RoutingExample> {
    let mut random = Seeded::new();
    let words = [("kairos", "week"), ("moira", "rain"), ("eleos", "sad")];
    (0..120)
        .map(|index| {
            let (name, word) = words[index % 3];
            let question = format!("what of the {word} number {}", (b'a' + (index % 20) as u8) as char);
            let embedding = (0..4).map(|_| (random.unit() - 0.5) as f32).collect();
            RoutingExample {
                question,
                specialist: name.into(),
                embedding,
                now: DateTime::UNIX_EPOCH,
                deadline_ms: 1_000,
                group: (index / 6).to_string(),
                utterance: false,
            }
        })
        .collect()
}

/// Learned once for all tests.
fn learned() -> &'static (MasterHead, HeadReport) {
    static LEARNED: std::sync::OnceLock<(MasterHead, HeadReport)> = std::sync::OnceLock::new();
    LEARNED.get_or_init(|| fit(&examples(), &[0.5, 0.5, 0.5, 0.5], 0.5).unwrap())
}

fn head() -> MasterHead {
    learned().0.clone()
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

fn asked<'a>(question: &'a str, embedding: &'a [f32]) -> Asked<'a> {
    Asked { question, embedding, now: DateTime::UNIX_EPOCH, deadline_ms: 1_000 }
}

fn shares(logits: &[f64], temperature: f64) -> Vec<f64> {
    let scaled: Vec<f64> = logits.iter().map(|logit| logit / temperature).collect();
    let whole = log_sum_exp(&scaled);
    scaled.iter().map(|logit| (logit - whole).exp()).collect()
}

#[test]
fn learns_what_tells_them_apart_and_reports_it() {
    let (head, report) = learned();
    assert!(report.accuracy > 0.99 && report.recalls.len() == 3 && report.log_loss < 0.1, "{report:?}");
    let order = names(&["moira", "eleos", "kairos"]);
    let logits = head.logits(&order, &[0.0; 3], &asked("what of the rain", &[0.0; 4]));
    assert!(shares(&logits, 0.5)[0] > 0.8, "{logits:?}");
    let error = fit(&examples()[..1], &[0.5; 4], 0.5).unwrap_err();
    assert!(error.contains("1 specialists"), "{error}");
    assert!(fit(&examples(), &[0.5; 3], 0.5).unwrap_err().contains("the probe's 3"));
}

#[test]
fn one_it_does_not_know_keeps_its_score_and_the_share_the_scores_give_it() {
    let head = head();
    let order = names(&["moira", "zeus", "eleos", "kairos"]);
    for scores in [[0.1, 0.2, -0.3, 0.0], [0.0, 3.0, 0.0, 0.0], [2.0, -1.0, 0.5, 0.4]] {
        let logits = head.logits(&order, &scores, &asked("what of the rain", &[0.1; 4]));
        assert_eq!(logits[1], scores[1]);
        let (with, without) = (shares(&logits, 0.5), shares(&scores, 0.5));
        assert!((with[1] - without[1]).abs() < 1e-9, "{with:?} {without:?}");
        // among those it knows, the head decides alone
        let known = names(&["moira", "eleos", "kairos"]);
        let alone = shares(&head.logits(&known, &[0.0; 3], &asked("what of the rain", &[0.1; 4])), 0.5);
        let rest = 1.0 - with[1];
        for (share, index) in alone.iter().zip([0, 2, 3]) {
            assert!((share - with[index] / rest).abs() < 1e-9);
        }
    }
    // nobody known at all: identity
    let strangers = names(&["zeus", "hera"]);
    assert_eq!(head.logits(&strangers, &[0.3, 0.1], &asked("what of the rain", &[0.1; 4])), [0.3, 0.1]);
}

#[test]
fn a_head_reads_back_as_it_was_written() {
    let file = LearnedFile::new(TrainedOn::of([("kairos", "one")]), None, head());
    let text = file.write().unwrap();
    let back = LearnedFile::<MasterHead>::parse(&text).unwrap();
    assert_eq!(back, file);
    let ask = |head: &MasterHead| head.logits(head.names(), &[0.0; 3], &asked("is it sad this week", &[0.2; 4]));
    assert_eq!(ask(&back.parameters), ask(&file.parameters));
    for (from, to, told) in [
        ("\"buckets\": 4096", "\"buckets\": 4095", "parameters.buckets is 4095"),
        ("\"dimension\": 4,", "\"dimension\": 18446744073709551615,", "parameters.buckets"),
        ("\"temperature\": ", "\"temperature\": -", "parameters.temperature is -"),
        ("\"unit\": 0.5", "\"unit\": 0", "parameters.unit is 0"),
        ("\"kairos\",", "", "the 2 names"),
        ("\"score_gain\": 0.0", "\"score_gain\": 1e999", "score_gain"),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{from} is not there");
        let error = LearnedFile::<MasterHead>::parse(&changed).unwrap_err();
        assert!(error.contains(told), "{error}");
    }
}

#[test]
fn another_embedder_is_told() {
    let head = head();
    assert!(head.knows_embedder(&[0.5, 0.5, 0.5, 0.5]) && head.knows_embedder(&[0.501, 0.499, 0.5, 0.5]));
    assert!(!head.knows_embedder(&[0.5, -0.5, 0.5, 0.5]) && !head.knows_embedder(&[0.5; 3]) && !head.knows_embedder(&[]));
}

#[test]
fn the_shipped_head_knows_the_shipped_specialists_and_is_small() {
    let file = LearnedFile::<MasterHead>::parse(SHIPPED_HEAD).unwrap();
    let mut known = file.parameters.names().to_vec();
    known.sort();
    assert_eq!(known, ["aletheia", "eleos", "kairos", "mnemosyne", "moira"]);
    assert!(SHIPPED_HEAD.len() < 300_000, "{}", SHIPPED_HEAD.len());
}
