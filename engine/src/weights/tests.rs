//! Generated files: the same model in every block type, Llama 3 as GGUF, and invalid files.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;

use candle_core::quantized::gguf_file::Value;
use tempfile::TempDir;

use super::*;
use crate::lora::{AdapterHandle, LoraAdapter};
use crate::model::{Llama, LogitRows, Segment};
use crate::testing::reference;

type Tensors = BTreeMap<String, QTensor>;
type Metadata = BTreeMap<&'static str, Value>;

fn write_gguf(path: &Path, metadata: &Metadata, tensors: &Tensors) {
    let metadata: Vec<_> = metadata.iter().map(|(&key, value)| (key, value)).collect();
    let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    gguf_file::write(&mut File::create(path).unwrap(), &metadata, &tensors).unwrap();
}

/// Row length that is a multiple of 256, as K-quants need.
const HIDDEN: usize = 256;
const VOCABULARY: usize = 32;

fn metadata() -> Metadata {
    let number = |value: u32| Value::U32(value);
    BTreeMap::from([
        ("general.architecture", Value::String("llama".into())),
        ("llama.embedding_length", number(HIDDEN as u32)),
        ("llama.feed_forward_length", number(512)),
        ("llama.block_count", number(1)),
        ("llama.attention.head_count", number(4)),
        ("llama.attention.head_count_kv", number(2)),
        ("llama.context_length", number(64)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
    ])
}

/// A small Llama of random weights, matrices and vectors separate.
fn random() -> (HashMap<String, Tensor>, HashMap<String, Tensor>) {
    let matrix =
        |out: usize, row: usize| Tensor::randn(0_f32, 0.08, (out, row), &Device::Cpu).unwrap();
    let block = |part: &str| format!("blk.0.{part}.weight");
    let matrices = [
        ("token_embd.weight".to_owned(), matrix(VOCABULARY, HIDDEN)),
        ("output.weight".to_owned(), matrix(VOCABULARY, HIDDEN)),
        (block("attn_q"), matrix(256, HIDDEN)),
        (block("attn_k"), matrix(128, HIDDEN)),
        (block("attn_v"), matrix(128, HIDDEN)),
        (block("attn_output"), matrix(HIDDEN, 256)),
        (block("ffn_gate"), matrix(512, HIDDEN)),
        (block("ffn_up"), matrix(512, HIDDEN)),
        (block("ffn_down"), matrix(HIDDEN, 512)),
    ];
    let norms = [block("attn_norm"), block("ffn_norm"), "output_norm.weight".into()];
    let ones = Tensor::ones(HIDDEN, DType::F32, &Device::Cpu).unwrap();
    (HashMap::from(matrices), norms.into_iter().map(|name| (name, ones.clone())).collect())
}

fn quantised(dense: &HashMap<String, Tensor>, dtype: GgmlDType) -> Tensors {
    dense
        .iter()
        .map(|(name, tensor)| (name.clone(), QTensor::quantize(tensor, dtype).unwrap()))
        .collect()
}

const TOKENS: [u32; 12] = [1, 5, 9, 31, 0, 7, 7, 2, 30, 11, 4, 3];

/// Logits of all of [`TOKENS`], in one pass (long: dequantised) or token by token (short: quantised
/// products).
fn logits(path: &Path, one_by_one: bool) -> Vec<f32> {
    let files = ModelFiles::open(path).unwrap();
    let model = Llama::load(&files, Quantisation::None, &Device::Cpu).unwrap();
    let mut kv = model.new_cache();
    TOKENS
        .chunks(if one_by_one { 1 } else { TOKENS.len() })
        .flat_map(|tokens| {
            let mut batch =
                [Segment { tokens, kv: &mut kv, adapter: None, logits: LogitRows::All }];
            model.forward(&mut batch).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
        })
        .collect()
}

fn relative_difference(found: &[f32], expected: &[f32]) -> f32 {
    let norm = |values: &mut dyn Iterator<Item = f32>| {
        values.map(|value| value * value).sum::<f32>().sqrt()
    };
    norm(&mut found.iter().zip(expected).map(|(a, b)| a - b)) / norm(&mut expected.iter().copied())
}

#[test]
fn every_block_type_of_a_gguf_is_read_as_what_it_stands_for() {
    let folder = tempfile::tempdir().unwrap();
    let (matrices, norms) = random();
    let types = [
        // exact but for the order of summation; the rest quantises activations to 8 bits for short
        // runs
        (GgmlDType::F32, 1e-5),
        (GgmlDType::F16, 1e-5),
        (GgmlDType::BF16, 1e-5),
        (GgmlDType::Q8_0, 0.03),
        (GgmlDType::Q4_0, 0.03),
        (GgmlDType::Q4_1, 0.03),
        (GgmlDType::Q5_0, 0.03),
        (GgmlDType::Q5_1, 0.03),
        (GgmlDType::Q2K, 0.03),
        (GgmlDType::Q3K, 0.03),
        (GgmlDType::Q4K, 0.03),
        (GgmlDType::Q5K, 0.03),
        (GgmlDType::Q6K, 0.03),
    ];
    for (dtype, allowed) in types {
        let held = quantised(&matrices, dtype);
        let plain: HashMap<String, Tensor> = held
            .iter()
            .map(|(name, tensor)| (name.clone(), tensor.dequantize(&Device::Cpu).unwrap()))
            .collect();
        let path = |kind: &str| folder.path().join(format!("{dtype:?}-{kind}.gguf"));
        let with_norms = |tensors: Tensors| {
            tensors.into_iter().chain(quantised(&norms, GgmlDType::F32)).collect::<Tensors>()
        };
        write_gguf(&path("held"), &metadata(), &with_norms(held));
        write_gguf(&path("plain"), &metadata(), &with_norms(quantised(&plain, GgmlDType::F32)));
        let info = ModelFiles::open(&path("held")).unwrap().info().clone();
        assert!(info.tensors.contains(&format!("{dtype:?} x ")), "{}", info.tensors);
        for one_by_one in [false, true] {
            let difference = relative_difference(
                &logits(&path("held"), one_by_one),
                &logits(&path("plain"), one_by_one),
            );
            assert!(
                difference < allowed,
                "{dtype:?}, one by one: {one_by_one}: logits differ by {difference}"
            );
        }
    }
}

#[test]
fn dense_weights_are_quantised_at_load_where_their_rows_allow() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dense.gguf");
    let (matrices, norms) = random();
    write_gguf(
        &path,
        &metadata(),
        &quantised(&matrices, GgmlDType::F32)
            .into_iter()
            .chain(quantised(&norms, GgmlDType::F32))
            .collect(),
    );
    let files = ModelFiles::open(&path).unwrap();
    for (quantisation, dtype) in
        [(Quantisation::Q8_0, GgmlDType::Q8_0), (Quantisation::Q4K, GgmlDType::Q4K)]
    {
        let mut reader = files.reader().unwrap();
        let held = reader
            .matrix(
                "model.layers.0.mlp.down_proj.weight",
                [HIDDEN, 512],
                quantisation,
                &Device::Cpu,
            )
            .unwrap();
        let Matrix::Quantised(held) = held else { panic!("{quantisation:?} left it dense") };
        assert_eq!(held.dtype(), dtype);
        let kept =
            held.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let given =
            matrices["blk.0.ffn_down.weight"].flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let difference = relative_difference(&kept, &given);
        assert!(
            difference > 0.0 && difference < 0.1,
            "{quantisation:?}: weights differ by {difference}"
        );
    }
    // rows of 64 cannot be q4_k
    let tiny = ModelFiles::open(&reference("tiny-llama3")).unwrap();
    let held = tiny
        .reader()
        .unwrap()
        .matrix("model.layers.0.mlp.gate_proj.weight", [96, 64], Quantisation::Q4K, &Device::Cpu)
        .unwrap();
    assert!(matches!(held, Matrix::Quantised(held) if held.dtype() == GgmlDType::Q8_0));
}

/// The reference's Llama 3 as a GGUF: names, row order of q and k, and RoPE factors as llama.cpp's
/// converter writes them.
fn llama3_as_gguf(path: &Path) {
    let folder = reference("tiny-llama3");
    let config = ModelFiles::open(&folder).unwrap().config().clone();
    let mut tensors = Tensors::new();
    for shard in ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] {
        for (name, tensor) in
            candle_core::safetensors::load(folder.join(shard), &Device::Cpu).unwrap()
        {
            let heads = match name.rsplit('.').nth(1) {
                Some("q_proj") => config.heads,
                Some("k_proj") => config.kv_heads,
                _ => 0,
            };
            let mut tensor = tensor.to_dtype(DType::F32).unwrap();
            if heads > 0 {
                let (out, row) = tensor.dims2().unwrap();
                let halves = tensor.reshape((heads, 2, out / heads / 2, row)).unwrap();
                tensor = halves
                    .transpose(1, 2)
                    .unwrap()
                    .contiguous()
                    .unwrap()
                    .reshape((out, row))
                    .unwrap();
            }
            tensors.insert(
                gguf::gguf_name(&name),
                QTensor::quantize(&tensor, GgmlDType::F32).unwrap(),
            );
        }
    }
    let scaled = config.rope.inverse_frequencies(config.head_dim, None);
    let plain = crate::model::Rope { scaling: None, ..config.rope.clone() }
        .inverse_frequencies(config.head_dim, None);
    let factors: Vec<f32> =
        plain.iter().zip(&scaled).map(|(plain, scaled)| plain / scaled).collect();
    let factors = Tensor::new(factors.as_slice(), &Device::Cpu).unwrap();
    tensors
        .insert("rope_freqs.weight".into(), QTensor::quantize(&factors, GgmlDType::F32).unwrap());
    let number = |value: usize| Value::U32(value as u32);
    let metadata = BTreeMap::from([
        ("general.architecture", Value::String("llama".into())),
        ("llama.embedding_length", number(config.hidden)),
        ("llama.feed_forward_length", number(config.intermediate)),
        ("llama.block_count", number(config.layers)),
        ("llama.attention.head_count", number(config.heads)),
        ("llama.attention.head_count_kv", number(config.kv_heads)),
        ("llama.context_length", number(config.context_length)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(config.norm_eps)),
        ("llama.rope.freq_base", Value::F32(config.rope.theta)),
    ]);
    write_gguf(path, &metadata, &tensors);
}

#[derive(serde::Deserialize)]
struct Expected {
    tokens: Vec<u32>,
    logits: BTreeMap<String, Vec<f32>>,
}

#[test]
fn llama3_and_its_adapters_agree_with_transformers_and_peft_from_a_gguf_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    llama3_as_gguf(&path);
    let adapters = reference("tiny-llama3");
    let expected: Expected = read_json(&adapters.join("logits.json")).unwrap();
    let files = ModelFiles::open(&path).unwrap();
    assert!(files.config().rope.interleaved && !files.config().tied);
    let model = Llama::load(&files, Quantisation::None, &Device::Cpu).unwrap();
    for name in ["base", "lora", "rslora"] {
        let load = || {
            LoraAdapter::load(&adapters.join(name), name, model.config(), "", &Device::Cpu).unwrap()
        };
        let adapter = (name != "base").then(|| AdapterHandle(Arc::new(load())));
        let mut kv = model.new_cache();
        let mut batch =
            [Segment { tokens: &expected.tokens, kv: &mut kv, adapter, logits: LogitRows::All }];
        let found: Vec<f32> =
            model.forward(&mut batch).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let difference = found
            .iter()
            .zip(&expected.logits[name])
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(
            found.len() == expected.logits[name].len() && difference < 1e-4,
            "{name}: logits differ by {difference}"
        );
    }
}

/// The error of loading a small GGUF after `change`.
fn refusal(folder: &TempDir, change: impl FnOnce(&mut Metadata, &mut Tensors)) -> String {
    let (matrices, norms) = random();
    let mut tensors: Tensors = quantised(&matrices, GgmlDType::Q8_0)
        .into_iter()
        .chain(quantised(&norms, GgmlDType::F32))
        .collect();
    let mut metadata = metadata();
    change(&mut metadata, &mut tensors);
    let path = folder.path().join("bad.gguf");
    write_gguf(&path, &metadata, &tensors);
    let loaded = ModelFiles::open(&path)
        .and_then(|files| Llama::load(&files, Quantisation::None, &Device::Cpu));
    loaded.expect_err("it was refused").to_string()
}

#[test]
fn a_gguf_that_is_not_as_it_should_be_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let set = |key: &'static str, value: Value| {
        move |metadata: &mut Metadata, _: &mut Tensors| drop(metadata.insert(key, value))
    };
    let says = |error: String, parts: &[&str]| {
        parts.iter().for_each(|part| assert!(error.contains(part), "no {part:?} in {error:?}"))
    };
    says(
        refusal(&folder, set("general.architecture", Value::String("gpt2".into()))),
        &["gpt2", "llama"],
    );
    says(
        refusal(&folder, set("llama.attention.head_count", Value::U32(0))),
        &["bad.gguf", "head count is 0"],
    );
    says(
        refusal(&folder, set("llama.attention.head_count_kv", Value::U32(3))),
        &["4 heads", "3 key-value heads"],
    );
    says(
        refusal(&folder, set("llama.block_count", Value::U32(2))),
        &["no tensor", "blk.1.attn_q.weight"],
    );
    says(
        refusal(&folder, set("llama.feed_forward_length", Value::U32(256))),
        &["gate_proj", "[512, 256]", "[256, 256]"],
    );
    for key in
        ["general.architecture", "llama.embedding_length", "llama.attention.layer_norm_rms_epsilon"]
    {
        says(refusal(&folder, |metadata, _| drop(metadata.remove(key))), &["bad.gguf", key]);
    }
    for tensor in ["token_embd.weight", "blk.0.ffn_down.weight", "output_norm.weight"] {
        says(refusal(&folder, |_, tensors| drop(tensors.remove(tensor))), &["no tensor", tensor]);
    }
}

#[test]
fn a_folder_that_is_not_as_it_should_be_is_refused_by_name() {
    let source = reference("tiny-llama3");
    let copy = || {
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(&source)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.is_file())
        {
            std::fs::copy(&entry, folder.path().join(entry.file_name().unwrap())).unwrap();
        }
        folder
    };
    let refusal = |folder: &TempDir| {
        let loaded = ModelFiles::open(folder.path())
            .and_then(|files| Llama::load(&files, Quantisation::None, &Device::Cpu));
        loaded.expect_err("it was refused").to_string()
    };
    let config = |key: &str, value: serde_json::Value| {
        let folder = copy();
        let path = folder.path().join("config.json");
        let mut config: serde_json::Value = read_json(&path).unwrap();
        config[key] = value;
        std::fs::write(path, config.to_string()).unwrap();
        refusal(&folder)
    };
    for (error, parts) in [
        (config("model_type", "mistral".into()), ["mistral", "llama"]),
        (config("attention_bias", true.into()), ["config.json", "attention_bias"]),
        (config("rope_parameters", serde_json::json!({"rope_type": "yarn"})), ["yarn", "llama3"]),
        (config("num_hidden_layers", 3.into()), ["no tensor", "layers.2"]),
        (config("intermediate_size", 128.into()), ["[96, 64]", "[128, 64]"]),
        (config("hidden_size", "wide".into()), ["config.json", "wide"]),
    ] {
        parts.iter().for_each(|part| assert!(error.contains(part), "no {part:?} in {error:?}"));
    }
    let shardless = copy();
    std::fs::remove_file(shardless.path().join("model-00002-of-00002.safetensors")).unwrap();
    assert!(refusal(&shardless).contains("model-00002-of-00002.safetensors"));
    let outside = copy();
    let index = r#"{"weight_map": {"lm_head.weight": "../model-00001-of-00002.safetensors"}}"#;
    std::fs::write(outside.path().join("model.safetensors.index.json"), index).unwrap();
    assert!(refusal(&outside).contains("outside the folder"));
}
