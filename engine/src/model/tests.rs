//! Tests against the outputs of transformers in tests/reference/.

use std::path::PathBuf;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use serde::Deserialize;

use super::*;
use crate::kv::KvCache;
use crate::lora::{LoraAdapter, Place};
use crate::model::body::Body;
use crate::testing::{default_model, reference};
use crate::{AdapterHandle, AdapterPrecision, ModelFiles, Quantisation};

#[derive(Deserialize)]
pub(super) struct GreedyRun {
    question: String,
    pub(super) prompt: Vec<u32>,
    pub(super) tokens: Vec<u32>,
    pub(super) margins: Vec<f32>,
}

/// Positions where the reference's two highest logits differ by less than this are not compared.
pub(super) const CLOSE: f32 = 0.3;

pub(super) fn runs(name: &str) -> Vec<GreedyRun> {
    let runs: Vec<GreedyRun> =
        serde_json::from_str(&std::fs::read_to_string(reference(name)).unwrap()).unwrap();
    assert_eq!(runs.len(), 5);
    runs
}

fn default_llama() -> Llama {
    Llama::load(&ModelFiles::open(&default_model()).unwrap(), Quantisation::None, &Device::Cpu)
        .unwrap()
}

/// The token with the highest logit after `tokens`, which follow the positions in `kv`.
fn next(model: &Llama, kv: &mut KvCache, tokens: &[u32]) -> u32 {
    let mut batch = [Segment { tokens, kv, adapter: None, logits: LogitRows::Last }];
    argmax(&model.forward(&mut batch).unwrap()).unwrap()[0]
}

/// Number of leading positions whose margin is at least [`CLOSE`].
fn clear(run: &GreedyRun) -> usize {
    run.margins.iter().position(|&margin| margin < CLOSE).unwrap_or(run.tokens.len())
}

#[test]
fn greedy_output_agrees_token_for_token_with_independent_implementations() {
    let model = default_llama();
    let mut agreed = 0;
    for run in runs("greedy.json").into_iter().chain(runs("greedy-clear.json")) {
        let clear = clear(&run);
        let mut kv = model.new_cache();
        let mut found = vec![next(&model, &mut kv, &run.prompt)];
        while found.len() < clear {
            let last = found[found.len() - 1];
            found.push(next(&model, &mut kv, &[last]));
        }
        assert_eq!(
            found[..clear],
            run.tokens[..clear],
            "{:?}: before the first close position",
            run.question
        );
        agreed += clear;
    }
    // five texts without a close position, and the beginnings of five answers
    assert!(agreed >= 5 * 64, "only {agreed} positions are compared");
}

#[test]
fn at_clear_places_the_best_token_is_that_of_transformers_in_one_pass_and_token_by_token() {
    let model = default_llama();
    let (mut places, mut whole, mut single) = (0, 0, 0);
    for run in runs("greedy.json") {
        // teacher-forced with the reference's tokens, so that all positions are comparable
        let tokens: Vec<u32> =
            run.prompt.iter().chain(&run.tokens[..run.tokens.len() - 1]).copied().collect();
        let mut kv = model.new_cache();
        let mut batch =
            [Segment { tokens: &tokens, kv: &mut kv, adapter: None, logits: LogitRows::All }];
        let logits = model.forward(&mut batch).unwrap();
        let in_one_pass =
            argmax(&logits.narrow(0, run.prompt.len() - 1, run.tokens.len()).unwrap()).unwrap();
        let mut kv = model.new_cache();
        let mut one_by_one = vec![next(&model, &mut kv, &run.prompt)];
        one_by_one.extend(
            run.tokens[..run.tokens.len() - 1].iter().map(|token| next(&model, &mut kv, &[*token])),
        );
        for at in (0..run.tokens.len()).filter(|at| run.margins[*at] >= CLOSE) {
            places += 1;
            whole += usize::from(in_one_pass[at] == run.tokens[at]);
            single += usize::from(one_by_one[at] == run.tokens[at]);
        }
    }
    println!("of {places} clear positions, {whole} agree in one pass, {single} token by token");
    // activations are rounded to int8, which may flip a margin slightly above CLOSE
    assert!(
        places > 200 && whole.min(single) * 100 >= places * 99,
        "{whole} and {single} of {places} clear positions agree"
    );
    assert_eq!(whole, single);
}

#[derive(Deserialize)]
pub(super) struct TinyReference {
    pub(super) tokens: Vec<u32>,
    /// Logits by adapter ("base", ...), `[tokens, vocabulary]`, flattened.
    pub(super) logits: std::collections::BTreeMap<String, Vec<f32>>,
}

pub(super) fn tiny() -> (PathBuf, TinyReference) {
    let folder = reference("tiny-llama3");
    let expected =
        serde_json::from_str(&std::fs::read_to_string(folder.join("logits.json")).unwrap())
            .unwrap();
    (folder, expected)
}

pub(super) fn largest_difference(found: &Tensor, expected: &[f32]) -> f32 {
    let found: Vec<f32> = found.flatten_all().unwrap().to_vec1().unwrap();
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn llama3_logits_agree_with_transformers() {
    let (folder, expected) = tiny();
    let model =
        Llama::load(&ModelFiles::open(&folder).unwrap(), Quantisation::None, &Device::Cpu).unwrap();
    let rope = &model.config().rope;
    assert!(
        rope.scaling.is_some()
            && !model.config().tied
            && model.config().kv_heads < model.config().heads
    );
    let mut kv = model.new_cache();
    let mut batch =
        [Segment { tokens: &expected.tokens, kv: &mut kv, adapter: None, logits: LogitRows::All }];
    let difference =
        largest_difference(&model.forward(&mut batch).unwrap(), &expected.logits["base"]);
    assert!(difference < 1e-4, "logits differ by {difference}");
    // without RoPE scaling the logits differ, so the reference covers it
    let mut unscaled =
        Llama::load(&ModelFiles::open(&folder).unwrap(), Quantisation::None, &Device::Cpu).unwrap();
    let Body::Cpu(body) = &mut unscaled.running.get_mut().unwrap().body else {
        panic!("not on the kernels")
    };
    body.inverse_frequencies =
        Rope { scaling: None, ..rope.clone() }.inverse_frequencies(model.config().head_dim, None);
    let mut kv = unscaled.new_cache();
    let mut batch =
        [Segment { tokens: &expected.tokens, kv: &mut kv, adapter: None, logits: LogitRows::All }];
    assert!(
        largest_difference(&unscaled.forward(&mut batch).unwrap(), &expected.logits["base"]) > 1e-3
    );
}

#[test]
fn adapters_agree_with_peft_alone_and_side_by_side_in_one_batch() {
    let (folder, expected) = tiny();
    let files = ModelFiles::open(&folder).unwrap();
    let model = Llama::load(&files, Quantisation::None, &Device::Cpu).unwrap();
    let load = |name: &str| {
        let adapter = LoraAdapter::load(
            &folder.join(name),
            name,
            model.config(),
            &files.info().sha256,
            &Device::Cpu,
        )
        .unwrap();
        Some(AdapterHandle(std::sync::Arc::new(adapter)))
    };
    let adapters = [("base", None), ("lora", load("lora")), ("rslora", load("rslora"))];
    let rows = expected.tokens.len();
    let mut caches: Vec<_> = adapters.iter().map(|_| model.new_cache()).collect();
    let mut batch: Vec<_> = caches
        .iter_mut()
        .zip(&adapters)
        .map(|(kv, (_, adapter))| Segment {
            tokens: &expected.tokens,
            kv,
            adapter: adapter.clone(),
            logits: LogitRows::All,
        })
        .collect();
    let together = model.forward(&mut batch).unwrap();
    for (index, (name, adapter)) in adapters.into_iter().enumerate() {
        let mut kv = model.new_cache();
        let mut batch =
            [Segment { tokens: &expected.tokens, kv: &mut kv, adapter, logits: LogitRows::All }];
        let alone = model.forward(&mut batch).unwrap();
        let beside = together.narrow(0, index * rows, rows).unwrap();
        let bits = |logits: &Tensor| {
            logits
                .flatten_all()
                .unwrap()
                .to_vec1::<f32>()
                .unwrap()
                .into_iter()
                .map(f32::to_bits)
                .collect::<Vec<_>>()
        };
        assert!(bits(&alone) == bits(&beside), "{name}: bits depend on the batch");
        for found in [alone, beside] {
            let difference = largest_difference(&found, &expected.logits[name]);
            assert!(difference < 1e-4, "{name}: logits differ by {difference}");
        }
    }
    let apart = expected.logits["base"]
        .iter()
        .zip(&expected.logits["lora"])
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(apart > 0.01, "the adapter has no effect: {apart}");
}

/// Error of int8 adapters relative to the adapter's effect on PEFT's logits. The adapter's matrices
/// and its inputs (two int8 terms) are quantised, and nothing else: the base is f32. The adapter is
/// loaded directly, because [`Llama::load_adapter`] does not quantise adapters of an f32 base.
#[test]
fn rounded_adapters_add_what_pefts_do_within_one_percent() {
    let (folder, expected) = tiny();
    let files = ModelFiles::open(&folder).unwrap();
    let model = Llama::load(&files, Quantisation::None, &Device::Cpu).unwrap();
    let square = |pairs: &mut dyn Iterator<Item = (&f32, &f32)>| {
        pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
    };
    for name in ["lora", "rslora"] {
        let place = Place {
            slice: Slice::new(model.config(), 0, 1).unwrap(),
            device: Device::Cpu,
            kernels: Some(AdapterPrecision::Int8),
        };
        let adapter = LoraAdapter::load_sharded(
            &folder.join(name),
            name,
            model.config(),
            &files.info().sha256,
            &[place],
        )
        .unwrap();
        let as_in_file = model
            .load_adapter(name, &folder.join(name), &files.info().sha256, AdapterPrecision::Int8)
            .unwrap();
        assert!(adapter.bytes() < as_in_file.0.bytes(), "an adapter of an f32 base was quantised");
        let mut kv = model.new_cache();
        let adapter = Some(AdapterHandle(Arc::new(adapter)));
        let mut batch =
            [Segment { tokens: &expected.tokens, kv: &mut kv, adapter, logits: LogitRows::All }];
        let found: Vec<f32> =
            model.forward(&mut batch).unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let [base, theirs] = ["base", name].map(|name| &expected.logits[name]);
        let share =
            (square(&mut found.iter().zip(theirs)) / square(&mut base.iter().zip(theirs))).sqrt();
        let most = found.iter().zip(theirs).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        println!("{name}: {:.2} % of the effect, logits differ by {most} at most", 100.0 * share);
        assert!(share > 1e-4 && share < 0.01, "{name}: {share} of the effect");
    }
}

#[test]
fn prefill_in_chunks_and_forks_equal_one_pass() {
    let (folder, expected) = tiny();
    let model =
        Llama::load(&ModelFiles::open(&folder).unwrap(), Quantisation::None, &Device::Cpu).unwrap();
    let (first, rest) = expected.tokens.split_at(10);
    let mut kv = model.new_cache();
    let mut batch =
        [Segment { tokens: first, kv: &mut kv, adapter: None, logits: LogitRows::None }];
    assert_eq!(model.forward(&mut batch).unwrap().dims(), [0, model.config().vocabulary]);
    let mut fork = kv.fork(10);
    let mut whole = model.new_cache();
    let mut batch = [Segment {
        tokens: &expected.tokens,
        kv: &mut whole,
        adapter: None,
        logits: LogitRows::Last,
    }];
    let in_one_pass: Vec<f32> =
        model.forward(&mut batch).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    for kv in [&mut kv, &mut fork] {
        let mut batch = [Segment { tokens: rest, kv, adapter: None, logits: LogitRows::Last }];
        let last = model.forward(&mut batch).unwrap();
        let row =
            &expected.logits["base"][(expected.tokens.len() - 1) * model.config().vocabulary..];
        assert!(largest_difference(&last, row) < 1e-4);
        assert_eq!(largest_difference(&last, &in_one_pass), 0.0);
    }
    assert_eq!((kv.len(), fork.len()), (expected.tokens.len(), expected.tokens.len()));
}

/// Log output of `work`.
fn logged(work: impl FnOnce()) -> String {
    #[derive(Clone, Default)]
    struct Lines(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);
    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber =
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
    tracing::subscriber::with_default(subscriber, work);
    let bytes = lines.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn quantised_at_load_stays_close_and_reports_fallbacks() {
    let (folder, expected) = tiny();
    let load = |quantisation| {
        drop(Llama::load(&ModelFiles::open(&folder).unwrap(), quantisation, &Device::Cpu).unwrap())
    };
    // a first call registers the log callsite; otherwise a concurrent test, whose thread has no
    // subscriber, could register it as disabled while `logged` runs
    load(Quantisation::Q4K);
    let said = logged(|| load(Quantisation::Q4K));
    assert!(
        said.contains("256 does not divide the row: q8_0 instead of q4_k")
            && said.contains("layers.0.self_attn.q_proj"),
        "{said}"
    );
    assert!(!logged(|| load(Quantisation::Q8_0)).contains("instead of"));
    for (quantisation, allowed) in [(Quantisation::Q8_0, 0.4), (Quantisation::Q4K, 0.4)] {
        // rows of 64: q4_k falls back to q8_0
        let model =
            Llama::load(&ModelFiles::open(&folder).unwrap(), quantisation, &Device::Cpu).unwrap();
        let mut kv = model.new_cache();
        let mut batch = [Segment {
            tokens: &expected.tokens,
            kv: &mut kv,
            adapter: None,
            logits: LogitRows::All,
        }];
        let difference =
            largest_difference(&model.forward(&mut batch).unwrap(), &expected.logits["base"]);
        assert!(
            difference > 0.0 && difference < allowed,
            "{quantisation:?}: logits differ by {difference}"
        );
    }
}

#[test]
fn bad_segments_are_refused() {
    let (folder, _) = tiny();
    let model =
        Llama::load(&ModelFiles::open(&folder).unwrap(), Quantisation::None, &Device::Cpu).unwrap();
    let long = vec![1; model.config().context_length + 1];
    for (tokens, expected) in
        [(&[][..], "empty"), (&[9_999_999][..], "9999999"), (&long[..], "context window")]
    {
        let mut kv = model.new_cache();
        let mut batch = [Segment { tokens, kv: &mut kv, adapter: None, logits: LogitRows::Last }];
        let error = model.forward(&mut batch).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}
