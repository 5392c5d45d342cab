//! The memory keeper: embeddings and the vector index over phoebe's memories. OWNER: ME.
pub mod messages;
