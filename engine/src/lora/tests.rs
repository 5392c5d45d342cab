//! Invalid adapters are rejected with an error that names the cause. That valid ones compute as
//! PEFT does is tested with the model.

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::testing::reference;
use crate::weights::ModelFiles;
use crate::{EngineError, Result};

const BASE: &str = "the digest of the base";

struct Folder {
    dir: TempDir,
    config: Value,
    tensors: HashMap<String, Tensor>,
}

/// The reference adapter, modified by the tests.
fn adapter() -> Folder {
    let from = reference("tiny-llama3/lora");
    let config =
        serde_json::from_slice(&std::fs::read(from.join("adapter_config.json")).unwrap()).unwrap();
    let tensors =
        candle_core::safetensors::load(from.join("adapter_model.safetensors"), &Device::Cpu)
            .unwrap();
    Folder { dir: tempfile::tempdir().unwrap(), config, tensors }
}

impl Folder {
    fn weights(&self) -> PathBuf {
        self.dir.path().join("adapter_model.safetensors")
    }

    fn write(&self) {
        std::fs::write(self.dir.path().join("adapter_config.json"), self.config.to_string())
            .unwrap();
        candle_core::safetensors::save(&self.tensors, self.weights()).unwrap();
    }

    fn load(&self) -> Result<LoraAdapter> {
        let model = ModelFiles::open(&reference("tiny-llama3")).unwrap().config().clone();
        LoraAdapter::load(self.dir.path(), "test", &model, BASE, &Device::Cpu)
    }

    fn refusal(&self) -> String {
        let error = self.load().expect_err("it was refused");
        assert!(
            matches!(
                error,
                EngineError::BadAdapter { .. }
                    | EngineError::BadSafetensors { .. }
                    | EngineError::Io { .. }
            ),
            "{error:?}"
        );
        let message = error.to_string();
        assert!(
            message.contains(&self.dir.path().display().to_string()),
            "the folder is not named: {message}"
        );
        message
    }
}

const Q_A: &str = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";

fn zeros(rows: usize, columns: usize) -> Tensor {
    Tensor::zeros((rows, columns), DType::F32, &Device::Cpu).unwrap()
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    type Change = fn(&mut Folder);
    let cases: [(Change, &[&str]); 8] = [
        (
            |folder| drop(folder.tensors.insert(Q_A.into(), zeros(4, 63))),
            &[Q_A, "[4, 63]", "[4, 64]"],
        ),
        (
            |folder| drop(folder.tensors.insert(Q_A.into(), zeros(8, 64))),
            &[Q_A, "[8, 64]", "[4, 64]"],
        ),
        (|folder| drop(folder.tensors.remove(Q_A)), &["layer 0 self_attn.q_proj", "missing"]),
        (
            |folder| drop(folder.tensors.insert(Q_A.replace("q_proj", "embed"), zeros(4, 64))),
            &["self_attn.embed", "no linear layer"],
        ),
        (
            |folder| drop(folder.tensors.insert(Q_A.replace("layers.0", "layers.7"), zeros(4, 64))),
            &["layer 7", "has 2"],
        ),
        (|folder| folder.tensors.clear(), &["no LoRA tensors"]),
        (
            |folder| drop(folder.tensors.insert(Q_A.into(), (zeros(4, 64) + f64::NAN).unwrap())),
            &[Q_A, "not finite"],
        ),
        (
            |folder| {
                drop(folder.tensors.insert(Q_A.into(), (zeros(4, 64) + f64::INFINITY).unwrap()))
            },
            &[Q_A, "not finite"],
        ),
    ];
    for (change, parts) in cases {
        let mut folder = adapter();
        change(&mut folder);
        folder.write();
        let message = folder.refusal();
        parts.iter().for_each(|part| assert!(message.contains(part), "no {part:?} in {message:?}"));
    }
}

#[test]
fn configurations_that_cannot_be_served_are_named() {
    for (key, value, says) in [
        ("peft_type", json!("IA3"), "IA3"),
        ("r", json!(0), "r is 0"),
        ("r", json!("four"), "four"),
        ("bias", json!("all"), "all"),
        ("use_dora", json!(true), "use_dora"),
        ("modules_to_save", json!(["lm_head"]), "modules_to_save"),
        ("rank_pattern", json!({"q_proj": 8}), "rank_pattern"),
    ] {
        let mut folder = adapter();
        folder.config[key] = value;
        folder.write();
        assert!(folder.refusal().contains(says));
    }
    let mut other = adapter();
    other.config["base_sha256"] = json!("another base");
    other.write();
    let error = other.load().unwrap_err();
    assert!(
        matches!(&error, EngineError::AdapterBaseMismatch { trained_on, .. } if trained_on == "another base"),
        "{error:?}"
    );
}

#[test]
fn damaged_files_are_named() {
    let folder = adapter();
    assert!(folder.refusal().contains("adapter_config.json"));
    folder.write();
    let whole = std::fs::read(folder.weights()).unwrap();
    for length in [0, 4, 100, whole.len() - 1] {
        std::fs::write(folder.weights(), &whole[..length]).unwrap();
        assert!(folder.refusal().contains("adapter_model.safetensors"), "cut at {length}");
    }
    std::fs::remove_file(folder.weights()).unwrap();
    assert!(folder.refusal().contains("adapter_model.safetensors"));
}

#[test]
fn an_adapter_of_some_modules_only_is_served_and_its_id_is_its_content() {
    let mut folder = adapter();
    folder.write();
    let whole = folder.load().unwrap();
    folder.tensors.retain(|name, _| name.contains("q_proj") || name.contains("down_proj"));
    folder.write();
    let part = folder.load().unwrap();
    assert!(
        part.delta(0, 0, Target::Q).is_some()
            && part.delta(0, 1, Target::Down).is_some()
            && part.delta(0, 0, Target::V).is_none()
    );
    assert!(part.bytes() < whole.bytes() && part.id() != whole.id());
    assert_eq!(folder.load().unwrap().id(), part.id());
}
