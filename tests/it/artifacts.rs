//! Fitted artifacts: which are in use, where they are reported, and which are rejected.

use serde_json::{Value, json};

use crate::program::Program;

fn part(serving: &crate::program::Serving, name: &str) -> Value {
    let (status, list) = serving.get("/admin/artifacts");
    assert_eq!(status, 200, "{list}");
    list["data"]
        .as_array()
        .unwrap()
        .iter()
        .find(|part| part["name"] == name)
        .cloned()
        .unwrap_or(Value::Null)
}

#[test]
fn confidence_is_null_until_truths_are_known_and_then_learned_from_the_record() {
    let program = Program::new();
    let serving = program.serve();
    let ask = |index: u32| {
        // two kinds of question, one of which will be answered correctly
        let choices = if index.is_multiple_of(2) { ["red", "blue"] } else { ["Monday", "Friday"] };
        let body = json!({"prompt": format!("Which of the two is number {index}?"), "specialist": "kairos", "choices": choices});
        let (status, answered) = serving.post("/infer", &body);
        assert_eq!(status, 200, "{answered}");
        answered
    };
    let (status, early) = serving.post("/admin/confidence/refit", &json!({}));
    assert!(
        status == 409 && early["error"]["message"].as_str().unwrap().contains("at least 50"),
        "{early}"
    );
    for index in 0..60 {
        let answered = ask(index);
        assert_eq!(answered["confidence"], Value::Null, "{answered}");
        // one in ten is the opposite of its kind
        let value = if index.is_multiple_of(2) == (index % 10 != 4) { 1.0 } else { -1.0 };
        let (status, reply) = serving
            .post("/v1/feedback", &json!({"decision_id": answered["decision_id"], "value": value}));
        assert!((200..300).contains(&status), "{reply}");
    }
    assert_eq!(part(&serving, "confidence"), Value::Null);
    let before = serving.get("/admin/confidence").1;
    assert_eq!((&before["pooled"]["rows"], &before["maps"]), (&json!(0), &json!({})), "{before}");
    let (status, learned) = serving.post("/admin/confidence/refit", &json!({}));
    assert_eq!(status, 200, "{learned}");
    assert!(learned["pooled"]["auroc"].as_f64().unwrap() > 0.6, "{learned}");
    let (good, bad) = (ask(100), ask(101));
    assert!(
        good["confidence"].as_f64().unwrap() > bad["confidence"].as_f64().unwrap() + 0.3,
        "{good} {bad}"
    );
    let recorded =
        serving.get(&format!("/v1/decisions/{}", good["decision_id"].as_str().unwrap())).1;
    assert_eq!(
        (&recorded["confidence"], &recorded["trace"]["confidence"]["calibrator"]),
        (&good["confidence"], &learned["calibrator"]),
        "{recorded}"
    );
    serving.post("/v1/feedback", &json!({"decision_id": good["decision_id"], "value": 1.0}));
    let after = serving.get("/admin/confidence").1;
    assert_eq!(
        (&after["calibrator"], &after["specialists"]["kairos"]["rows"]),
        (&learned["calibrator"], &json!(1)),
        "{after}"
    );
    let bins = after["pooled"]["bins"].as_array().unwrap();
    assert_eq!(
        (bins.len(), bins.iter().map(|bin| bin["count"].as_u64().unwrap()).sum::<u64>()),
        (10, 1),
        "{after}"
    );
    assert_eq!(part(&serving, "confidence")["origin"], "record");
    serving.kill();
    // the next process loads what this one fitted
    let serving = program.serve();
    assert_eq!(part(&serving, "confidence")["id"], learned["calibrator"]);
    let (_, again) =
        serving.post("/infer", &json!({"prompt": "Which of the two is number 100?", "specialist": "kairos", "choices": ["red", "blue"]}));
    assert!(
        again["confidence"].as_f64().unwrap() > bad["confidence"].as_f64().unwrap(),
        "{again} {bad}"
    );
}
