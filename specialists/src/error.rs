//! What can be wrong with a specialist.

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpecialistError {
    /// A file that does not describe a specialist: `reason` names the key, its value and what would be right.
    #[error("{origin}: {reason}")]
    BadFile { origin: String, reason: String },
    /// A context template that could not be rendered for this situation.
    #[error("specialist {name}: {reason}")]
    BadPrompt { name: String, reason: String },
}
