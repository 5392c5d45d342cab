//! Limits of listings.

use crate::NyxError;

/// Maximum number of rows in a list.
pub(super) const MAX_ROWS: u64 = 1000;

pub(super) fn check_limit(limit: u64) -> Result<(), NyxError> {
    if (1..=MAX_ROWS).contains(&limit) {
        return Ok(());
    }
    Err(NyxError::invalid("limit", format!("limit is {limit}, expected 1 to {MAX_ROWS}")))
}
