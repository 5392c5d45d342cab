//! Adapters promoted, rolled back, restored and found damaged, while the program serves.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::adapters::random_adapter;
use crate::program::{Program, Serving, write};

const PATIENCE: Duration = Duration::from_secs(60);
/// Short questions, so that many fit into a test.
const QUESTIONS: [&str; 4] =
    ["Rivers?", "Name a colour.", "What is a boat?", "Say something kind."];

/// A specialist without evidence, with a short prompt.
fn hestia(program: &Program) {
    let eleos = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/config/specialists/eleos.toml"
    ))
    .unwrap();
    write(
        &program.data_dir().join("specialists/hestia.toml"),
        eleos.replace("name = \"eleos\"", "name = \"hestia\""),
    );
}

/// Imports random adapters with the command line and returns their ids.
fn import(program: &Program, seeds: std::ops::Range<u32>) -> Vec<String> {
    let keep = |seed| {
        let folder = program.dir.path().join(format!("lora-{seed}"));
        random_adapter(&folder, 576, seed);
        let ran = program
            .run(&["adapters", "import", "hestia", folder.to_str().unwrap(), "--json"])
            .json();
        ran["id"].as_str().unwrap().to_owned()
    };
    seeds.map(keep).collect()
}

fn promote(serving: &Serving, id: &str) -> Value {
    let (status, made) =
        serving.post(&format!("/admin/adapters/{id}/promote"), &json!({"reason": "a test"}));
    assert_eq!(status, 200, "{made}");
    made
}

/// Returns the answer and the adapter that was active for it.
fn ask(serving: &Serving, question: &str) -> (Value, Value) {
    let body = json!({"model": "nyx/hestia", "messages": [{"role": "user", "content": question}], "temperature": 0, "max_tokens": 6,
        "logprobs": true});
    let (status, answer) = serving.post("/v1/chat/completions", &body);
    assert_eq!(status, 200, "{answer}");
    (answer["choices"].clone(), answer["nyx"]["adapter"].clone())
}

/// Waits until the specialist's actor reports this adapter.
fn until_live(serving: &Serving, id: Option<&str>) {
    let deadline = Instant::now() + PATIENCE;
    while serving.get("/admin/actors/hestia").1["adapter"] != json!(id) {
        assert!(
            Instant::now() < deadline,
            "{id:?} is not live: {}",
            serving.get("/admin/adapters").1
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Sends `requests` requests from concurrent clients during `swaps` promotions; each answer must
/// equal, to the last bit of its log-probabilities, the answer of its generation to the same
/// request alone.
fn through_swaps(groups: &str, requests: usize, swaps: usize) {
    let program =
        Program::new().with("NYX__POOL__REPLICAS", groups).with("NYX__POOL__MAX_BATCH", "8");
    hestia(&program);
    let ids = import(&program, 1..4);
    let serving = program.serve();
    let mut alone: BTreeMap<(String, &str), Value> = BTreeMap::new();
    let mut generations: BTreeMap<u64, String> = BTreeMap::new();
    let mut note = |made: &Value| {
        generations.insert(
            made["generation"].as_u64().unwrap(),
            made["adapter"].as_str().unwrap().to_owned(),
        );
    };
    for id in &ids {
        note(&promote(&serving, id));
        for question in QUESTIONS {
            let (said, who) = ask(&serving, question);
            assert_eq!(who["id"], json!(id));
            alone.insert((id.clone(), question), said);
        }
    }
    assert_ne!(
        alone[&(ids[0].clone(), QUESTIONS[0])],
        alone[&(ids[1].clone(), QUESTIONS[0])],
        "adapters change nothing"
    );
    let (next, done, swapped, ended) =
        (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let answers = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..12)
            .map(|_| {
                scope.spawn(|| {
                    let mut answers = Vec::new();
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        if index >= requests {
                            return answers;
                        }
                        // at most one swap ahead: during a swap, requests continue and begin
                        while index * swaps / requests > swapped.load(Ordering::Relaxed) + 1
                            && !ended.load(Ordering::Relaxed)
                        {
                            std::thread::sleep(Duration::from_millis(1));
                        }
                        let question = QUESTIONS[index % QUESTIONS.len()];
                        let (said, who) = ask(&serving, question);
                        done.fetch_add(1, Ordering::Relaxed);
                        answers.push((question, said, who));
                    }
                })
            })
            .collect();
        for swap in 1..=swaps {
            // distributed evenly over the requests
            while done.load(Ordering::Relaxed) * (swaps + 1) < swap * requests
                && !ended.load(Ordering::Relaxed)
            {
                std::thread::sleep(Duration::from_millis(2));
                ended.store(
                    callers.iter().any(std::thread::ScopedJoinHandle::is_finished),
                    Ordering::Relaxed,
                );
            }
            note(&promote(&serving, &ids[swap % ids.len()]));
            swapped.store(swap, Ordering::Relaxed);
        }
        callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(answers.len(), requests);
    let mut spoke = std::collections::BTreeSet::new();
    for (question, said, who) in answers {
        let (id, generation) =
            (who["id"].as_str().unwrap().to_owned(), who["generation"].as_u64().unwrap());
        assert_eq!(generations[&generation], id, "generation {generation}");
        assert_eq!(said, alone[&(id, question)], "{question} in generation {generation}");
        spoke.insert(generation);
    }
    assert!(spoke.len() > swaps / 2, "only generations {spoke:?} spoke");
}

#[test]
fn two_hundred_requests_go_through_twenty_swaps_of_a_replica_of_two_cores_and_none_mixes_generations()
 {
    if std::thread::available_parallelism().unwrap().get() < 2 {
        return println!("skipped: one core");
    }
    through_swaps(r#"[["cpu:0","cpu:1"]]"#, 200, 20);
}

#[test]
fn swaps_reach_every_group() {
    if std::thread::available_parallelism().unwrap().get() < 2 {
        return println!("skipped: one core");
    }
    through_swaps(r#"[["cpu:0"],["cpu:1"]]"#, 60, 6);
}

/// Changes a byte of an adapter's stored weights.
fn damage(program: &Program, id: &str) {
    let path = program.data_dir().join("adapters").join(id).join("adapter_model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(path, bytes).unwrap();
}

fn kinds(program: &Program, id: &str) -> Vec<String> {
    let shown = program.run(&["adapters", "show", id, "--json"]).json();
    shown["generations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|made| made["kind"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn a_generation_is_restored_after_a_crash_and_a_damaged_file_falls_back() {
    let program = Program::new()
        .with("NYX__ADAPTERS__POLL_MS", "50")
        .with("NYX__ADAPTERS__CHECK_EVERY_S", "1");
    hestia(&program);
    let ids = import(&program, 1..4);
    let serving = program.serve();
    for id in &ids {
        promote(&serving, id);
    }
    let (said, who) = ask(&serving, QUESTIONS[0]);
    assert_eq!((&who["id"], &who["generation"]), (&json!(ids[2]), &json!(3)));
    serving.kill();
    let serving = program.serve();
    assert_eq!(ask(&serving, QUESTIONS[0]), (said, who));
    damage(&program, &ids[2]);
    until_live(&serving, Some(&ids[1]));
    let (_, who) = ask(&serving, QUESTIONS[0]);
    assert_eq!((&who["id"], &who["generation"]), (&json!(ids[1]), &json!(4)));
    serving.kill();
    // damaged while no server runs
    damage(&program, &ids[1]);
    let serving = program.serve();
    until_live(&serving, Some(&ids[0]));
    let listed = serving.get("/admin/adapters").1;
    let statuses: Vec<&str> = listed["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|adapter| adapter["status"].as_str().unwrap())
        .collect();
    assert_eq!(statuses, ["live", "bad", "bad"], "{listed}");
    let (status, refused) =
        serving.post(&format!("/admin/adapters/{}/promote", ids[2]), &json!({}));
    assert_eq!(status, 409, "{refused}");
    assert_eq!(
        kinds(&program, &ids[0]),
        ["promoted", "promoted", "promoted", "rolled_back", "rolled_back"]
    );
}

#[test]
fn the_command_line_works_beside_a_server_and_without_one() {
    let program = Program::new().with("NYX__ADAPTERS__POLL_MS", "50");
    hestia(&program);
    let ids = import(&program, 1..3);
    let made = program.run(&["adapters", "promote", &ids[0], "--json"]).json();
    assert_eq!((&made["generation"], &made["adapter"]), (&json!(1), &json!(ids[0])));
    let serving = program.serve();
    until_live(&serving, Some(&ids[0]));
    let listed = program.run(&["adapters", "list"]).success().stdout;
    assert!(
        listed.lines().count() == 2
            && listed.contains("hestia: live (generation 1)")
            && listed.contains("candidate"),
        "{listed}"
    );
    // a short prefix is enough
    let ran =
        program.run(&["adapters", "promote", &ids[1][..10], "--reason", "it is better"]).success();
    assert!(
        ran.stdout.contains("generation 2")
            && ran.stdout.contains("by hand")
            && ran.stdout.contains("it is better"),
        "{ran:?}"
    );
    until_live(&serving, Some(&ids[1]));
    for expected in [Some(ids[0].as_str()), None] {
        program.run(&["adapters", "rollback", "hestia"]).success();
        until_live(&serving, expected);
    }
    assert!(program.run(&["adapters", "rollback", "hestia"]).refusal().contains("base"));
    assert!(program.run(&["adapters", "show", "zeus"]).refusal().contains("zeus"));
    assert!(program.run(&["adapters", "rollback", "zeus"]).refusal().contains("hestia"));
    let out = program.dir.path().join("out");
    program.run(&["adapters", "export", &ids[0], out.to_str().unwrap()]).success();
    let same = |name: &str, folder: &Path| {
        std::fs::read(out.join(name)).unwrap() == std::fs::read(folder.join(name)).unwrap()
    };
    let given = program.dir.path().join("lora-1");
    assert!(same("adapter_config.json", &given) && same("adapter_model.safetensors", &given));
    let (_, who) = ask(&serving, QUESTIONS[0]);
    assert!(who.is_null(), "{who}");
}
