//! `plain`: the prompt and the conversation, without retrieval. Rated by users.

use std::sync::Arc;

use super::interface::Strategy;
use super::settings;

#[derive(Debug)]
pub(super) struct Plain;

impl Strategy for Plain {}

pub(super) fn make(table: Option<toml::Table>) -> Result<Arc<dyn Strategy>, String> {
    settings::none("plain", table)?;
    Ok(Arc::new(Plain))
}
