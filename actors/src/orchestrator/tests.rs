//! The shipped head over the shipped embedder, on what people ordinarily ask.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta};
use nyx_engine::Device;
use nyx_engine::embed::Embedder;
use nyx_specialists::learn::LearnedFile;
use nyx_specialists::master::{Asked, MasterHead, PROBE, SHIPPED_HEAD, utterances};

use crate::testing::model;

const ORDINARY: &str = include_str!("ordinary.txt");
/// Of all questions, and of each specialist's.
const LEAST_RIGHT: f64 = 0.9;
const LEAST_OF_EACH: f64 = 0.8;

#[test]
fn ordinary_questions_go_where_they_belong() {
    let head = LearnedFile::<MasterHead>::parse(SHIPPED_HEAD).unwrap().parameters;
    let embedder = Embedder::load(&model("all-minilm-l6-v2"), &Device::Cpu).unwrap();
    let asked: Vec<(&str, &str)> = ORDINARY.lines().filter_map(|line| line.split_once('\t')).collect();
    assert!(asked.len() >= 40);
    for (_, question) in &asked {
        assert!(utterances().all(|(_, learned)| learned != *question), "{question} is learned from");
    }
    let texts: Vec<&str> = asked.iter().map(|(_, question)| *question).chain([PROBE]).collect();
    let (vectors, _) = embedder.embed(&texts).unwrap();
    assert!(head.knows_embedder(vectors.last().unwrap()));
    let names = head.names();
    // a Wednesday
    let now = DateTime::UNIX_EPOCH + TimeDelta::days(20_782);
    let mut counts: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    let mut wrong = Vec::new();
    for ((name, question), embedding) in asked.iter().zip(&vectors) {
        let logits = head.logits(names, &vec![0.0; names.len()], &Asked { question, embedding, now, deadline_ms: 60_000 });
        let best = (0..names.len()).max_by(|a, b| logits[*a].total_cmp(&logits[*b])).unwrap();
        let (right, all) = counts.entry(name).or_default();
        *all += 1.0;
        if names[best] == *name {
            *right += 1.0;
        } else {
            wrong.push((*question, &names[best]));
        }
    }
    let right: f64 = counts.values().map(|count| count.0).sum();
    assert!(right / asked.len() as f64 >= LEAST_RIGHT, "{wrong:?}");
    for (name, (right, all)) in counts {
        assert!(right / all >= LEAST_OF_EACH, "{name}: {wrong:?}");
    }
}
