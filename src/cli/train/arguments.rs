//! The arguments of `nyx train`.

use std::path::PathBuf;

use clap::Args;
use nyx_engine::train::Objective;

/// Train a specialist's adapter, or learn how sure an answer is.
#[derive(Debug, Args)]
pub(in crate::cli) struct Train {
    /// Specialists whose adapters to train, or `confidence`, to fit it on evaluation data
    #[arg(required = true, value_name = "PART|SPECIALIST")]
    pub(super) parts: Vec<String>,
    #[command(flatten)]
    pub(super) adapter: AdapterArguments,
    /// Learn specialists' adapters from the decisions on record instead of evaluation data. What is learned is put to use only if it is better on what was held
    /// back
    #[arg(long, conflicts_with_all = ["evals", "split", "limit"])]
    pub(super) from_log: bool,
    /// The folder of evaluation data sets [default: $NYX_EVALS, else ../shared/trials]
    #[arg(long, value_name = "DIR")]
    pub(super) evals: Option<PathBuf>,
    /// Which split: NAME.SPLIT.jsonl is read
    #[arg(long, value_name = "SPLIT", default_value = "train")]
    pub(super) split: String,
    /// Questions of a suite at most, drawn by the seed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) limit: Option<u32>,
    /// The same seed and dataset, the same parameters
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) seed: u64,
    /// Where PART.json or the adapter's folder SPECIALIST goes; a server reads DATA_DIR/learned when it starts [default: DATA_DIR/learned]
    #[arg(long, value_name = "DIR")]
    pub(super) out: Option<PathBuf>,
}

/// What an adapter is trained on, and how.
#[derive(Debug, Args)]
pub(super) struct AdapterArguments {
    /// Chats to learn from, JSON lines of {"messages": [...]}, the last one the answer
    #[arg(long, value_name = "FILE", conflicts_with_all = ["evals", "from_log", "from_memory"])]
    pub(super) dataset: Option<PathBuf>,
    /// Learn from what is remembered (nyx_subjective_memory)
    #[arg(long, conflicts_with_all = ["evals", "from_log"])]
    pub(super) from_memory: bool,
    /// What is to become likelier: sft, choice, qrpo, kto, dpo or grpo [default: by the evidence]
    #[arg(long, value_name = "NAME", value_parser = Objective::parse)]
    pub(super) objective: Option<Objective>,
    /// Passes over the examples [default: training.epochs]
    #[arg(long, value_name = "N")]
    pub(super) epochs: Option<u32>,
    /// Hide context and question: what is learned then is what the choices alone give away
    #[arg(long)]
    pub(super) blind: bool,
    /// Write the examples in tokens to this file, and train nothing
    #[arg(long, value_name = "FILE")]
    pub(super) examples_to: Option<PathBuf>,
}
