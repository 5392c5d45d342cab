//! Memories on the real binary: searched, deleted, reindexed, imported, and stored from
//! conversations.

use std::path::Path;

use serde_json::{Value, json};

use crate::program::{Program, Serving, write};

fn tell(serving: &Serving, memory: Value) -> String {
    let (status, memory) = serving.post("/v1/memories", &memory);
    assert_eq!(status, 200, "{memory}");
    memory["id"].as_str().unwrap().to_owned()
}

fn search(serving: &Serving, query: &str) -> Vec<String> {
    let (status, found) = serving.get(&format!("/v1/memories/search?k=20&{query}"));
    assert_eq!(status, 200, "{found}");
    let mut texts: Vec<String> = found["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|hit| hit["text"].as_str().unwrap().to_owned())
        .collect();
    texts.sort();
    texts
}

fn forget(serving: &Serving, selector: &str) -> Value {
    let (status, forgotten) =
        serving.send("DELETE", &format!("/v1/memories{selector}"), &[], b"").json();
    assert_eq!(
        (status, &forgotten["object"], &forgotten["erased"]),
        (200, &json!("memories.forgotten"), &json!(true)),
        "{forgotten}"
    );
    forgotten["forgotten"].clone()
}

/// Whether any file under `folder` contains these bytes.
fn holds(folder: &Path, text: &str) -> bool {
    std::fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return holds(&path, text);
        }
        std::fs::read(path)
            .unwrap_or_default()
            .windows(text.len())
            .any(|window| window == text.as_bytes())
    })
}

fn some(serving: &Serving) -> Vec<String> {
    vec![
        tell(
            serving,
            json!({"text": "dog one", "speaker": "Ana", "conversation": "home", "when": "2026-01-01"}),
        ),
        tell(
            serving,
            json!({"text": "dog two", "speaker": "Ben", "conversation": "home", "when": "2026-02-01"}),
        ),
        tell(
            serving,
            json!({"text": "dog three", "speaker": "Ana", "conversation": "work", "when": "2026-03-01T12:00:00Z"}),
        ),
        tell(
            serving,
            json!({"text": "look", "caption": "a photo of a xylophone", "conversation": "work"}),
        ),
    ]
}

#[test]
fn memories_are_filtered_and_forgotten_and_leave_no_trace() {
    let program = Program::new();
    let serving = program.serve();
    let ids = some(&serving);
    for (filter, expected) in [
        ("q=dog&speaker=Ana", vec!["dog one", "dog three"]),
        ("q=dog&conversation=home", vec!["dog one", "dog two"]),
        ("q=dog&after=2026-02-01&before=2026-03-01T12:00:00Z", vec!["dog two"]),
        ("q=dog&before=2026-02-01", vec!["dog one"]),
        ("q=dog&after=2026-03-02", vec!["look"]),
        ("q=dog&speaker=nobody", vec![]),
    ] {
        assert_eq!(search(&serving, filter), expected, "{filter}");
    }
    let index = program.data_dir();
    assert!(holds(&index, "xylophone"));
    assert_eq!(forget(&serving, &format!("/{}", ids[3])), 1);
    assert!(!holds(&index, "xylophone"));
    assert_eq!(forget(&serving, "?conversation=home&before=2026-01-15"), 1);
    assert_eq!(search(&serving, "q=dog"), ["dog three", "dog two"]);
    // deleted memories stay deleted after a restart
    serving.kill();
    let serving = program.serve();
    assert_eq!(search(&serving, "q=dog"), ["dog three", "dog two"]);
    assert_eq!(serving.send("DELETE", &format!("/v1/memories/{}", ids[3]), &[], b"").json().0, 404);
    assert_eq!(forget(&serving, "?all=true"), 2);
    assert_eq!(search(&serving, "q=dog").len(), 0);
    assert!(!holds(&index, "dog three"));
}

#[test]
fn forgetting_takes_a_key_where_keys_are_set() {
    let serving = Program::new().with("NYX__HTTP__API_KEYS", r#"["hush"]"#).serve();
    assert_eq!(serving.send("DELETE", "/v1/memories?all=true", &[], b"").status, 401);
    assert_eq!(
        serving
            .send("DELETE", "/v1/memories?all=true", &["Authorization: Bearer hush"], b"")
            .status,
        200
    );
}

#[test]
fn all_memories_are_embedded_again_beside_a_running_server() {
    let program = Program::new();
    let serving = program.serve();
    some(&serving);
    let ran = program.run(&["memories", "reindex"]).success();
    assert!(ran.stdout.contains("4 memories") && ran.stdout.contains("sqlite-vec"), "{ran:?}");
    assert_eq!(search(&serving, "q=dog").len(), 4);
    assert_eq!(forget(&serving, "?all=true"), 4);
}

#[test]
fn the_same_word_in_either_form_is_found_by_words() {
    let serving = Program::new().serve();
    tell(
        &serving,
        json!({"text": "Our Zu\u{308}rich bank is the Ge\u{301}rard & Fils.", "conversation": "Zoe\u{308}"}),
    );
    tell(
        &serving,
        json!({"text": "Our Z\u{fc}rich office moved to Thalwil.", "conversation": "Zo\u{eb}"}),
    );
    for (query, worded) in
        [("Z%C3%BCrich", 2), ("Zu%CC%88rich", 2), ("Zurich", 2), ("G%C3%A9rard", 1)]
    {
        let (_, found) = serving.get(&format!("/v1/memories/search?k=2&q={query}"));
        let hits = found["data"].as_array().unwrap();
        assert_eq!(
            hits.iter().filter(|hit| hit["lexical"].is_number()).count(),
            worded,
            "{query}: {found}"
        );
    }
    assert_eq!(search(&serving, "q=Zurich&conversation=Zo%C3%AB").len(), 2);
}

#[test]
fn memories_are_imported_from_a_file_all_or_none() {
    let program = Program::new();
    let file = program.dir.path().join("turns.jsonl");
    let lines = [
        r#"{"text": "dog one", "speaker": "Ana", "conversation": "home", "when": "2026-01-01"}"#,
        "",
        r#"{"text": "dog two"}"#,
    ];
    write(&file, lines.join("\n"));
    let path = file.to_str().unwrap();
    let ran = program.run(&["memories", "import", path]).success();
    assert!(ran.stdout.contains("kept 2 memories"), "{ran:?}");
    for (line, says) in [
        ("{\"text\": 1}", "line 4"),
        ("{\"text\": \" \"}", "memory 3"),
        ("{\"when\": \"x\"}", "text"),
    ] {
        write(&file, format!("{}\n{line}\n", lines.join("\n")));
        let ran = program.run(&["memories", "import", path]);
        assert!(ran.refusal().contains(says), "{ran:?}");
    }
    let ran = program.run(&["memories", "import", "/nowhere.jsonl"]);
    assert!(ran.refusal().contains("/nowhere.jsonl"), "{ran:?}");
    let serving = program.serve();
    assert_eq!(search(&serving, "q=dog"), ["dog one", "dog two"]);
    // while a server runs, which finds it at once
    write(&file, r#"{"text": "dog three"}"#);
    program.run(&["memories", "import", path]).success();
    assert_eq!(search(&serving, "q=dog"), ["dog one", "dog three", "dog two"]);
}

#[test]
fn memories_are_kept_for_ever_or_for_some_days() {
    let program = Program::new().with("NYX__MEMORY__RETENTION_DAYS", "1");
    let serving = program.serve();
    tell(&serving, json!({"text": "dog one", "when": "1999-01-01"}));
    serving.kill();
    // stored today, so it is kept: retention does not depend on the time of the event
    assert_eq!(search(&program.serve(), "q=dog"), ["dog one"]);
    let ran = Program::new().with("NYX__MEMORY__RETENTION_DAYS", "0").run(&["migrate"]);
    assert!(
        ran.refusal().contains("memory.retention_days") && ran.refusal().contains("36500"),
        "{ran:?}"
    );
}

#[test]
fn a_conversation_is_remembered_on_request() {
    let program = Program::new();
    let serving = program.serve();
    let asked = |remember: bool| {
        json!({"prompt": "My cello is called Bruno. What is its name?", "specialist": "eleos", "conversation": "music", "max_tokens": 6,
            "temperature": 0, "now": "2026-05-01T10:00:00Z", "remember": remember})
    };
    let (status, reply) = serving.post("/infer", &asked(false));
    assert_eq!((status, reply["trace"].get("remembered")), (200, None), "{reply}");
    assert_eq!(search(&serving, "q=cello").len(), 0);

    let (status, reply) = serving.post("/infer", &asked(true));
    assert_eq!(status, 200, "{reply}");
    let ids: Vec<&str> = reply["trace"]["remembered"]["ids"]
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_str().unwrap())
        .collect();
    let (_, found) = serving.get("/v1/memories/search?q=cello&k=5&conversation=music");
    let by = |speaker: &str| {
        found["data"]
            .as_array()
            .unwrap()
            .iter()
            .find(|hit| hit["speaker"] == speaker)
            .unwrap()
            .clone()
    };
    let (question, answer) = (by("user"), by("eleos"));
    assert_eq!([&question["id"], &answer["id"]], [&json!(ids[0]), &json!(ids[1])], "{found}");
    assert_eq!(
        (&question["text"], &answer["text"]),
        (&json!("My cello is called Bruno. What is its name?"), &reply["answer"])
    );
    assert_eq!(question["when"], "2026-05-01T10:00:00Z");
    // also in the recorded decision
    let id = reply["decision_id"].as_str().unwrap();
    assert_eq!(
        serving.get(&format!("/v1/decisions/{id}")).1["trace"]["remembered"],
        reply["trace"]["remembered"]
    );

    // the OpenAI endpoint; a failure to store is a warning, and the answer is returned
    let chat = |content: &str| {
        json!({"model": "nyx/base", "messages": [{"role": "user", "content": content}], "max_tokens": 4,
        "conversation": "music", "remember": true, "temperature": 0})
    };
    let (status, reply) = serving.post("/v1/chat/completions", &chat("And the violin is Clara."));
    assert_eq!(status, 200, "{reply}");
    assert_eq!(reply["nyx"]["trace"]["remembered"]["ids"].as_array().unwrap().len(), 2, "{reply}");
    let hits = search(&serving, "q=violin&speaker=base");
    assert_eq!(hits.len(), 1, "{hits:?}");
    let long = format!("{}\nIs the sky blue?", " ".repeat(33_000));
    let weighed =
        json!({"prompt": long, "choices": ["yes", "no"], "specialist": "base", "remember": true});
    let (status, reply) = serving.post("/infer", &weighed);
    assert_eq!(status, 200, "{reply}");
    assert!(
        reply["trace"]["remembered"]["warning"]
            .as_str()
            .unwrap()
            .contains("expected at most 32768"),
        "{reply}"
    );
    assert!(["yes", "no"].contains(&reply["answer"].as_str().unwrap()), "{reply}");
}
