//! Words where they stand in a text.

use std::ops::Range;

/// One word: runs of letters and digits, with hyphens inside (`regular-sized`); an apostrophe ends a word, so that `who's` is `who` and `s`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    pub(super) span: Range<usize>,
    /// In lower case.
    pub(super) lower: String,
}

pub(super) fn words(text: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let mut start: Option<usize> = None;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let joins = c == '-' && start.is_some() && chars.peek().is_some_and(|(_, next)| next.is_alphanumeric());
        if c.is_alphanumeric() || joins {
            start.get_or_insert(at);
        } else if let Some(from) = start.take() {
            words.push(Word { span: from..at, lower: text[from..at].to_lowercase() });
        }
    }
    if let Some(from) = start {
        words.push(Word { span: from..text.len(), lower: text[from..].to_lowercase() });
    }
    words
}

/// Where `phrase` (words in lower case) stands in `words`; the last word may carry a plural `s`. Returns ranges of word numbers.
pub(super) fn find(words: &[Word], phrase: &[String]) -> Vec<Range<usize>> {
    if phrase.is_empty() {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut at = 0;
    while at + phrase.len() <= words.len() {
        let here = &words[at..at + phrase.len()];
        let last = phrase.len() - 1;
        let same = here[..last].iter().zip(phrase).all(|(word, wanted)| word.lower == *wanted)
            && (here[last].lower == phrase[last] || here[last].lower.strip_suffix('s') == Some(phrase[last].as_str()));
        if same {
            found.push(at..at + phrase.len());
            at += phrase.len();
        } else {
            at += 1;
        }
    }
    found
}

pub(super) fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// Where the last word of a text begins, if a space ends the text.
fn last_word(text: &str) -> Option<usize> {
    let body = text.trim_end_matches(' ');
    if body.len() == text.len() {
        return None;
    }
    Some(body.rfind(|c: char| !c.is_alphanumeric()).map_or(0, |at| at + body[at..].chars().next().map_or(1, char::len_utf8)))
}

/// Takes a trailing article away: a name has none.
pub(super) fn drop_article(before: &mut String) {
    if let Some(start) = last_word(before)
        && ["a", "an", "the"].contains(&before[start..].trim_end().to_lowercase().as_str())
    {
        before.truncate(start);
    }
}

/// Turns a trailing `a` into `an` and back, as the next word begins.
pub(super) fn agree_article(before: &mut String, next: &str) {
    let vowel = next.chars().next().is_some_and(|c| "aeiouAEIOU".contains(c));
    let Some(word_start) = last_word(before) else { return };
    let body = before.trim_end_matches(' ');
    let article = match (&body[word_start..], vowel) {
        ("a", true) => "an",
        ("an", false) => "a",
        ("A", true) => "An",
        ("An", false) => "A",
        _ => return,
    };
    before.truncate(word_start);
    before.push_str(article);
    before.push(' ');
}
