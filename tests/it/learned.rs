//! Learned parts: which are in use, where that shows, and what is refused.

use serde_json::{Value, json};

use crate::program::{Program, write};

fn part(serving: &crate::program::Serving, name: &str) -> Value {
    let (status, list) = serving.get("/admin/learned");
    assert_eq!(status, 200, "{list}");
    list["data"].as_array().unwrap().iter().find(|part| part["name"] == name).cloned().unwrap_or(Value::Null)
}

#[test]
fn the_head_decides_and_its_id_is_in_the_decision() {
    let program = Program::new();
    let serving = program.serve();
    let head = part(&serving, "master");
    assert_eq!(head["origin"], "shipped", "{head}");
    assert_eq!(head["id"].as_str().unwrap().len(), 64, "{head}");
    assert!(head["trained_on"]["counts"]["kairos"].as_u64().unwrap() > 100, "{head}");
    for (question, name) in
        [("What did I tell you about my sister?", "mnemosyne"), ("Will it rain tomorrow?", "moira"), ("I feel sad today", "eleos")]
    {
        let (status, answered) = serving.post("/infer", &json!({"prompt": question, "max_tokens": 1}));
        assert_eq!(status, 200, "{answered}");
        let decision = &answered["decision"];
        assert_eq!(decision["head"], head["id"], "{answered}");
        assert!(decision["propensities"][name].as_f64().unwrap() > 0.5, "{question}: {decision}");
        let logits = decision["logits"].as_object().unwrap();
        let best = logits.iter().max_by(|a, b| a.1.as_f64().unwrap().total_cmp(&b.1.as_f64().unwrap())).unwrap().0;
        assert_eq!((logits.len(), best.as_str()), (5, name), "{decision}");
        let recorded = serving.get(&format!("/v1/decisions/{}", answered["decision_id"].as_str().unwrap())).1;
        assert_eq!((&recorded["head"], &recorded["logits"]), (&head["id"], &decision["logits"]), "{recorded}");
    }
    // a caller who chooses needs no head
    let (_, named) = serving
        .post("/v1/chat/completions", &json!({"model": "nyx/moira", "messages": [{"role": "user", "content": "Rain?"}], "max_tokens": 1}));
    assert_eq!((&named["nyx"]["head"], &named["nyx"]["logits"]), (&Value::Null, &json!({})), "{named}");
}

#[test]
fn without_the_head_the_scores_decide() {
    let program = Program::new().with("NYX__MASTER__HEAD", "false");
    let serving = program.serve();
    let (_, answered) = serving.post("/infer", &json!({"prompt": "Will it rain tomorrow?", "max_tokens": 1}));
    let decision = &answered["decision"];
    assert_eq!((&decision["head"], &decision["logits"]), (&Value::Null, &decision["scores"]), "{decision}");
    assert_eq!(part(&serving, "master"), Value::Null);
}

#[test]
fn a_file_of_ones_own_is_used_and_a_wrong_one_refused_by_name_and_key() {
    let shipped = include_str!("../../specialists/learned/master.json");
    let program = Program::new();
    let path = program.data_dir().join("learned/master.json");
    // the same parameters, and yet another file
    write(&path, format!("{shipped}\n"));
    let serving = program.serve();
    let own = part(&serving, "master");
    assert_eq!((&own["origin"], &own["path"]), (&json!("file"), &json!(path.display().to_string())), "{own}");
    let (_, answered) = serving.post("/infer", &json!({"prompt": "Will it rain tomorrow?", "max_tokens": 1}));
    assert_eq!(answered["decision"]["head"], own["id"], "{answered}");
    serving.kill();
    for (from, to, told) in [
        ("\"kind\": \"master\"", "\"kind\": \"muster\"", "kind is \"muster\", expected \"master\""),
        ("\"unit\": 0.5", "\"unit\": -0.5", "parameters.unit is -0.5"),
        ("\"version\": 2,", "\"version\": 2, \"base_sha256\": \"00\",", "base_sha256"),
        ("\"probe\": [", "\"probe\": [1.0,", "parameters.probe has 385 numbers"),
    ] {
        let changed = shipped.replacen(from, to, 1);
        assert_ne!(changed, shipped, "{from} is not there");
        write(&path, changed);
        let ran = program.run(&["ask", "Hello?", "--max-tokens", "1"]);
        let error = ran.refusal();
        assert!(error.contains("learned/master.json") && error.contains(told), "{error}");
    }
    // learned with another embedder
    let backwards = shipped.lines().map(|line| match line.trim_start().strip_prefix("\"probe\": [") {
        Some(numbers) => {
            let mut numbers: Vec<&str> = numbers.trim_end_matches("],").split(',').collect();
            numbers.reverse();
            format!("\"probe\": [{}],\n", numbers.join(","))
        }
        None => format!("{line}\n"),
    });
    write(&path, backwards.collect::<String>());
    let error = program.run(&["ask", "Hello?", "--max-tokens", "1"]);
    assert!(error.refusal().contains("another embedder"), "{error:?}");
}

#[test]
fn confidence_is_null_until_truths_are_known_and_then_learned_from_the_record() {
    let program = Program::new();
    let serving = program.serve();
    let ask = |index: u32| {
        // two kinds of question, of which one kind will be answered well
        let choices = if index.is_multiple_of(2) { ["red", "blue"] } else { ["Monday", "Friday"] };
        let body = json!({"prompt": format!("Which of the two is number {index}?"), "specialist": "kairos", "choices": choices});
        let (status, answered) = serving.post("/infer", &body);
        assert_eq!(status, 200, "{answered}");
        answered
    };
    let (status, early) = serving.post("/admin/confidence/refit", &json!({}));
    assert!(status == 409 && early["error"]["message"].as_str().unwrap().contains("at least 50"), "{early}");
    for index in 0..60 {
        let answered = ask(index);
        assert_eq!(answered["confidence"], Value::Null, "{answered}");
        // one in ten is otherwise than its kind
        let value = if index.is_multiple_of(2) == (index % 10 != 4) { 1.0 } else { -1.0 };
        let (status, told) = serving.post("/v1/feedback", &json!({"decision_id": answered["decision_id"], "value": value}));
        assert!((200..300).contains(&status), "{told}");
    }
    assert_eq!(part(&serving, "confidence"), Value::Null);
    let before = serving.get("/admin/confidence").1;
    assert_eq!((&before["pooled"]["rows"], &before["maps"]), (&json!(0), &json!({})), "{before}");
    let (status, learned) = serving.post("/admin/confidence/refit", &json!({}));
    assert_eq!(status, 200, "{learned}");
    assert!(learned["pooled"]["auroc"].as_f64().unwrap() > 0.6, "{learned}");
    let (good, bad) = (ask(100), ask(101));
    assert!(good["confidence"].as_f64().unwrap() > bad["confidence"].as_f64().unwrap() + 0.3, "{good} {bad}");
    let recorded = serving.get(&format!("/v1/decisions/{}", good["decision_id"].as_str().unwrap())).1;
    assert_eq!(
        (&recorded["confidence"], &recorded["notes"]["confidence"]["calibrator"]),
        (&good["confidence"], &learned["calibrator"]),
        "{recorded}"
    );
    serving.post("/v1/feedback", &json!({"decision_id": good["decision_id"], "value": 1.0}));
    let after = serving.get("/admin/confidence").1;
    assert_eq!((&after["calibrator"], &after["specialists"]["kairos"]["rows"]), (&learned["calibrator"], &json!(1)), "{after}");
    let bins = after["pooled"]["bins"].as_array().unwrap();
    assert_eq!((bins.len(), bins.iter().map(|bin| bin["count"].as_u64().unwrap()).sum::<u64>()), (10, 1), "{after}");
    assert_eq!(part(&serving, "confidence")["origin"], "record");
    serving.kill();
    // the next process finds what this one learned
    let serving = program.serve();
    assert_eq!(part(&serving, "confidence")["id"], learned["calibrator"]);
    let (_, again) =
        serving.post("/infer", &json!({"prompt": "Which of the two is number 100?", "specialist": "kairos", "choices": ["red", "blue"]}));
    assert!(again["confidence"].as_f64().unwrap() > bad["confidence"].as_f64().unwrap(), "{again} {bad}");
}
