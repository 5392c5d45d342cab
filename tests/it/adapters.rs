//! A specialist with its own LoRA adapter on the quantised default model.

use std::path::Path;

use serde_json::{Value, json};

use crate::program::{Program, write};

/// Writes a PEFT folder of rank 2 for one layer's `q_proj` and `down_proj`; `columns` is `q_proj`'s
/// input size, 576 if valid.
fn adapter(folder: &Path, columns: usize) {
    random_adapter(folder, columns, 1);
}

/// The same with pseudo-random weights from `seed`.
pub fn random_adapter(folder: &Path, columns: usize, seed: u32) {
    let config = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 16, "target_modules": ["q_proj", "down_proj"], "bias": "none"});
    write(&folder.join("adapter_config.json"), config.to_string());
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    let mut state = seed;
    for (module, out, row) in [("self_attn.q_proj", 576, columns), ("mlp.down_proj", 576, 1536)] {
        for (matrix, shape) in [("lora_A", [2, row]), ("lora_B", [out, 2])] {
            let begin = data.len();
            for _ in 0..shape[0] * shape[1] {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                data.extend(((state >> 8) as f32 / (1 << 24) as f32 * 0.2 - 0.1).to_le_bytes());
            }
            let name = format!("base_model.model.model.layers.3.{module}.{matrix}.weight");
            header.insert(
                name,
                json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, data.len()]}),
            );
        }
    }
    let header = Value::Object(header).to_string();
    write(
        &folder.join("adapter_model.safetensors"),
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat(),
    );
}

/// A copy of Eleos with an adapter.
fn hestia(program: &Program, folder: &Path) {
    let eleos = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/config/specialists/eleos.toml"
    ))
    .unwrap();
    let twin = eleos.replace(
        "name = \"eleos\"",
        &format!("name = \"hestia\"\nadapter = {:?}", folder.display().to_string()),
    );
    assert!(twin.contains("adapter"));
    write(&program.data_dir().join("specialists/hestia.toml"), twin);
}

#[test]
fn a_specialist_uses_its_adapter_and_the_others_do_not() {
    let program = Program::new();
    let folder = program.dir.path().join("lora");
    adapter(&folder, 576);
    hestia(&program, &folder);
    let serving = program.serve();
    let (_, actor) = serving.get("/admin/actors/hestia");
    let id = actor["adapter"].as_str().unwrap();
    assert_eq!(id.len(), 64, "{actor}");
    let ask = |name: &str| {
        let body = json!({"model": format!("nyx/{name}"), "messages": [{"role": "user", "content": "Tell me about rivers."}], "temperature": 0,
            "max_tokens": 12, "logprobs": true});
        let (status, answer) = serving.post("/v1/chat/completions", &body);
        assert_eq!(status, 200, "{answer}");
        answer
    };
    // concurrent, so that both are in one batch
    let (with, without) = std::thread::scope(|scope| {
        let with = scope.spawn(|| ask("hestia"));
        let without = ask("eleos");
        (with.join().unwrap(), without)
    });
    assert_eq!(
        (&with["nyx"]["adapter"]["id"], &with["nyx"]["adapter"]["generation"]),
        (&json!(id), &json!(1)),
        "{with}"
    );
    assert!(without["nyx"]["adapter"].is_null(), "{without}");
    let logprob = |answer: &Value| {
        answer["choices"][0]["logprobs"]["content"][0]["logprob"].as_f64().unwrap()
    };
    assert_ne!(logprob(&with), logprob(&without), "the adapter changes nothing");
    assert_eq!(
        (ask("hestia")["choices"].clone(), ask("eleos")["choices"].clone()),
        (with["choices"].clone(), without["choices"].clone())
    );
    let decision =
        serving.get(&format!("/v1/decisions/{}", with["nyx"]["decision_id"].as_str().unwrap())).1;
    assert_eq!(decision["adapter"]["id"], json!(id), "{decision}");
}

#[test]
fn an_adapter_that_does_not_fit_is_refused_at_the_start_by_name() {
    let program = Program::new();
    let folder = program.dir.path().join("lora");
    adapter(&folder, 575);
    hestia(&program, &folder);
    let ran = program.run(&["ask", "Hello?", "--specialist", "hestia"]);
    let error = ran.refusal();
    for reply in [folder.to_str().unwrap(), "q_proj.lora_A", "[2, 575]", "[2, 576]"] {
        assert!(error.contains(reply), "{error}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
    let ran = program.run(&["ask", "Hello?", "--specialist", "hestia"]);
    assert!(ran.refusal().contains("adapter_config.json"), "{ran:?}");
}

#[test]
fn a_replica_of_two_cores_gives_the_bits_of_one_device_and_each_core_has_its_actor() {
    let answers = |groups: &str| {
        let program = Program::new().with("NYX__POOL__REPLICAS", groups);
        let folder = program.dir.path().join("lora");
        adapter(&folder, 576);
        hestia(&program, &folder);
        let serving = program.serve();
        let actors = serving.get("/admin/actors").1;
        let devices: Vec<String> = actors["data"]
            .as_array()
            .unwrap_or_else(|| panic!("{actors}"))
            .iter()
            .filter(|actor| actor["kind"] == "gpu_worker" && actor["state"] == "running")
            .map(|actor| actor["device"].as_str().unwrap().to_owned())
            .collect();
        let ask = |name: &str| {
            let body = json!({"model": format!("nyx/{name}"), "messages": [{"role": "user", "content": "Tell me about rivers."}],
                "temperature": 0, "max_tokens": 16, "logprobs": true});
            let (status, answer) = serving.post("/v1/chat/completions", &body);
            assert_eq!(status, 200, "{answer}");
            answer["choices"].clone()
        };
        let (with, without) = std::thread::scope(|scope| {
            let with = scope.spawn(|| ask("hestia"));
            let without = ask("eleos");
            (with.join().unwrap(), without)
        });
        (devices, with, without)
    };
    let (devices, with, without) = answers(r#"[["cpu"]]"#);
    assert_eq!(devices, ["cpu"]);
    // a machine with one core has no device for a second shard
    if std::thread::available_parallelism().unwrap().get() < 2 {
        return println!("skipped: one core");
    }
    let sharded = answers(r#"[["cpu:0","cpu:1"]]"#);
    assert_eq!(sharded, (vec!["cpu:0".into(), "cpu:1".into()], with, without));
}
