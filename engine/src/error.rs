//! All errors of the engine, in one enum.

use std::path::PathBuf;

/// The crate's result type.
pub type Result<T, E = EngineError> = std::result::Result<T, E>;

/// An engine error. The message names the invalid value and the expected one.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages describe variants and fields")]
pub enum EngineError {
    #[error("no model at {path}: {reason}")]
    ModelNotFound { path: PathBuf, reason: String },
    #[error("{path} is not a usable GGUF file: {reason}")]
    BadGguf { path: PathBuf, reason: String },
    #[error("{path} is not a usable safetensors file: {reason}")]
    BadSafetensors { path: PathBuf, reason: String },
    #[error("{path} is not a usable model configuration: {reason}")]
    BadModelConfig { path: PathBuf, reason: String },
    #[error("architecture {found:?} is not supported: expected one of {expected}")]
    UnsupportedArchitecture { found: String, expected: &'static str },
    #[error("the model has no tensor {name:?}")]
    MissingTensor { name: String },
    #[error("tensor {name:?} has shape {found:?}, expected {expected:?}")]
    BadShape { name: String, found: Vec<usize>, expected: Vec<usize> },
    #[error("adapter {path} cannot be used: {reason}")]
    BadAdapter { path: PathBuf, reason: String },
    #[error("adapter {adapter} was trained on base {trained_on}, this base is {base}")]
    AdapterBaseMismatch { adapter: String, trained_on: String, base: String },
    #[error("adapter {0:?} is not loaded")]
    UnknownAdapter(String),
    #[error("the prompt is empty: send at least one token")]
    EmptyPrompt,
    #[error(
        "the prompt has {prompt} tokens and {max_tokens} more were asked for, the context window holds {window}"
    )]
    ContextOverflow { prompt: usize, max_tokens: usize, window: usize },
    #[error(
        "the prompt has {bytes} bytes: more than the {window} tokens of the context window can hold"
    )]
    PromptTooLong { bytes: usize, window: usize },
    #[error("{field} is {value}, expected {expected}")]
    BadSampling { field: &'static str, value: String, expected: &'static str },
    #[error("token {token} is outside the vocabulary of {vocabulary}")]
    TokenOutOfRange { token: u32, vocabulary: usize },
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    #[error("chat template: {0}")]
    Template(String),
    #[error("device {device:?}: {reason}")]
    Device { device: String, reason: String },
    #[error("cannot read {path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("tensor operation failed: {0}")]
    Tensor(#[from] candle_core::Error),
    #[error("the KV cache is full: all {blocks} blocks of {tokens} positions are taken")]
    OutOfBlocks { blocks: usize, tokens: usize },
    #[error("this model cannot be shared by the devices of the group: {reason}")]
    Sharding { reason: String },
    #[error("a shard of the group has gone away")]
    ShardLost,
    #[error("training: {reason}")]
    Training { reason: String },
    #[error("cancelled")]
    Cancelled,
}
