//! Error codes and their classes.

use std::fmt;

/// A stable snake_case name of a failure: the `type` label of metrics and the `code` of HTTP
/// errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// A value of the request is wrong.
    InvalidRequest,
    /// The request exceeds the context window.
    ContextLengthExceeded,
    /// The requested model does not exist.
    ModelNotFound,
    /// The requested specialist does not exist.
    SpecialistNotFound,
    /// The requested table does not exist.
    TableNotFound,
    /// The requested object does not exist.
    NotFound,
    /// The request contradicts what is on record.
    Conflict,
    /// No capacity at present.
    Overloaded,
    /// The deadline passed.
    DeadlineExceeded,
    /// A query of a table passed its time limit.
    QueryTimeout,
    /// The client closed the connection.
    Cancelled,
    /// An actor does not run.
    ActorDown,
    /// The inference engine failed.
    EngineError,
    /// The database failed.
    DatabaseError,
    /// The memory search failed.
    VectorStoreError,
    /// A registered table cannot be read.
    TableError,
    /// The server is shutting down.
    ShuttingDown,
    /// A fault of Nyx itself.
    InternalError,
}

impl ErrorCode {
    /// The name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::ContextLengthExceeded => "context_length_exceeded",
            Self::ModelNotFound => "model_not_found",
            Self::SpecialistNotFound => "specialist_not_found",
            Self::TableNotFound => "table_not_found",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Overloaded => "overloaded",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::QueryTimeout => "query_timeout",
            Self::Cancelled => "cancelled",
            Self::ActorDown => "actor_down",
            Self::EngineError => "engine_error",
            Self::DatabaseError => "database_error",
            Self::VectorStoreError => "vector_store_error",
            Self::TableError => "table_error",
            Self::ShuttingDown => "shutting_down",
            Self::InternalError => "internal_error",
        }
    }

    /// Whether the request, the load or a component is the cause.
    pub fn class(self) -> ErrorClass {
        match self {
            Self::InvalidRequest | Self::ContextLengthExceeded => ErrorClass::InvalidRequest,
            Self::ModelNotFound
            | Self::SpecialistNotFound
            | Self::TableNotFound
            | Self::NotFound => ErrorClass::NotFound,
            Self::Conflict => ErrorClass::Conflict,
            Self::Overloaded => ErrorClass::Overloaded,
            Self::Cancelled => ErrorClass::Cancelled,
            Self::DeadlineExceeded | Self::QueryTimeout => ErrorClass::DeadlineExceeded,
            Self::ActorDown
            | Self::ShuttingDown
            | Self::DatabaseError
            | Self::VectorStoreError
            | Self::TableError => ErrorClass::Unavailable,
            Self::EngineError | Self::InternalError => ErrorClass::Internal,
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Classes of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorClass {
    /// The request is wrong: repeating it does not help.
    InvalidRequest,
    /// Something that the request names does not exist.
    NotFound,
    /// The request contradicts what is on record.
    Conflict,
    /// No capacity at present.
    Overloaded,
    /// The client closed the connection.
    Cancelled,
    /// The deadline passed.
    DeadlineExceeded,
    /// A component does not work at present.
    Unavailable,
    /// A fault of Nyx itself.
    Internal,
}
