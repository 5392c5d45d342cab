//! The command line on the real binary: ask, migrate, doctor, shutdown, and durability after kill
//! -9.

use serde_json::{Value, json};

use crate::postgres::Postgres;
use crate::program::{Program, Serving, models, write};

const SISTER: &str = "My sister Clara moved to Lisbon in March and works at the aquarium.";

fn remember(serving: &Serving, text: &str) -> Value {
    let (status, memory) = serving.post("/v1/memories", &json!({ "text": text, "speaker": "me" }));
    assert!((200..300).contains(&status), "{status}: {memory}");
    memory
}

fn texts(evidence: &Value) -> Vec<&str> {
    evidence.as_array().unwrap().iter().map(|item| item["text"].as_str().unwrap()).collect()
}

#[test]
fn a_memory_stored_by_the_server_is_evidence_for_ask() {
    let program = Program::new();
    let serving = program.serve();
    remember(&serving, SISTER);
    remember(&serving, "The boiler was serviced on Tuesday.");
    let question = "What did I tell you about my sister?";
    // while the server runs, and after it has stopped
    let reply = program
        .run(&["ask", question, "--specialist", "mnemosyne", "--json", "--max-tokens", "4"])
        .json();
    assert!(texts(&reply["evidence"]).contains(&SISTER), "{reply}");
    assert!(serving.interrupt().status.success());

    let reply = program
        .run(&["ask", question, "--specialist", "mnemosyne", "--json", "--max-tokens", "24"])
        .json();
    assert_eq!(reply["specialist"], "mnemosyne");
    assert!(texts(&reply["evidence"]).contains(&SISTER), "{reply}");
    let item =
        reply["evidence"].as_array().unwrap().iter().find(|item| item["text"] == SISTER).unwrap();
    assert!(
        item["id"].is_string()
            && item["source"].is_string()
            && item["score"].as_f64().unwrap() > 0.0,
        "{item}"
    );
    assert!(!reply["answer"].as_str().unwrap().is_empty() && reply["confidence"].is_null());

    let chosen = program.run(&["ask", question, "--json", "--max-tokens", "8"]).json();
    let (scores, propensities) = (
        chosen["decision"]["scores"].as_object().unwrap(),
        chosen["decision"]["propensities"].as_object().unwrap(),
    );
    for name in ["mnemosyne", "moira", "aletheia", "kairos", "eleos", "nyx"] {
        assert!(scores[name].as_f64().unwrap().is_finite(), "{chosen}");
        // ε = 0.02 is divided evenly among six candidates
        assert!(propensities[name].as_f64().unwrap() >= 0.02 / 6.0 - 1e-12, "{chosen}");
    }
    assert_eq!((scores.len(), propensities.len()), (6, 6));
    let sum: f64 = propensities.values().map(|value| value.as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-9, "{sum}");
    assert!(propensities.contains_key(chosen["specialist"].as_str().unwrap()), "{chosen}");
}

#[test]
fn evidence_that_does_not_fit_the_window_is_left_out_or_cut() {
    let serving = Program::new().with("NYX__POOL__CONTEXT_LENGTH", "512").serve();
    remember(&serving, &format!("{SISTER} {}", "She said so again and again. ".repeat(300)));
    remember(&serving, SISTER);
    let asked = json!({"prompt": "What did I tell you about my sister?", "specialist": "mnemosyne", "max_tokens": 8});
    let (status, reply) = serving.post("/infer", &asked);
    assert_eq!(status, 200, "{reply}");
    assert!(texts(&reply["evidence"]).iter().any(|text| text.contains("Clara")), "{reply}");
    let bytes: usize = texts(&reply["evidence"]).iter().map(|text| text.len()).sum();
    assert!(bytes < 3000, "{reply}");
}

#[test]
fn ask_streams_the_answer_to_stdout_and_the_rest_to_stderr() {
    let program = Program::new();
    let line = [
        "ask",
        "What is the capital of France?",
        "--specialist",
        "base",
        "--max-tokens",
        "8",
        "--seed",
        "1",
    ];
    let ran = program.run(&line).success();
    assert!(!ran.stdout.trim().is_empty() && !ran.stdout.contains("decision"), "{ran:?}");
    assert!(ran.stderr.contains("-- base") && ran.stderr.contains("decision"), "{ran:?}");
    assert_eq!(program.run(&line).stdout, ran.stdout, "the same seed gives the same answer");
}

#[test]
fn ask_with_choices_answers_with_one_of_them_and_their_probabilities() {
    let question = [
        "ask",
        "Is the sky on a clear day blue or green?",
        "--choices",
        "blue,green",
        "--specialist",
        "base",
        "--json",
    ];
    let reply = Program::new().run(&question).json();
    assert!(["blue", "green"].contains(&reply["answer"].as_str().unwrap()), "{reply}");
    let probabilities = &reply["choice_probabilities"];
    let values: Vec<f64> = match probabilities {
        Value::Object(map) => map.values().map(|value| value.as_f64().unwrap()).collect(),
        list => list.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect(),
    };
    assert_eq!(values.len(), 2);
    assert!((values.iter().sum::<f64>() - 1.0).abs() < 1e-6, "{probabilities}");
}

#[test]
fn ask_refuses_what_cannot_be_answered() {
    let program = Program::new();
    for (extra, reply) in [
        (&["--specialist", "zeus"][..], "eleos, nyx"),
        (&["--deadline-ms", "0"], "deadline_ms"),
        (&["--max-tokens", "0"], "max_tokens"),
    ] {
        let ran = program.run(&[&["ask", "Hello?"], extra].concat());
        let error = ran.refusal();
        assert!(error.contains(reply), "{error}");
        assert_eq!(ran.stdout, "");
    }
    let ran = program.run(&["ask", ""]);
    assert!(ran.refusal().contains("the last user message is empty"), "{ran:?}");
    let long = "word ".repeat(20_000);
    // with each routing target, and also when memories are searched first
    for extra in [&[][..], &["--specialist", "mnemosyne"], &["--specialist", "aletheia"]] {
        let ran = program.run(&[&["ask", long.as_str()], extra].concat());
        assert!(ran.refusal().contains("context window"), "{ran:?}");
    }
}

#[test]
fn training_and_fitting_refuse_unknown_names_with_the_known_ones() {
    let program = Program::new();
    for (arguments, expected) in [
        (&["train", "zeus"][..], "no specialist \"zeus\"; there are mnemosyne, moira, aletheia"),
        (&["train", "confidence"], "no specialist \"confidence\""),
        (&["fit", "zeus"], "[possible values: confidence]"),
        (&["eval", "reproduce", "--suite", "zeus"], "[possible values: kairos, eleos"),
    ] {
        let ran = program.run(arguments);
        assert!(ran.status.code() != Some(0) && ran.stdout.is_empty(), "{ran:?}");
        assert!(ran.stderr.contains(expected), "{ran:?}");
    }
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let program = Program::new();
    let serving = program.serve();
    let memory = remember(&serving, SISTER);
    let (status, answered) = serving
        .post("/infer", &json!({ "prompt": "Hello?", "specialist": "eleos", "max_tokens": 4 }));
    assert_eq!(status, 200, "{answered}");
    serving.kill();

    let serving = program.serve();
    let id = answered["decision_id"].as_str().unwrap();
    let (status, decision) = serving.get(&format!("/v1/decisions/{id}"));
    assert_eq!(status, 200, "{decision}");
    assert_eq!(
        (&decision["answer"], &decision["specialist"]),
        (&answered["answer"], &json!("eleos"))
    );
    let (status, found) = serving.get("/v1/memories/search?q=my%20sister&k=3");
    assert_eq!(status, 200, "{found}");
    assert!(found.to_string().contains(memory["id"].as_str().unwrap()), "{found}");
}

#[test]
fn a_signal_ends_the_server_in_its_phases() {
    let program = Program::new();
    let ran = program.serve().interrupt().success();
    let phases: Vec<usize> = (1..=4)
        .map(|phase| {
            ran.stderr.find(&format!("shutdown {phase}/4")).expect("every phase is logged")
        })
        .collect();
    assert!(phases.is_sorted(), "{}", ran.stderr);
    assert!(ran.stdout.contains("curl") && ran.stdout.contains("decision_id"), "{}", ran.stdout);
}

#[test]
fn a_taken_port_is_reported_before_anything_is_loaded() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let program = Program::new();
    let ran = program.run(&["serve", "--port", &port]);
    assert!(ran.refusal().contains(&port), "{ran:?}");
    assert!(!program.data_dir().exists(), "nothing was started");
}

#[test]
fn a_data_folder_that_cannot_be_made_is_named() {
    for command in [&["ask", "Hello?"][..], &["serve", "--port", "0"], &["migrate"]] {
        let ran = Program::new().with("NYX__DATA_DIR", "/proc/nyx").run(command);
        assert!(ran.refusal().contains("/proc/nyx"), "{ran:?}");
    }
}

#[test]
fn bad_settings_are_one_line_whatever_the_command() {
    for command in [&["serve"][..], &["ask", "Hello?"], &["fetch"], &["migrate"], &["doctor"]] {
        let ran = Program::new().with("NYX__HTP__PORT", "1").run(command);
        let error = ran.refusal();
        assert!(error.contains("htp.port") && error.contains("NYX__HTP__PORT"), "{error}");
    }
    let program = Program::new();
    write(&program.dir.path().join("nyx.toml"), "[pool]\nmax_batch = 0\n");
    let ran = program.run(&["serve"]);
    let error = ran.refusal();
    assert!(error.contains("pool.max_batch") && error.contains("nyx.toml"), "{error}");
}

fn migrates_once(program: &Program) {
    let first = program.run(&["migrate"]).success();
    assert!(first.stdout.contains("migrations"), "{first:?}");
    let second = program.run(&["migrate"]).success();
    assert!(second.stdout.contains("the schema is up to date"), "{second:?}");
    let report: Value = serde_json::from_str(&program.run(&["doctor", "--json"]).stdout).unwrap();
    let database = check(&report, "database");
    assert!(database["found"].as_str().unwrap().contains("up to date"), "{database}");
}

#[test]
fn migrate_brings_a_new_sqlite_database_up_to_date_once() {
    migrates_once(&Program::new());
}

#[test]
fn migrate_brings_a_new_postgresql_database_up_to_date_once() {
    let postgres = Postgres::start();
    migrates_once(&Program::new().with("NYX__PHOEBE__URL", postgres.url()));
}

#[test]
fn migrate_says_why_a_database_cannot_be_reached() {
    let ran = Program::new().run(&["migrate", "--url", "postgres://nyx@127.0.0.1:1/nyx"]);
    assert!(ran.refusal().contains("phoebe"), "{ran:?}");
    let ran = Program::new().run(&["migrate", "--url", "mysql://x"]);
    assert!(ran.refusal().contains("postgres"), "{ran:?}");
}

#[test]
fn doctor_names_a_qdrant_server_that_does_not_answer() {
    let search = |program: Program| {
        check(
            &serde_json::from_str::<Value>(&program.run(&["doctor", "--json"]).stdout).unwrap(),
            "memory search",
        )
        .clone()
    };
    assert_eq!(search(Program::new())["found"], "inside the database");
    let away = Program::new()
        .with("NYX__MEMORY__STORE", "qdrant")
        .with("NYX__MEMORY__URL", "http://127.0.0.1:1");
    let away = search(away.with("NYX__MEMORY__TIMEOUT_MS", "200"));
    assert!(
        away["status"] == "error" && away["found"].as_str().unwrap().contains("127.0.0.1:1"),
        "{away}"
    );
}

fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    report["checks"]
        .as_array()
        .unwrap()
        .iter()
        .find(|check| check["name"] == name)
        .unwrap_or_else(|| panic!("no {name} in {report}"))
}

#[test]
fn doctor_finds_a_machine_in_order_and_changes_nothing() {
    let program = Program::new().with("NYX__HTTP__PORT", "0");
    let report = program.run(&["doctor", "--json"]).json();
    assert_eq!(report["ok"], true, "{report}");
    for name in [
        "base model",
        "embedder",
        "python",
        "device",
        "gpu",
        "data folder",
        "disk",
        "specialists",
        "port",
        "database",
        "memory search",
    ] {
        assert_ne!(check(&report, name)["status"], "error", "{report}");
    }
    assert!(!program.data_dir().exists(), "doctor only looks");
    let text = program.run(&["doctor"]).success().stdout;
    assert!(
        text.lines().any(|line| line.starts_with("ok") && line.contains("base model")),
        "{text}"
    );
}

#[test]
fn doctor_says_what_is_wrong_and_what_to_do() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let program = Program::new()
        .with("NYX__HTTP__PORT", &port)
        .with("NYX__POOL__REPLICAS", r#"[["cuda:99"]]"#)
        .with("NYX__PHOEBE__URL", "postgres://nyx@127.0.0.1:1/nyx")
        .with("NYX__DATA_DIR", "/proc/nyx")
        .with("NYX_MODELS", "/no/such/models");
    let ran = program.run(&["doctor", "--json"]);
    assert!(ran.refusal().contains("checks failed"), "{ran:?}");
    let report: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(report["ok"], false);
    for (name, reply) in [
        ("base model", "nyx fetch"),
        ("device", "pool.replicas"),
        ("data folder", "data_dir"),
        ("database", "phoebe.url"),
    ] {
        let check = check(&report, name);
        assert_eq!(check["status"], "error", "{check}");
        assert!(check["advice"].as_str().unwrap().contains(reply), "{check}");
    }
    assert_eq!(check(&report, "port")["status"], "warning");
    if !cfg!(feature = "cuda") {
        assert!(
            check(&report, "device")["advice"].as_str().unwrap().contains("--features cuda"),
            "{report}"
        );
        assert_eq!(check(&report, "gpu")["found"], "built without CUDA");
    }
}

#[test]
fn a_specialist_is_added_by_adding_a_file() {
    let program = Program::new();
    let eleos = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/config/specialists/eleos.toml"
    ))
    .unwrap();
    write(
        &program.data_dir().join("specialists/hestia.toml"),
        eleos.replace("\"eleos\"", "\"hestia\""),
    );
    let chosen = program.run(&["ask", "Hello?", "--json", "--max-tokens", "4"]).json();
    assert_eq!(chosen["decision"]["scores"].as_object().unwrap().len(), 7, "{chosen}");
    let named = program
        .run(&["ask", "Hello?", "--json", "--max-tokens", "4", "--specialist", "hestia"])
        .json();
    assert_eq!(named["specialist"], "hestia");
}

#[test]
fn the_binary_needs_nothing_of_the_tree_it_was_built_in() {
    let program = Program::new();
    let copy = program.dir.path().join("nyx");
    std::fs::copy(env!("CARGO_BIN_EXE_nyx"), &copy).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(&copy);
    command
        .env_clear()
        .env("NYX_MODELS", models())
        .env("HOME", elsewhere.path())
        .current_dir(elsewhere.path());
    let output = command
        .args(["ask", "Hello?", "--specialist", "base", "--max-tokens", "2", "--json"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(elsewhere.path().join(".local/share/nyx").is_dir());
}
