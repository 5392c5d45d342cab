//! Compares the default model on the CPU kernels with the same weights in f32, teacher-forced over
//! prompts of the evaluation data and over a fixed text: `make accuracy`. Fails when the agreement,
//! KL divergence or perplexity is out of bounds.

use std::path::{Path, PathBuf};

use nyx_domain::{ChatMessage, Role};
use nyx_engine::model::{LogitRows, Segment};
use nyx_engine::quantization_error::QuantizationError;
use nyx_engine::{Device, Llama, ModelFiles, Quantisation, Text};
use serde_json::Value;

type Fallible<T> = Result<T, Box<dyn std::error::Error>>;

const SUITES: [&str; 5] = ["aletheia", "eleos", "kairos", "moira", "truthful"];
/// Prompts of each suite.
const PROMPTS: usize = 10;
/// The fixed text is compared in pieces of this many tokens.
const PIECE: usize = 512;

fn prompts(trials: &Path, text: &Text) -> Fallible<Vec<Vec<u32>>> {
    let mut prompts = Vec::new();
    for suite in SUITES {
        let path = trials.join(format!("{suite}.train.jsonl"));
        let lines = std::fs::read_to_string(&path)
            .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        for line in lines.lines().take(PROMPTS) {
            let trial: Value = serde_json::from_str(line)?;
            let field = |name: &str| trial[name].as_str().unwrap_or_default().to_owned();
            let choices: Vec<&str> = trial["choices"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            let answer = trial["answer"]
                .as_u64()
                .and_then(|index| choices.get(index as usize))
                .copied()
                .unwrap_or_default();
            let question =
                format!("{}\n\n{}\n\n{}", field("context"), field("question"), choices.join("\n"));
            let messages = [
                ChatMessage::new(Role::User, question.trim()),
                ChatMessage::new(Role::Assistant, answer),
            ];
            prompts.push(text.encode_chat(&messages, false)?);
        }
    }
    Ok(prompts)
}

/// Logits after every token, `[tokens, vocabulary]`.
fn logits(model: &Llama, tokens: &[u32]) -> Fallible<Vec<f32>> {
    let mut kv = model.new_cache();
    let mut batch = [Segment { tokens, kv: &mut kv, adapter: None, logits: LogitRows::All }];
    Ok(model.forward(&mut batch)?.flatten_all()?.to_vec1()?)
}

fn compare(
    exact: &Llama,
    found: &Llama,
    tokens: &[u32],
    quantization_error: &mut QuantizationError,
) -> Fallible<()> {
    let vocabulary = exact.config().vocabulary;
    let (exact, found) = (logits(exact, tokens)?, logits(found, tokens)?);
    let rows = exact.chunks_exact(vocabulary).zip(found.chunks_exact(vocabulary));
    rows.zip(&tokens[1..])
        .for_each(|((exact, found), next)| quantization_error.observe(exact, found, *next));
    Ok(())
}

#[allow(clippy::print_stdout, reason = "a program that prints its figures")]
fn main() -> Fallible<()> {
    let mut arguments = std::env::args().skip(1).map(PathBuf::from);
    let (Some(model), Some(trials), Some(fixed)) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        return Err("usage: accuracy MODEL.gguf TRIALS TEXT".into());
    };
    let files = ModelFiles::open(&model)?;
    let text = Text::load(&files)?;
    let exact = Llama::load(&files, Quantisation::F32, &Device::Cpu)?;
    let found = Llama::load(&files, Quantisation::None, &Device::Cpu)?;
    let print = |what: &str, quantization_error: &QuantizationError| {
        let (exact, found) = quantization_error.perplexities();
        println!(
            "{what}: {} places, {} of {} clear ones agree ({:.3} %), mean KL {:.5}, perplexity {exact:.3} in f32 and {found:.3} ({:+.2} %)",
            quantization_error.places,
            quantization_error.agreed,
            quantization_error.clear,
            100.0 * quantization_error.agreement(),
            quantization_error.mean_kl(),
            100.0 * (found / exact - 1.0)
        );
    };
    let mut over_prompts = QuantizationError::default();
    for tokens in prompts(&trials, &text)? {
        compare(&exact, &found, &tokens, &mut over_prompts)?;
    }
    print(&format!("{} prompts", SUITES.len() * PROMPTS), &over_prompts);
    let mut over_text = QuantizationError::default();
    let all = text.encode(&std::fs::read_to_string(&fixed)?)?;
    for tokens in all.chunks(PIECE).filter(|tokens| tokens.len() > 1) {
        compare(&exact, &found, tokens, &mut over_text)?;
    }
    print("the fixed text", &over_text);
    let (exact, found) = over_text.perplexities();
    let wanted = over_prompts.agreement() >= 0.999
        && over_prompts.mean_kl() <= 0.005
        && (found / exact - 1.0).abs() <= 0.005;
    if wanted {
        Ok(())
    } else {
        Err("short of 99.9 % and KL 0.005 over the prompts, or of 0.5 % perplexity over the text"
            .into())
    }
}
