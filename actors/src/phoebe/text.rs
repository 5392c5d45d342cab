//! Checks of texts before they are stored.

use crate::NyxError;

/// Refuses NUL characters, which PostgreSQL cannot store in text or JSON; both databases must
/// accept the same input.
pub(crate) fn storable(param: &str, text: &str) -> Result<(), NyxError> {
    match text.find('\0') {
        Some(at) => Err(NyxError::invalid(
            param,
            format!("{param} holds a NUL character at byte {at}, expected text without any"),
        )),
        None => Ok(()),
    }
}

/// Maximum length in bytes of a name that is looked up, such as a conversation's: it must fit into
/// an index entry.
const MAX_NAME: usize = 256;

/// As [`storable`], with a length limit for names.
pub(crate) fn storable_name(param: &str, name: &str) -> Result<(), NyxError> {
    if name.len() > MAX_NAME {
        return Err(NyxError::invalid(
            param,
            format!("{param} has {} bytes, expected at most {MAX_NAME}", name.len()),
        ));
    }
    storable(param, name)
}
