//! The memory keeper: embeddings and the vector index over phoebe's memories. OWNER: ME.
pub mod messages;

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::NyxError;

/// `[memory]`: which vector store. Its keys are the memory keeper's to add.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemoryOptions {}

/// Opens or reaches the vector store without changing it, and says what it is: for `nyx doctor`.
///
/// # Errors
/// [`NyxError::VectorStore`] when it is damaged, held by another process, or cannot be reached.
pub async fn probe(_options: &MemoryOptions, _data_dir: &Path) -> Result<String, NyxError> {
    Err(NyxError::VectorStore { doing: "opening", reason: "there is none yet".into() })
}
