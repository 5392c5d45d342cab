//! Splits evaluation data before training: by template, so that no held-out item was trained on in
//! other words.

use sha2::{Digest, Sha256};

/// One part in this many is held out.
const PARTS: u64 = 5;
/// Number of words that form a text's template.
const WORDS: usize = 24;

/// The template of a text: its first words, without numbers, names and quoted text.
pub fn template(text: &str) -> String {
    let mut quoted = false;
    let mut words = Vec::new();
    let mut begins = true;
    for word in text.split_whitespace() {
        let opens = word.starts_with(['"', '“', '\'']);
        let closes = word.trim_end_matches(['.', ',', '?', '!']).ends_with(['"', '”']);
        let inside = quoted || opens;
        quoted = (quoted || (opens && !word.starts_with('\''))) && !closes;
        let bare: String = word.chars().filter(|c| c.is_alphanumeric()).collect();
        let named = bare.chars().next().is_some_and(char::is_uppercase) && !begins;
        begins = word.ends_with(['.', '?', '!', ':']);
        let kept =
            !inside && !named && !bare.is_empty() && !bare.chars().any(|c| c.is_ascii_digit());
        if kept {
            words.push(bare.to_lowercase());
        }
        if words.len() == WORDS {
            break;
        }
    }
    words.join(" ")
}

/// Whether items of this template are held out: about a fifth are, deterministically.
pub fn held_back(template: &str) -> bool {
    let digest = Sha256::digest(template.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(first) % PARTS == 0
}

/// Evaluation data in its two parts.
#[derive(Debug, Clone, PartialEq)]
pub struct HeldBack<T> {
    /// To train on.
    pub train: Vec<T>,
    /// Held out.
    pub tried: Vec<T>,
}

impl<T> HeldBack<T> {
    /// Splits items by `template_of`.
    pub fn of(all: impl IntoIterator<Item = T>, template_of: impl Fn(&T) -> String) -> Self {
        let (tried, train) = all.into_iter().partition(|item| held_back(&template_of(item)));
        Self { train, tried }
    }
}
