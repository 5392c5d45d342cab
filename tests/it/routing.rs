//! Routing over HTTP: which specialist is chosen, by which signals, and what is recorded.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::program::{Program, Serving, write};

const PATIENCE: Duration = Duration::from_secs(60);

fn asked(serving: &Serving, body: &Value) -> Value {
    let (status, answered) = serving.post("/infer", body);
    assert_eq!(status, 200, "{body}: {answered}");
    answered
}

fn numbers(map: &Value) -> BTreeMap<String, f64> {
    map.as_object()
        .unwrap()
        .iter()
        .map(|(name, value)| (name.clone(), value.as_f64().unwrap()))
        .collect()
}

fn highest(map: &Value) -> String {
    numbers(map).into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap().0
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-9
}

#[test]
fn ordinary_requests_go_where_they_belong_and_the_record_says_why() {
    let serving = Program::new().serve();
    let mut wrong = Vec::new();
    for (request, specialist) in [
        ("What did I tell you about my brother's wedding?", "mnemosyne"),
        ("Please remember that my locker code is 1188.", "mnemosyne"),
        ("Will it snow in Oslo next weekend?", "moira"),
        ("How likely is it that our team wins the final?", "moira"),
        ("Is it true that bats are blind?", "aletheia"),
        ("According to the orders table, which customer ordered the most?", "aletheia"),
        ("If it is noon in London, what time is it in New York?", "kairos"),
        ("How many days are left until the first of May?", "kairos"),
        ("I feel so sad and lonely tonight.", "eleos"),
        ("I had a fight with my sister and I can't stop crying.", "eleos"),
        ("Write a polite email to my neighbour about the noise.", "nyx"),
        ("How do I reverse a string in Python?", "nyx"),
    ] {
        let answered = asked(&serving, &json!({"prompt": request, "max_tokens": 1}));
        let decision = &answered["decision"];
        if highest(&decision["logits"]) != specialist {
            wrong.push((request, decision["similarities"].clone()));
        }
        let (similarities, logits, weights) = (
            numbers(&decision["similarities"]),
            numbers(&decision["logits"]),
            numbers(&decision["trait_weights"]),
        );
        assert_eq!((similarities.len(), numbers(&decision["scores"]).len()), (6, 6), "{decision}");
        for (name, logit) in logits {
            assert!(near(logit, 10.0 * similarities[&name] + weights[&name]), "{name}: {decision}");
        }
        let propensities = numbers(&decision["propensities"]);
        assert!(near(propensities.values().sum(), 1.0), "{decision}");
        assert!(
            propensities.values().all(|propensity| *propensity >= 0.02 / 6.0 - 1e-12),
            "{decision}"
        );
        let recorded =
            serving.get(&format!("/v1/decisions/{}", answered["decision_id"].as_str().unwrap())).1;
        for field in ["scores", "similarities", "logits", "propensities"] {
            assert_eq!(recorded[field], decision[field], "{field}");
        }
        assert_eq!(
            recorded["propensity"],
            decision["propensities"][answered["specialist"].as_str().unwrap()],
            "{recorded}"
        );
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_general_assistant_answers_under_its_name_and_is_on_record() {
    let serving = Program::new().serve();
    let messages = json!([{"role": "user", "content": "Name a colour."}]);
    let chat = |model: &str| {
        serving
            .post(
                "/v1/chat/completions",
                &json!({"model": model, "messages": messages, "max_tokens": 4}),
            )
            .1
    };
    let record = |answered: &Value| {
        serving
            .get(&format!("/v1/decisions/{}", answered["nyx"]["decision_id"].as_str().unwrap()))
            .1
    };
    let answered = chat("nyx/nyx");
    assert_eq!(answered["nyx"]["specialist"], "nyx", "{answered}");
    let recorded = record(&answered);
    assert_eq!(
        (&recorded["requested"], &recorded["specialist"], &recorded["propensity"]),
        (&json!("nyx/nyx"), &json!("nyx"), &json!(1.0))
    );
    assert_eq!(
        (&recorded["evidence"], &recorded["scores"], &recorded["similarities"]),
        (&json!([]), &json!({}), &json!({})),
        "{recorded}"
    );
    assert_eq!(recorded["answer"], answered["choices"][0]["message"]["content"]);
    // the raw base model is no candidate, and the bare model name `nyx` is routed
    assert_eq!(record(&chat("nyx/base"))["specialist"], "base");
    let routed = record(&chat("nyx"));
    assert_eq!(routed["requested"], "nyx");
    let names: Vec<String> = numbers(&routed["propensities"]).into_keys().collect();
    assert_eq!(names, ["aletheia", "eleos", "kairos", "mnemosyne", "moira", "nyx"], "{routed}");
    // by its name on `/infer`, and with its own trait weight
    assert_eq!(
        asked(&serving, &json!({"prompt": "Name a colour.", "specialist": "nyx", "max_tokens": 1}))
            ["specialist"],
        "nyx"
    );
    assert_eq!(serving.post("/admin/traits/nyx", &json!({"weight": -5.0})).1["to"], -5.0);
    let weighed = asked(&serving, &json!({"prompt": "Hi, how are you?", "max_tokens": 1}));
    assert!(weighed["decision"]["propensities"]["nyx"].as_f64().unwrap() < 0.5, "{weighed}");
}

#[test]
fn a_specialist_that_is_a_file_gets_what_its_examples_are_like() {
    let program = Program::new();
    let file = |examples: &str| {
        format!(
            "name = \"hestia\"\npurpose = \"keeps house: cleaning, stains, repairs\"\n{examples}[prompt]\nfixed = \"You keep house.\"\n"
        )
    };
    let asked_of = |request: &str| {
        let serving = program.serve();
        let answered = asked(&serving, &json!({"prompt": request, "max_tokens": 1}));
        (highest(&answered["decision"]["logits"]), answered)
    };
    let path = program.data_dir().join("specialists/hestia.toml");
    write(
        &path,
        file(
            "examples = [\"The kitchen tap drips, how do I stop it?\", \"How do I get red wine out of a carpet?\"]\n",
        ),
    );
    let (chosen, answered) = asked_of("How can I get a coffee stain out of my carpet?");
    assert_eq!(
        (chosen.as_str(), numbers(&answered["decision"]["propensities"]).len()),
        ("hestia", 7),
        "{answered}"
    );
    // without examples a specialist's purpose is embedded instead
    write(&path, file(""));
    let (_, answered) = asked_of("Cleaning the house: which stains and repairs come first?");
    let similarities = numbers(&answered["decision"]["similarities"]);
    assert!(similarities["hestia"] > 0.5, "{answered}");
}

#[test]
fn without_an_embedding_the_scores_decide_and_the_record_shows_it() {
    let serving = Program::new().with("NYX__MEMORY__QUEUE", "1").serve();
    // the answering specialist must not need the embedder either
    assert_eq!(serving.post("/admin/traits/nyx", &json!({"weight": 5.0})).0, 200);
    // one request in work and one queued: the queue has no capacity for a third
    let texts = vec!["a long text that keeps the embedder busy for a while ".repeat(20); 400];
    let busy = json!({"model": "all-minilm-l6-v2", "input": texts});
    let (mut held, begun) = (Vec::new(), Instant::now());
    while serving.get("/admin/actors/memory-keeper").1["in_flight"] != 2 {
        assert!(begun.elapsed() < PATIENCE, "the embedder's queue does not fill");
        held.push(serving.begin("/v1/embeddings", &busy));
        std::thread::sleep(Duration::from_secs(1));
    }
    let answered =
        asked(&serving, &json!({"prompt": "What time is it in Sydney?", "max_tokens": 1}));
    let decision = &answered["decision"];
    assert_eq!(decision["similarities"], json!({}), "{decision}");
    let (scores, logits) = (numbers(&decision["scores"]), numbers(&decision["logits"]));
    assert_eq!(scores.len(), 6);
    for (name, logit) in logits {
        assert!(
            near(logit, scores[&name] + if name == "nyx" { 5.0 } else { 0.0 }),
            "{name}: {decision}"
        );
    }
    let recorded =
        serving.get(&format!("/v1/decisions/{}", answered["decision_id"].as_str().unwrap())).1;
    assert_eq!(
        (&recorded["similarities"], &recorded["scores"]),
        (&json!({}), &decision["scores"]),
        "{recorded}"
    );
}
