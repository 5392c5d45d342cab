//! Contents of a conversation are not shown in others, unless they were to be remembered; deleted
//! memories are not found.

use serde_json::{Value, json};

use crate::postgres::Postgres;
use crate::program::{Program, Serving};

const SECRET: &str = "4417";
/// Enough for an answer that repeats what it was shown.
const MAX_TOKENS: usize = 16;

fn infer(serving: &Serving, body: &Value) -> Value {
    let (status, reply) = serving.post("/infer", body);
    assert_eq!(status, 200, "{body}: {reply}");
    reply
}

/// A request to a specialist, or routed by the master model.
fn asking(prompt: &str, name: &str, conversation: &str) -> Value {
    let mut body = json!({"prompt": prompt, "conversation": conversation, "max_tokens": MAX_TOKENS, "temperature": 0});
    if name != "nyx" {
        body["specialist"] = json!(name.strip_prefix("nyx/").unwrap());
    }
    body
}

/// Every specialist listed by the server, so that an added one is tested too.
fn everyone(serving: &Serving) -> Vec<String> {
    let (status, models) = serving.get("/v1/models");
    assert_eq!(status, 200, "{models}");
    let ids = models["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|model| model["id"].as_str().unwrap().to_owned());
    let names: Vec<String> = ids.filter(|id| id == "nyx" || id.starts_with("nyx/")).collect();
    for name in
        ["nyx", "nyx/base", "nyx/mnemosyne", "nyx/moira", "nyx/aletheia", "nyx/kairos", "nyx/eleos"]
    {
        assert!(names.iter().any(|known| known == name), "{name} is not among {names:?}");
    }
    names
}

/// Sends the prompt to each of them in a conversation of its own; returns those whose prompt or
/// answer has the secret.
fn who_knows(serving: &Serving, prompt: &str) -> Vec<String> {
    let knows = |name: &String| {
        let reply = infer(serving, &asking(prompt, name, &format!("of another with {name}")));
        reply["evidence"].to_string().contains(SECRET)
            || reply["answer"].as_str().unwrap().contains(SECRET)
    };
    everyone(serving).into_iter().filter(knows).collect()
}

fn one_conversation_is_never_evidence_in_another(serving: &Serving) {
    let reply = format!("The PIN of my bank card is {SECRET}. Is that a good PIN?");
    for name in everyone(serving) {
        infer(serving, &asking(&reply, &name, "mine"));
    }
    // recorded, and in no other prompt
    let (_, recorded) = serving.get("/v1/decisions?conversation=mine");
    assert!(recorded.to_string().contains(SECRET), "{recorded}");
    assert_eq!(who_knows(serving, "What is the PIN of my bank card?"), Vec::<String>::new());
}

fn what_is_forgotten_is_found_by_nobody(serving: &Serving) {
    for forgetting in ["all=true", "conversation=gym"] {
        let mut reply = asking(
            &format!("My locker code is {SECRET}, please keep it in mind."),
            "nyx/mnemosyne",
            "gym",
        );
        reply["remember"] = json!(true);
        assert_eq!(
            infer(serving, &reply)["trace"]["remembered"]["ids"].as_array().map(Vec::len),
            Some(2)
        );
        let knowing = who_knows(serving, "What is the locker code?");
        for name in ["nyx/mnemosyne", "nyx/aletheia", "nyx/kairos"] {
            assert!(
                knowing.iter().any(|knows| knows == name),
                "{name} does not find what is remembered: {knowing:?}"
            );
        }
        let (status, forgotten) =
            serving.send("DELETE", &format!("/v1/memories?{forgetting}"), &[], b"").json();
        assert_eq!(
            (status, &forgotten["forgotten"], &forgotten["erased"]),
            (200, &json!(2), &json!(true)),
            "{forgetting}: {forgotten}"
        );
        assert_eq!(
            who_knows(serving, "What is the locker code?"),
            Vec::<String>::new(),
            "{forgetting}"
        );
    }
}

/// Both tests on one server, in this order: the first one's conversation is on record during the
/// second.
fn both(program: &Program) {
    let serving = program.serve();
    one_conversation_is_never_evidence_in_another(&serving);
    what_is_forgotten_is_found_by_nobody(&serving);
    drop(serving);
    // a new process has read nothing of it from disk either
    let again = program.serve();
    assert_eq!(
        who_knows(&again, "What is the PIN of my bank card, and what is the locker code?"),
        Vec::<String>::new()
    );
}

#[test]
fn other_conversations_and_deleted_memories_are_never_evidence_on_sqlite() {
    both(&Program::new());
}

#[test]
fn other_conversations_and_deleted_memories_are_never_evidence_on_postgres() {
    let postgres = Postgres::start();
    both(&Program::new().with("NYX__PHOEBE__URL", postgres.url()));
}
