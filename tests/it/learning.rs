//! The whole feedback loop over HTTP: feedback trains an adapter, the gate promotes it, its damaged
//! file is detected, and it is retrained.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::program::{Program, Serving};

const THINGS: [&str; 34] = [
    "tram",
    "lift",
    "crane",
    "ferry",
    "train",
    "tractor",
    "pump",
    "mill",
    "press",
    "oven",
    "fan",
    "drill",
    "loom",
    "barge",
    "hoist",
    "grinder",
    "mixer",
    "sledge",
    "cart",
    "engine",
    "winch",
    "saw",
    "plough",
    "harvester",
    "scooter",
    "lorry",
    "wagon",
    "dredger",
    "roller",
    "kiln",
    "bus",
    "boat",
    "truck",
    "bike",
];

/// A question about a thing, and its correct answer: the lamp determines it, against the base
/// model's preference.
fn asked(thing: &str, lit: bool) -> (Value, &'static str) {
    let (colour, right) = if lit { ("amber", "halt") } else { ("violet", "move") };
    let question = json!({
        "prompt": format!("What does the {thing} have to do now?"), "context": format!("The lamp beside the {thing} shines {colour}."),
        "specialist": "eleos", "choices": ["move", "halt"], "seed": 1,
    });
    (question, right)
}

fn answer(serving: &Serving, thing: &str, lit: bool) -> (Value, bool) {
    let (question, right) = asked(thing, lit);
    let (status, answered) = serving.post("/infer", &question);
    assert_eq!(status, 200, "{answered}");
    let is_right = answered["answer"] == right;
    (answered, is_right)
}

/// Number of correct answers about the things that never get feedback.
fn right(serving: &Serving) -> usize {
    THINGS[24..]
        .iter()
        .flat_map(|thing| [true, false].map(|lit| (thing, lit)))
        .filter(|(thing, lit)| answer(serving, thing, *lit).1)
        .count()
}

/// Waits until this many runs have ended.
fn ended(serving: &Serving, count: usize) -> Vec<Value> {
    let deadline = Instant::now() + Duration::from_secs(300);
    loop {
        let (_, runs) = serving.get("/admin/training?specialist=eleos");
        let done: Vec<Value> = runs["data"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|run| !run["ended_at"].is_null())
            .cloned()
            .collect();
        if done.len() >= count {
            return done;
        }
        assert!(Instant::now() < deadline, "{runs}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn ratings_train_an_adapter_and_a_damaged_one_is_trained_again() {
    let program = Program::new()
        .with("NYX__TRAINING__EPOCHS", "4")
        .with("NYX__TRAINING__BATCH", "4")
        .with("NYX__TRAINING__ANCHOR_TOKENS", "0")
        .with("NYX__TRAINING__RANK", "8")
        .with("NYX__TRAINING__LEARNING_RATE", "0.001")
        .with("NYX__TRAINING__CANARY_SHARE", "0")
        // an adapter trained for a minute may raise the perplexity on plain text
        .with("NYX__TRAINING__PERPLEXITY_MARGIN", "0.5")
        .with("NYX__ADAPTERS__CHECK_EVERY_S", "1");
    let serving = program.serve();
    let before = right(&serving);
    for thing in &THINGS[..24] {
        for lit in [true, false] {
            let (answered, is_right) = answer(&serving, thing, lit);
            let reply = json!({"decision_id": answered["decision_id"], "thumbs": if is_right { "up" } else { "down" }});
            assert_eq!(serving.post("/v1/feedback", &reply).0, 200);
        }
    }
    let (status, begun) = serving.post("/admin/training", &json!({"specialist": "eleos"}));
    assert_eq!(status, 202, "{begun}");
    let run = ended(&serving, 1).remove(0);
    assert_eq!(run["id"], begun["run"]);
    assert_eq!(
        (&run["status"], &run["objective"]),
        (&json!("promoted"), &json!("choice")),
        "{run:#}"
    );
    let (answered, _) = answer(&serving, "tram", true);
    assert_eq!(
        (&answered["adapter"]["id"], &answered["adapter"]["generation"]),
        (&run["adapter"], &json!(1)),
        "{answered}"
    );
    let trained = right(&serving);
    assert!(trained >= before + 4, "{before} of 20 before, {trained} after");

    // one byte of its file is changed: the base model becomes active at once, and an adapter is
    // trained again
    let weights = program
        .data_dir()
        .join("adapters")
        .join(run["adapter"].as_str().unwrap())
        .join("adapter_model.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    std::fs::write(&weights, bytes).unwrap();
    let again = ended(&serving, 2).remove(0);
    assert_eq!(again["status"], "promoted", "{again:#}");
    let repaired = right(&serving);
    assert!(repaired >= before + 4, "{before} of 20 before, {repaired} after the repair");
    let (_, adapters) = serving.get("/admin/adapters");
    let statuses: Vec<&Value> =
        adapters["data"].as_array().unwrap().iter().map(|adapter| &adapter["status"]).collect();
    assert!(statuses.contains(&&json!("live")), "{adapters}");
}
