//! Time on the real binary and the real model: memories with their times, deferred answers, and
//! missed deadlines.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::program::{Program, Serving};

const NOW: &str = "2026-11-25T14:30:00Z";

/// Stores memories of meals in three weeks.
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
fn memories_are_recalled_with_their_times_and_the_plan_is_on_record() {
    let serving = Program::new().serve();
    remember(&serving);
    let body = json!({"prompt": "What did I have for dinner?", "specialist": "kairos", "now": NOW, "max_tokens": 4, "seed": 1});
    let (status, answer) = serving.post("/infer", &body);
    assert_eq!(status, 200, "{answer}");
    let evidence = answer["evidence"].as_array().unwrap();
    assert_eq!(evidence.len(), 3, "{answer}");
    assert!(evidence.iter().any(|item| item["when"] == "2026-11-24T19:00:00Z"), "{answer}");
    let note = answer["trace"]["timing"].as_object().unwrap();
    assert_eq!(note.keys().collect::<Vec<_>>(), ["plan"], "{answer}");
    assert_eq!(note["plan"]["options"].as_array().unwrap().len(), 1, "{answer}");
}

#[test]
fn an_answer_may_come_later_where_the_caller_allows_it() {
    let serving = Program::new().serve();
    let ask = |allow: bool| json!({"prompt": "Which day comes after Monday?", "specialist": "kairos", "max_tokens": 400, "deadline_ms": 1500, "seed": 1, "allow_defer": allow});
    let (status, deferred) = serving.post("/infer", &ask(true));
    assert_eq!(
        (status, &deferred["status"], &deferred["answer"]),
        (202, &json!("deferred"), &json!("")),
        "{deferred}"
    );
    assert!(deferred["retry_after_s"].as_u64().unwrap() >= 1, "{deferred}");
    assert_eq!(deferred["trace"]["timing"]["plan"]["chosen"]["mode"], "defer");
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
    assert!(
        !answered["answer"].as_str().unwrap().is_empty()
            && answered["usage"]["completion_tokens"].as_u64().unwrap() > 0,
        "{answered}"
    );
    assert_eq!(answered["trace"]["deferral"]["plan"]["chosen"]["mode"], "defer");
    assert_ne!(serving.post("/infer", &ask(false)).1["status"], "deferred");
}

#[test]
fn no_text_replaces_an_answer_that_missed_its_deadline() {
    let serving = Program::new().serve();
    remember(&serving);
    let filler = "We talked about what we like for dinner. ".repeat(600);
    let question = format!("{filler} What did I have for dinner yesterday?");
    let body = json!({"prompt": question, "specialist": "kairos", "now": NOW, "deadline_ms": 8000, "seed": 1});
    let (status, answer) = serving.post("/infer", &body);
    assert_eq!(
        (status, &answer["status"], &answer["finish_reason"]),
        (200, &json!("partial"), &json!("deadline")),
        "{answer}"
    );
    assert_eq!(
        (&answer["answer"], &answer["usage"]["completion_tokens"]),
        (&json!(""), &json!(0)),
        "{answer}"
    );
    assert!(!answer["evidence"].as_array().unwrap().is_empty(), "{answer}");
}
