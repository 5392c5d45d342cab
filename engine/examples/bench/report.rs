//! Medians, ranges, and the target ratios.

use std::collections::BTreeMap;
use std::fmt::Write;

use nyx_engine::ModelFiles;
use serde_json::{Map, Value, json};

use crate::machine::Machine;
use crate::work::{BANDWIDTH, DECISION, PEAK, Row, SHORT_STEPS, WITH, WITHOUT};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Engine {
    Nyx,
    /// Nyx with speculative decoding, its default.
    NyxDrafts,
    Llama,
    LlamaQ4_0,
}

impl Engine {
    const ALL: [Self; 4] = [Self::Nyx, Self::NyxDrafts, Self::Llama, Self::LlamaQ4_0];

    pub fn title(self) -> &'static str {
        match self {
            Self::Nyx => "Nyx",
            Self::NyxDrafts => "Nyx, draft tokens",
            Self::Llama => "llama.cpp",
            Self::LlamaQ4_0 => "llama.cpp, Q4_0",
        }
    }

    fn key(self) -> &'static str {
        match self {
            Self::Nyx => "nyx",
            Self::NyxDrafts => "nyx_drafts",
            Self::Llama => "llama",
            Self::LlamaQ4_0 => "llama_q4_0",
        }
    }
}

fn median(mut samples: Vec<f64>) -> Option<f64> {
    samples.sort_by(f64::total_cmp);
    let middle = samples.len() / 2;
    let upper = samples.get(middle)?;
    Some(if samples.len().is_multiple_of(2) { (samples[middle - 1] + upper) / 2.0 } else { *upper })
}

/// Every round's samples, by engine and row.
#[derive(Debug, Default)]
pub struct Samples(BTreeMap<(Engine, &'static str), Vec<Vec<f64>>>);

impl Samples {
    pub fn add(&mut self, engine: Engine, row: &'static str, samples: Vec<f64>) {
        self.0.entry((engine, row)).or_default().push(samples);
    }

    fn all(&self, engine: Engine, row: &str) -> Vec<f64> {
        self.0
            .iter()
            .filter(|((of, key), _)| *of == engine && *key == row)
            .flat_map(|(_, rounds)| rounds.concat())
            .collect()
    }

    /// The median of each round.
    fn rounds(&self, engine: Engine, row: &str) -> Vec<f64> {
        let found = self.0.iter().find(|((of, key), _)| *of == engine && *key == row);
        found
            .into_iter()
            .flat_map(|(_, rounds)| rounds.iter().filter_map(|samples| median(samples.clone())))
            .collect()
    }

    /// The median of the per-round ratios.
    fn ratio(&self, above: (Engine, &str), below: (Engine, &str)) -> Option<f64> {
        let (above, below) = (self.rounds(above.0, above.1), self.rounds(below.0, below.1));
        median(above.iter().zip(&below).map(|(above, below)| above / below).collect())
    }
}

enum Want {
    AtLeast(f64),
    AtMost(f64),
}

struct Ratio {
    key: &'static str,
    title: &'static str,
    want: Want,
    found: Option<f64>,
    /// Key of another ratio that may be met instead.
    or: Option<&'static str>,
}

impl Ratio {
    fn met(&self) -> Option<bool> {
        self.found.map(|found| match self.want {
            Want::AtLeast(least) => found >= least,
            Want::AtMost(most) => found <= most,
        })
    }
}

pub struct Report<'a> {
    machine: Machine,
    samples: &'a Samples,
    model: Value,
    rounds: usize,
    beside_llama: bool,
    ratios: Vec<Ratio>,
}

impl<'a> Report<'a> {
    pub fn new(
        machine: Machine,
        files: &ModelFiles,
        samples: &'a Samples,
        (adapter_bytes, held): (usize, usize),
        rounds: usize,
        beside_llama: bool,
    ) -> Self {
        let info = files.info();
        let model = json!({
            "name": info.name, "sha256": info.sha256, "tensors": info.tensors, "bytes": info.bytes, "bytes_of_all_adapters": adapter_bytes,
            "bytes_of_all_adapters_as_held": held,
        });
        Self {
            machine,
            samples,
            model,
            rounds,
            beside_llama,
            ratios: ratios(samples, adapter_bytes),
        }
    }

    pub fn json(&self) -> Value {
        let mut report = Map::new();
        report.insert("machine".into(), json!(self.machine));
        report.insert("model".into(), self.model.clone());
        report.insert("rounds".into(), self.rounds.into());
        for engine in Engine::ALL {
            let rows = self.samples.0.keys().filter(|(of, _)| *of == engine);
            let figures = rows.map(|(_, row)| {
                let all = self.samples.all(engine, row);
                (
                    (*row).to_owned(),
                    json!({"median": median(all.clone()), "samples": all, "unit": unit(row)}),
                )
            });
            report.insert(engine.key().into(), Value::Object(figures.collect()));
        }
        let ratios = self.ratios.iter().map(|ratio| (ratio.key.to_owned(), json!(ratio.found)));
        report.insert("ratios".into(), Value::Object(ratios.collect()));
        let wants = self.ratios.iter().map(|ratio| {
            let (word, value) = match ratio.want {
                Want::AtLeast(least) => ("at_least", least),
                Want::AtMost(most) => ("at_most", most),
            };
            (ratio.key.to_owned(), json!({word: value, "met": ratio.met(), "or": ratio.or}))
        });
        report.insert("wants".into(), Value::Object(wants.collect()));
        Value::Object(report)
    }

    /// The measurements, then the ratios, as Markdown for BENCHMARKS.md.
    pub fn tables(&self, rows: &[Row]) -> String {
        let mut text = others_line(&self.machine);
        let engines = if self.beside_llama { &Engine::ALL[..] } else { &Engine::ALL[..2] };
        let titles: Vec<&str> = engines.iter().map(|engine| engine.title()).collect();
        _ = writeln!(
            text,
            "| work | {} | |\n|---|{}---|",
            titles.join(" | "),
            "---|".repeat(engines.len())
        );
        let more = [
            (DECISION, "a decision: five names, 60-token question, warm"),
            (WITHOUT, "5 sequences, no adapter, 8 + 128, in pairs with the next"),
            (WITH, "5 sequences, 5 adapters, 8 + 128, in pairs with the last"),
            (BANDWIDTH, "memory read by all cores"),
            (PEAK, "peak memory, 5 sequences with 5 adapters, 200 + 64"),
        ];
        for (key, title) in rows.iter().map(|row| (row.key, row.title)).chain(more) {
            let cells: Vec<String> =
                engines.iter().map(|engine| cell(self.samples.all(*engine, key))).collect();
            _ = writeln!(text, "| {title} | {} | {} |", cells.join(" | "), unit(key));
        }
        text.push_str("\n| ratio | target | measured | met |\n|---|---|---|---|\n");
        for ratio in &self.ratios {
            let want = match ratio.want {
                Want::AtLeast(least) => format!("at least {least}"),
                Want::AtMost(most) => format!("at most {most}"),
            };
            let other = ratio
                .or
                .and_then(|or| self.ratios.iter().find(|ratio| ratio.key == or))
                .and_then(Ratio::met);
            let met = match (ratio.met(), other) {
                (Some(true), _) => "yes",
                (Some(false), Some(true)) => "by the other",
                (Some(false), _) => "no",
                (None, _) => "not measured",
            };
            let found = ratio.found.map_or("–".into(), |found| format!("{found:.2}"));
            _ = writeln!(text, "| {} (`{}`) | {want} | {found} | {met} |", ratio.title, ratio.key);
        }
        text
    }
}

fn unit(row: &str) -> &'static str {
    match row {
        BANDWIDTH => "GB/s",
        PEAK => "MB",
        DECISION => "ms",
        WITHOUT | WITH => "tokens/s",
        _ => crate::work::rows().iter().find(|known| known.key == row).map_or("", |row| row.unit),
    }
}

/// A median with its range.
fn cell(samples: Vec<f64>) -> String {
    let (least, most) = samples.iter().fold((f64::MAX, f64::MIN), |(least, most), sample| {
        (least.min(*sample), most.max(*sample))
    });
    match (samples.len(), median(samples)) {
        (_, None) => "–".into(),
        (1, Some(only)) => format!("{only:.1}"),
        (_, Some(middle)) => format!("{middle:.1} ({least:.1} to {most:.1})"),
    }
}

fn ratios(samples: &Samples, adapter_bytes: usize) -> Vec<Ratio> {
    use Engine::{Llama, LlamaQ4_0, Nyx};
    let ratio = |key, title, want, found| Ratio { key, title, want, found, or: None };
    let faster = |key, title, least, than| {
        ratio(key, title, Want::AtLeast(least), samples.ratio((Nyx, key), (than, key)))
    };
    let than_q4_0 = |key, title, of| {
        ratio(key, title, Want::AtLeast(1.0), samples.ratio((Nyx, of), (LlamaQ4_0, of)))
    };
    vec![
        faster("prefill_512", "prefill of 512, times as fast", 3.0, Llama),
        than_q4_0("prefill_512_q4_0", "the same, than llama.cpp on a Q4_0 file", "prefill_512"),
        faster("decode_1", "decode, one sequence, times as fast", 1.3, Llama),
        than_q4_0("decode_1_q4_0", "the same, than llama.cpp on a Q4_0 file", "decode_1"),
        faster(
            "five_adapters_short",
            "5 sequences, 5 adapters, 8 + 128, times as fast",
            3.0,
            Llama,
        ),
        faster(
            "five_adapters_long",
            "5 sequences, 5 adapters, 200 + 64, times as fast",
            3.0,
            Llama,
        ),
        Ratio {
            or: Some("adapter_step_cost"),
            ..ratio(
                "adapter_cost",
                "throughput of 5 adapters over none, both Nyx",
                Want::AtLeast(0.85),
                samples.ratio((Nyx, WITH), (Nyx, WITHOUT)),
            )
        },
        Ratio {
            or: Some("adapter_cost"),
            ..ratio(
                "adapter_step_cost",
                "or: added time a step over the time to read the adapters as they come (f16)",
                Want::AtMost(1.3),
                adapter_step_cost(samples, adapter_bytes),
            )
        },
        ratio(
            "first_token_turns",
            "first token, five adapters taking turns, times sooner",
            Want::AtLeast(10.0),
            samples.ratio((Llama, "first_token_turns"), (Nyx, "first_token_turns")),
        ),
        ratio(
            "first_token_own",
            "the same over Nyx's own without turns",
            Want::AtMost(1.5),
            samples.ratio((Nyx, "first_token_turns"), (Nyx, "first_token_warm")),
        ),
        ratio(
            "decision_share",
            "a decision over an answer of 64 tokens",
            Want::AtMost(0.25),
            samples.ratio((Nyx, DECISION), (Nyx, "answer_64")),
        ),
        ratio(
            "peak_memory",
            "peak memory over llama.cpp's",
            Want::AtMost(1.0),
            samples.ratio((Nyx, PEAK), (Llama, PEAK)),
        ),
    ]
}

/// Time that five adapters add to a step, over the time to read them at the bandwidth measured just
/// before.
fn adapter_step_cost(samples: &Samples, adapter_bytes: usize) -> Option<f64> {
    let rounds = |row| samples.rounds(Engine::Nyx, row);
    let (with, without, bandwidth) = (rounds(WITH), rounds(WITHOUT), rounds(BANDWIDTH));
    let tokens = (5 * SHORT_STEPS) as f64;
    let costs = with.iter().zip(&without).zip(&bandwidth).map(|((with, without), bandwidth)| {
        let added = (tokens / with - tokens / without) / SHORT_STEPS as f64;
        added / (adapter_bytes as f64 / (bandwidth * 1e9))
    });
    median(costs.collect())
}

/// Describes the machine.
pub fn machine_lines(machine: &Machine) -> String {
    let times = |value: Option<f64>| value.map_or("–".into(), |value| format!("{value:.2}"));
    format!(
        "{}, {} cores (siblings: {}), {} GiB, {}; {}\nmemory read at {:.1} GB/s by one thread; a second thread gives {} times that, and {} times the arithmetic",
        machine.cpu,
        machine.cores,
        if machine.siblings.is_empty() { "unknown".into() } else { machine.siblings.join("; ") },
        machine.memory_gib.map_or("?".into(), |gib| format!("{gib:.0}")),
        machine.instructions,
        machine.rustc,
        machine.bandwidth_1,
        times(machine.second_core_reads),
        times(machine.second_core_computes),
    )
}

/// Describes how busy the machine was.
fn others_line(machine: &Machine) -> String {
    /// Other CPU use, in cores, below which the measurements are reliable.
    const QUIET: f64 = 0.1;
    match machine.others {
        None => String::new(),
        Some(cores) if cores <= QUIET => format!("others kept {cores:.2} cores busy meanwhile\n\n"),
        Some(cores) => format!(
            "others kept {cores:.2} cores busy meanwhile: THESE FIGURES SAY LITTLE, and ratios to llama.cpp, which waits for all cores at every step, \
             are too good\n\n"
        ),
    }
}
