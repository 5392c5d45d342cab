//! Everything that can go wrong between the actors, in one enum whose [`NyxError::error_type`] feeds both metrics and HTTP.

use nyx_engine::EngineError;

/// A failure of a request. Messages name the value that was wrong and what would be right.
#[derive(Debug, thiserror::Error)]
pub enum NyxError {
    /// The caller's input is wrong; `param` is the field's name.
    #[error("{message}")]
    InvalidRequest { param: Option<String>, message: String },
    #[error("no model {name:?}; there are {known}")]
    UnknownModel { name: String, known: String },
    #[error("no specialist {name:?}; there are {known}")]
    UnknownSpecialist { name: String, known: String },
    #[error("no {what} {id:?}")]
    NotFound { what: &'static str, id: String },
    /// What is told now contradicts what was told before.
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
    UnknownSource { name: String, known: String },
    /// A registered table, or the database that holds it, cannot be read.
    #[error("{origin}: {reason}")]
    FactSource { origin: String, reason: String },
    #[error("{origin}: the query was cut after {limit_ms} ms, its time limit (specialist.aletheia.query_timeout_ms)")]
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

    /// A stable snake_case name: the `type` label of metrics and the `code` of HTTP errors.
    pub fn error_type(&self) -> &'static str {
        match self {
            Self::InvalidRequest { .. } => "invalid_request",
            Self::UnknownModel { .. } => "model_not_found",
            Self::UnknownSpecialist { .. } => "specialist_not_found",
            Self::NotFound { .. } => "not_found",
            Self::Conflict(_) => "conflict",
            Self::Overloaded { .. } => "overloaded",
            Self::DeadlineExceeded { .. } => "deadline_exceeded",
            Self::Cancelled => "cancelled",
            Self::ActorDown { .. } => "actor_down",
            Self::Engine(error) => match error {
                EngineError::ContextOverflow { .. } | EngineError::PromptTooLong { .. } => "context_length_exceeded",
                EngineError::EmptyPrompt
                | EngineError::BadSampling { .. }
                | EngineError::TokenOutOfRange { .. }
                | EngineError::Template(_) => "invalid_request",
                EngineError::Cancelled => "cancelled",
                _ => "engine_error",
            },
            Self::Database(_) => "database_error",
            Self::VectorStore { .. } => "vector_store_error",
            Self::UnknownSource { .. } => "source_not_found",
            Self::FactSource { .. } => "source_error",
            Self::QueryTooLong { .. } => "query_timeout",
            Self::ShuttingDown => "shutting_down",
            Self::Internal(_) => "internal_error",
        }
    }

    /// What kind of failure it is: whether the request, the load or a component is the cause.
    pub fn class(&self) -> ErrorClass {
        match self.error_type() {
            "invalid_request" | "context_length_exceeded" => ErrorClass::InvalidRequest,
            "model_not_found" | "specialist_not_found" | "source_not_found" | "not_found" => ErrorClass::NotFound,
            "conflict" => ErrorClass::Conflict,
            "overloaded" => ErrorClass::Overloaded,
            "cancelled" => ErrorClass::Cancelled,
            "deadline_exceeded" | "query_timeout" => ErrorClass::DeadlineExceeded,
            "actor_down" | "shutting_down" | "database_error" | "vector_store_error" | "source_error" => ErrorClass::Unavailable,
            _ => ErrorClass::Internal,
        }
    }
}

/// Kinds of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// The request is wrong: repeating it does not help.
    InvalidRequest,
    NotFound,
    /// The request contradicts what is on record.
    Conflict,
    /// No capacity at present.
    Overloaded,
    /// The client closed the connection.
    Cancelled,
    DeadlineExceeded,
    /// A component does not work at present.
    Unavailable,
    Internal,
}
