//! Names of the suites, and errors of evaluations.

use nyx_actors::NyxError;

use crate::DatasetError;

/// The choice suites, in the order in which they run.
pub const CHOICES: [&str; 5] = ["kairos", "eleos", "aletheia", "truthful", "moira"];
/// All suites.
pub const SUITES: [&str; 7] =
    ["kairos", "eleos", "aletheia", "truthful", "moira", "mnemosyne", "routing"];
/// The artifacts that can be fitted.
pub const PARTS: [&str; 1] = ["confidence"];

/// Why an evaluation failed.
#[derive(Debug, thiserror::Error)]
pub enum EvalError {
    #[error(transparent)]
    Data(#[from] DatasetError),
    #[error(transparent)]
    Nyx(#[from] NyxError),
    #[error("there is no suite {name:?}, expected one of {}", SUITES.join(", "))]
    UnknownSuite { name: String },
    #[error("there is no part {name:?} to fit, expected one of {}", PARTS.join(", "))]
    UnknownPart { name: String },
    #[error(
        "{part} cannot be fitted on these cases: there are too few, or all have the same answer"
    )]
    TooFew { part: String },
    #[error("{path} is not a data set of chats: {reason}")]
    Dataset { path: String, reason: String },
    #[error("{part} cannot be fitted on these cases: {reason}")]
    Unfit { part: String, reason: String },
}
