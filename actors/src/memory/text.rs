//! Checks and normalisation of a memory's texts.

use chrono::{DateTime, Utc};
use nyx_domain::Memory;
use uuid::Uuid;

use super::messages::NewMemory;
use crate::{NyxError, phoebe};

/// Maximum size of a memory in bytes.
pub(super) const MAX_TEXT: usize = 32 << 10;

/// Validates a memory and assigns its id.
pub(super) fn memory(new: NewMemory) -> Result<Memory, NyxError> {
    let NewMemory { text, speaker, when, conversation, caption } = new;
    let [speaker, conversation] = [speaker, conversation].map(|name| name.map(composed));
    check_text("text", &text)?;
    phoebe::storable("text", &text)?;
    if let Some(caption) = &caption {
        check_text("caption", caption)?;
        phoebe::storable("caption", caption)?;
    }
    for (param, name) in [("speaker", &speaker), ("conversation", &conversation)] {
        name.as_deref().map_or(Ok(()), |name| phoebe::storable_name(param, name))?;
    }
    Ok(Memory {
        id: Uuid::now_v7(),
        text,
        speaker,
        when: when.map(microseconds),
        conversation,
        stored_at: phoebe::now(),
        caption,
    })
}

/// Normalises a name to NFC: keyboards and file systems encode the same letters differently.
pub(super) fn composed(name: String) -> String {
    use unicode_normalization::UnicodeNormalization as _;
    if unicode_normalization::is_nfc(&name) { name } else { name.nfc().collect() }
}

pub(super) fn check_text(param: &str, text: &str) -> Result<(), NyxError> {
    if text.trim().is_empty() {
        return Err(NyxError::invalid(param, format!("{param} is empty, expected some text")));
    }
    if text.len() > MAX_TEXT {
        return Err(NyxError::invalid(
            param,
            format!("{param} has {} bytes, expected at most {MAX_TEXT}", text.len()),
        ));
    }
    Ok(())
}

/// Truncates to the precision that the databases store.
fn microseconds(when: DateTime<Utc>) -> DateTime<Utc> {
    chrono::SubsecRound::trunc_subsecs(when, 6)
}
