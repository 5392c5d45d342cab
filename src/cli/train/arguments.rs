//! The arguments of `nyx train`.

use std::path::PathBuf;

use clap::Args;
use nyx_engine::train::Objective;

/// Train a specialist's adapter.
#[derive(Debug, Args)]
pub(in crate::cli) struct Train {
    /// The specialists whose adapters to train
    #[arg(required = true, value_name = "SPECIALIST")]
    pub(super) specialists: Vec<String>,
    #[command(flatten)]
    pub(super) adapter: AdapterArguments,
    /// Train specialists' adapters on the recorded decisions instead of evaluation data. The
    /// adapter is promoted only if it is better on held-out decisions
    #[arg(long, conflicts_with_all = ["evals", "split", "limit"])]
    pub(super) from_log: bool,
    /// The folder of evaluation data sets [default: $NYX_EVALS, else ../shared/trials]
    #[arg(long, value_name = "DIR")]
    pub(super) evals: Option<PathBuf>,
    /// The split: NAME.SPLIT.jsonl is read
    #[arg(long, value_name = "SPLIT", default_value = "train")]
    pub(super) split: String,
    /// Maximum number of questions per suite, sampled with the seed
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) limit: Option<u32>,
    /// Seed: with the same seed and data the parameters are the same
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) seed: u64,
}

/// Training data and settings of an adapter.
#[derive(Debug, Args)]
pub(super) struct AdapterArguments {
    /// Training chats: JSON lines of {"messages": [...]}, the last message being the answer
    #[arg(long, value_name = "FILE", conflicts_with_all = ["evals", "from_log", "from_memory"])]
    pub(super) dataset: Option<PathBuf>,
    /// Train on the stored memories (nyx_subjective_memory)
    #[arg(long, conflicts_with_all = ["evals", "from_log"])]
    pub(super) from_memory: bool,
    /// Training objective: sft, choice, qrpo, kto, dpo or grpo [default: chosen by the evidence]
    #[arg(long, value_name = "NAME", value_parser = Objective::parse)]
    pub(super) objective: Option<Objective>,
    /// Passes over the examples [default: training.epochs]
    #[arg(long, value_name = "N")]
    pub(super) epochs: Option<u32>,
    /// Hide context and question, to measure what can be learned from the choices alone
    #[arg(long)]
    pub(super) blind: bool,
    /// Write the tokenised examples to this file, without training
    #[arg(long, value_name = "FILE")]
    pub(super) examples_to: Option<PathBuf>,
}
