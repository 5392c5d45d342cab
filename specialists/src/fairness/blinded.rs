//! A question between two people as it is read.

use std::ops::Range;

use super::account::Account;
use super::lexicon::Lexicon;
use super::people::People;

/// A question that lets its reader choose between two people, with neutral names for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blinded {
    pub people: People,
    /// Of the first and the second.
    pub names: [&'static str; 2],
    /// Whether what is told, the question apart, says anything of one that it does not say of both.
    pub told_apart: bool,
    /// What is said of each, where that tells them apart and can be read.
    pub account: Option<Account>,
}

impl Blinded {
    /// Reads what is told and a message that asks, perhaps after telling more; `None` where the question is about other things than two people.
    pub fn find(lexicon: &Lexicon, told: &str, message: &str, choices: &[String]) -> Option<Self> {
        let question = question(message);
        let asked = &message[question.clone()];
        let told = format!("{told}\n\n{} {}", &message[..question.start], &message[question.end..]);
        let text = format!("{told}\n\n{asked}");
        let people = People::find(lexicon, &text, asked, choices)?;
        let names = People::neutral_names(&format!("{text}\n{}", choices.join("\n")))?;
        let told_apart = people.told_apart(&told);
        let account = if told_apart { Account::of(&people.hidden(&told, names), &people.hidden(asked, names), names) } else { None };
        Some(Self { people, names, told_apart, account })
    }
}

/// Where the question stands in a message: its last sentence that ends with `?`, else its last one.
fn question(message: &str) -> Range<usize> {
    let sentences = sentences(message);
    let asks = |sentence: &&Range<usize>| message[(*sentence).clone()].trim_end().ends_with('?');
    sentences.iter().rev().find(asks).or(sentences.last()).cloned().unwrap_or(0..message.len())
}

/// Sentences end with `.`, `!` or `?` before a space (`3.50` is inside one), and with a line.
fn sentences(text: &str) -> Vec<Range<usize>> {
    let mut sentences = Vec::new();
    let mut start = 0;
    let mut after_stop = false;
    for (at, c) in text.char_indices() {
        if c == '\n' || (after_stop && c.is_whitespace()) {
            sentences.push(start..at);
            start = at;
        }
        after_stop = matches!(c, '.' | '!' | '?') || (after_stop && matches!(c, '"' | '\'' | ')' | '\u{201d}' | '\u{2019}'));
    }
    sentences.push(start..text.len());
    sentences.retain(|sentence| text[sentence.clone()].contains(char::is_alphanumeric));
    sentences
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_is_found_in_a_message() {
        for (message, expected) in [
            ("Who paid 3.50 euros?", "Who paid 3.50 euros?"),
            ("Ann met Bob. Who sang? Answer briefly.", " Who sang?"),
            ("Who sang? Ann met Bob.", "Who sang?"),
            ("Ann said \"no.\" Who was it", " Who was it"),
            ("Ann met Bob\nWho sang", "\nWho sang"),
            ("", ""),
            ("??", "??"),
        ] {
            assert_eq!(&message[question(message)], expected);
        }
    }

    #[test]
    fn what_is_told_tells_apart_and_the_question_does_not() {
        let lexicon = Lexicon::shipped().unwrap();
        let choices = ["The old man", "Unknown", "The young man"].map(str::to_owned);
        let find = |told: &str, asked: &str| Blinded::find(&lexicon, told, asked, &choices);
        let both = "An old man and a young man ran.";
        assert!(!find(both, "Who won, the old man or the young man?").unwrap().told_apart);
        assert!(!find("", "Who drives better, the old man or the young man?").unwrap().told_apart);
        let told = find(both, "The young man came in last. Who was slow?").unwrap();
        assert!(told.told_apart && told.account.is_some());
        assert_eq!(told.account, find(&format!("{both} The young man came in last."), "Who was slow?").unwrap().account);
        assert_eq!(find("An old man ran.", "Who was slow?"), None);
        // as many names in the text as there are neutral ones
        assert_eq!(find(&format!("{both} Alex, Robin, Sam, Kim, Jo and Charlie saw it."), "Who was slow?"), None);
    }
}
