//! Which part of the evidence is set aside before training: by template, so that nothing that is tried was learned in other words.

use sha2::{Digest, Sha256};

/// Of so many parts one is set aside.
const PARTS: u64 = 5;
/// Words of a text that make its template.
const WORDS: usize = 24;

/// What a text has in common with those made the same way: its first words, without numbers, names and what is quoted.
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
        let kept = !inside && !named && !bare.is_empty() && !bare.chars().any(|c| c.is_ascii_digit());
        if kept {
            words.push(bare.to_lowercase());
        }
        if words.len() == WORDS {
            break;
        }
    }
    words.join(" ")
}

/// Whether what has this template is set aside: about a fifth is, always the same.
pub fn held_back(template: &str) -> bool {
    let digest = Sha256::digest(template.as_bytes());
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(first) % PARTS == 0
}

/// Evidence in its two parts.
#[derive(Debug, Clone, PartialEq)]
pub struct HeldBack<T> {
    pub train: Vec<T>,
    pub tried: Vec<T>,
}

impl<T> HeldBack<T> {
    /// Divides evidence by `template_of`.
    pub fn of(all: impl IntoIterator<Item = T>, template_of: impl Fn(&T) -> String) -> Self {
        let (tried, train) = all.into_iter().partition(|item| held_back(&template_of(item)));
        Self { train, tried }
    }
}
