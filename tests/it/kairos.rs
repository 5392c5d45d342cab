//! Time on the real binary and the real model: memories of the time that is asked about, answers that come later, and what is told when there is no
//! time for one.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::program::{Program, Serving};

const NOW: &str = "2026-11-25T14:30:00Z";

/// Tells Nyx what was eaten in three weeks.
fn remember(serving: &Serving) {
    for (text, when) in [
        ("For dinner I had pumpkin soup with bread.", "2026-11-18T19:00:00Z"),
        ("For dinner I had lentil curry with rice.", "2026-11-24T19:00:00Z"),
        ("For dinner I had roast duck with dumplings.", "2025-12-24T19:00:00Z"),
    ] {
        let (status, memory) = serving.post("/v1/memories", &json!({"text": text, "when": when}));
        assert!((200..300).contains(&status), "{memory}");
    }
}

#[test]
fn memories_of_the_time_that_is_asked_about_come_first_with_their_age() {
    let serving = Program::new().serve();
    remember(&serving);
    let first = |question: &str| {
        let body = json!({"prompt": question, "specialist": "kairos", "now": NOW, "max_tokens": 4, "seed": 1});
        let (status, answer) = serving.post("/infer", &body);
        assert_eq!(status, 200, "{answer}");
        (answer["evidence"][0]["text"].as_str().unwrap_or_default().to_owned(), answer["notes"]["timing"].clone())
    };
    let (yesterday, note) = first("What did I have for dinner yesterday?");
    assert!(yesterday.contains("lentil"), "{yesterday}");
    assert_eq!(note["interval"], json!({"from": "2026-11-24T00:00:00Z", "to": "2026-11-25T00:00:00Z"}), "{note}");
    assert!(note["learned"].as_str().unwrap().len() == 64 && note["plan"]["options"].as_array().unwrap().len() == 1, "{note}");
    assert!(first("What did I have for dinner last week?").0.contains("pumpkin"));
    assert!(first("What did I have for dinner in December 2025?").0.contains("duck"));
}

#[test]
fn an_answer_may_come_later_where_the_caller_allows_it() {
    let serving = Program::new().serve();
    let ask = |allow: bool| json!({"prompt": "Which day comes after Monday?", "specialist": "kairos", "max_tokens": 400, "deadline_ms": 1500, "seed": 1, "allow_defer": allow});
    let (status, deferred) = serving.post("/infer", &ask(true));
    assert_eq!((status, &deferred["status"], &deferred["answer"]), (202, &json!("deferred"), &json!("")), "{deferred}");
    assert!(deferred["retry_after_s"].as_u64().unwrap() >= 1, "{deferred}");
    assert_eq!(deferred["notes"]["timing"]["plan"]["chosen"]["course"], "defer");
    let path = format!("/v1/decisions/{}", deferred["decision_id"].as_str().unwrap());
    let deadline = Instant::now() + Duration::from_secs(90);
    let answered = loop {
        let (status, record) = serving.get(&path);
        assert_eq!(status, 200, "{record}");
        if record["status"] != "deferred" {
            break record;
        }
        assert!(Instant::now() < deadline, "{record}");
        std::thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(answered["status"], "answered", "{answered}");
    assert!(!answered["answer"].as_str().unwrap().is_empty() && answered["usage"]["completion_tokens"].as_u64().unwrap() > 0, "{answered}");
    assert_eq!(answered["notes"]["deferral"]["plan"]["chosen"]["course"], "defer");
    assert_ne!(serving.post("/infer", &ask(false)).1["status"], "deferred");
}

#[test]
fn what_was_found_is_told_where_no_word_can_come_in_time() {
    let serving = Program::new().serve();
    remember(&serving);
    let filler = "We talked about what we like for dinner. ".repeat(600);
    let question = format!("{filler} What did I have for dinner yesterday?");
    let body = json!({"prompt": question, "specialist": "kairos", "now": NOW, "deadline_ms": 8000, "seed": 1});
    let (status, answer) = serving.post("/infer", &body);
    assert_eq!((status, &answer["status"], &answer["finish_reason"]), (200, &json!("partial"), &json!("deadline")), "{answer}");
    let text = answer["answer"].as_str().unwrap();
    assert!(text.contains("lentil") && text.contains("19 hours ago"), "{text}");
    let plan: &Value = &answer["notes"]["timing"]["plan"];
    assert_eq!(plan["chosen"]["course"], "evidence", "{plan}");
}

#[test]
fn what_times_come_to_is_worked_out_and_on_record() {
    let serving = Program::new().serve();
    let body = json!({
        "prompt": "Does it follow that: The strike lasted for less than 8 months?", "context": "The strike lasted from December to July.",
        "choices": ["Entailment", "Contradiction"], "specialist": "kairos", "now": NOW, "seed": 1,
    });
    let (status, answer) = serving.post("/infer", &body);
    assert_eq!(status, 200, "{answer}");
    let reckoning = json!({"text": "from December to July is 7 months; for less than 8 months: entailment.", "relation": "entailment"});
    assert_eq!(answer["notes"]["timing"]["reckoning"], reckoning, "{answer}");
    let (_, record) = serving.get(&format!("/v1/decisions/{}", answer["decision_id"].as_str().unwrap()));
    assert_eq!(record["notes"]["timing"]["reckoning"], reckoning, "{record}");
    // the sentence is part of what Kairos reads
    let tokens = |answer: &Value| answer["usage"]["prompt_tokens"].as_u64().unwrap();
    let mut unreckoned = body.clone();
    unreckoned["context"] = json!("The strike lasted from December to then.");
    let (_, other) = serving.post("/infer", &unreckoned);
    assert!(other["notes"]["timing"]["reckoning"].is_null() && tokens(&other) + 10 < tokens(&answer), "{other}");
}
