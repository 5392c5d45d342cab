//! What is told in one conversation stays there, unless it was to be remembered; and what is forgotten is found by nobody.

use serde_json::{Value, json};

use crate::program::{Program, Serving};

/// Who may be asked.
const ALL: [&str; 6] = ["mnemosyne", "moira", "aletheia", "kairos", "eleos", "base"];
/// Enough for an answer that repeats what it was shown.
const MAX_TOKENS: usize = 16;

fn infer(serving: &Serving, body: &Value) -> Value {
    let (status, told) = serving.post("/infer", body);
    assert_eq!(status, 200, "{body}: {told}");
    told
}

/// Asks each of them about it in a conversation of its own; who was shown, or says, `secret`.
fn who_knows(serving: &Serving, prompt: &str, secret: &str) -> Vec<&'static str> {
    let knows = |name: &&&'static str| {
        let body = json!({"prompt": prompt, "specialist": name, "conversation": format!("of another with {name}"), "max_tokens": MAX_TOKENS,
            "temperature": 0});
        let told = infer(serving, &body);
        let shown = told["evidence"].to_string().contains(secret);
        shown || told["answer"].as_str().unwrap().contains(secret)
    };
    ALL.iter().filter(knows).copied().collect()
}

#[test]
fn what_one_conversation_told_is_shown_to_no_other() {
    let serving = Program::new().serve();
    for name in ALL {
        let told = json!({"prompt": "The PIN of my bank card is 4417. Is that a good PIN?", "specialist": name, "conversation": "mine",
            "max_tokens": MAX_TOKENS, "temperature": 0});
        infer(&serving, &told);
    }
    // on record, and in nobody's prompt
    let (_, recorded) = serving.get("/v1/decisions?conversation=mine");
    assert!(recorded.to_string().contains("4417"), "{recorded}");
    assert_eq!(who_knows(&serving, "What is the PIN of my bank card?", "4417"), Vec::<&str>::new());
}

#[test]
fn what_is_forgotten_is_found_by_nobody() {
    let serving = Program::new().serve();
    let told = json!({"prompt": "My locker code is 4417, please keep it in mind.", "specialist": "mnemosyne", "remember": true,
        "conversation": "gym", "max_tokens": MAX_TOKENS, "temperature": 0});
    assert_eq!(infer(&serving, &told)["notes"]["remembered"]["ids"].as_array().map(Vec::len), Some(2));
    let knowing = who_knows(&serving, "What is the locker code?", "4417");
    for name in ["mnemosyne", "aletheia", "kairos"] {
        assert!(knowing.contains(&name), "{name} finds what is remembered: {knowing:?}");
    }
    let (status, forgotten) = serving.send("DELETE", "/v1/memories?all=true", &[], b"").json();
    assert_eq!((status, &forgotten["erased"]), (200, &json!(true)), "{forgotten}");
    assert_eq!(who_knows(&serving, "What is the locker code?", "4417"), Vec::<&str>::new());
}
