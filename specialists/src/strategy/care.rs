//! `care`: a tone set by prompt and adapter, rated by users. The safety policy applies to every
//! strategy; which specialist takes over in a crisis is set in `config/safety.toml`.

use std::sync::Arc;

use super::interface::Strategy;
use super::settings;

#[derive(Debug)]
struct Care;

impl Strategy for Care {}

pub(super) fn make(table: Option<toml::Table>) -> Result<Arc<dyn Strategy>, String> {
    settings::none("care", table)?;
    Ok(Arc::new(Care))
}
