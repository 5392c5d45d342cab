//! Errors of the specialists.

/// An error of this crate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages describe variants and fields")]
pub enum SpecialistError {
    /// A file that does not describe a specialist: `reason` names the key, its value and the
    /// expected value.
    #[error("{origin}: {reason}")]
    BadFile { origin: String, reason: String },
    /// A context template that could not be rendered in this context.
    #[error("specialist {name}: {reason}")]
    BadPrompt { name: String, reason: String },
}
