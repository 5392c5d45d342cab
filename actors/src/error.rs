//! The error of all actors. Its [`NyxError::code`] is used by metrics and HTTP.

use nyx_domain::{ErrorClass, ErrorCode};
use nyx_engine::EngineError;

/// A failure of a request. Messages contain the wrong value and the expected one.
#[derive(Debug, thiserror::Error)]
pub enum NyxError {
    /// The caller's input is invalid; `param` is the field's name.
    #[error("{message}")]
    InvalidRequest { param: Option<String>, message: String },
    #[error("no model {name:?}; there are {known}")]
    UnknownModel { name: String, known: String },
    #[error("no specialist {name:?}; there are {known}")]
    UnknownSpecialist { name: String, known: String },
    #[error("no {what} {id:?}")]
    NotFound { what: &'static str, id: String },
    /// The request contradicts what is on record.
    #[error("{0}")]
    Conflict(String),
    #[error("all {capacity} places are taken; try again in {retry_after_s} s")]
    Overloaded { capacity: usize, retry_after_s: u64 },
    #[error("the deadline passed while {doing}")]
    DeadlineExceeded { doing: &'static str },
    #[error("the caller went away")]
    Cancelled,
    #[error("actor {actor} is {state}: {reason}")]
    ActorDown { actor: String, state: &'static str, reason: String },
    #[error("the engine refused: {0}")]
    Engine(#[from] EngineError),
    #[error("phoebe: {0}")]
    Database(#[from] sea_orm::DbErr),
    #[error("memory search, {doing}: {reason}")]
    VectorStore { doing: &'static str, reason: String },
    #[error("no table {name:?} is registered; there are {known}")]
    UnknownTable { name: String, known: String },
    /// A registered table, or the database that holds it, cannot be read.
    #[error("{origin}: {reason}")]
    FactTableError { origin: String, reason: String },
    #[error(
        "{origin}: the query was cut after {limit_ms} ms, its time limit (tables.query_timeout_ms)"
    )]
    QueryTooLong { origin: String, limit_ms: u64 },
    #[error("shutting down")]
    ShuttingDown,
    #[error("internal error: {0}")]
    Internal(String),
}

impl NyxError {
    pub fn invalid(param: &str, message: impl Into<String>) -> Self {
        Self::InvalidRequest { param: Some(param.to_owned()), message: message.into() }
    }

    /// The stable code of this failure.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::InvalidRequest { .. } => ErrorCode::InvalidRequest,
            Self::UnknownModel { .. } => ErrorCode::ModelNotFound,
            Self::UnknownSpecialist { .. } => ErrorCode::SpecialistNotFound,
            Self::NotFound { .. } => ErrorCode::NotFound,
            Self::Conflict(_) => ErrorCode::Conflict,
            Self::Overloaded { .. } => ErrorCode::Overloaded,
            Self::DeadlineExceeded { .. } => ErrorCode::DeadlineExceeded,
            Self::Cancelled => ErrorCode::Cancelled,
            Self::ActorDown { .. } => ErrorCode::ActorDown,
            Self::Engine(error) => match error {
                EngineError::ContextOverflow { .. } | EngineError::PromptTooLong { .. } => {
                    ErrorCode::ContextLengthExceeded
                }
                EngineError::EmptyPrompt
                | EngineError::BadSampling { .. }
                | EngineError::TokenOutOfRange { .. }
                | EngineError::Template(_) => ErrorCode::InvalidRequest,
                EngineError::Cancelled => ErrorCode::Cancelled,
                _ => ErrorCode::EngineError,
            },
            Self::Database(_) => ErrorCode::DatabaseError,
            Self::VectorStore { .. } => ErrorCode::VectorStoreError,
            Self::UnknownTable { .. } => ErrorCode::TableNotFound,
            Self::FactTableError { .. } => ErrorCode::TableError,
            Self::QueryTooLong { .. } => ErrorCode::QueryTimeout,
            Self::ShuttingDown => ErrorCode::ShuttingDown,
            Self::Internal(_) => ErrorCode::InternalError,
        }
    }

    /// The name of the code: the `type` label of metrics and the `code` of HTTP errors.
    pub fn error_type(&self) -> &'static str {
        self.code().as_str()
    }

    /// Whether the request, the load or a component is the cause.
    pub fn class(&self) -> ErrorClass {
        self.code().class()
    }
}

/// Why Nyx did not start: the cause, and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the base model cannot be used: {0}")]
    Model(#[source] EngineError),
    #[error("the device cannot be started: {0}")]
    Device(#[source] EngineError),
    #[error("the embedder cannot be used: {0}")]
    Embedder(#[source] EngineError),
    #[error("{0}")]
    Actor(#[from] NyxError),
    #[error("{key} is {value}, expected {expected}")]
    Setting { key: &'static str, value: String, expected: &'static str },
    #[error("{file} cannot be used: {reason}")]
    Artifact { file: String, reason: String },
}
