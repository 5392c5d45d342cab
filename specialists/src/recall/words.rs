//! Words as a search compares them: lower-case, without stop words, stemmed, as numbers.

use std::collections::HashMap;

use qdrant_rust_stemmers::{Algorithm, Stemmer};

/// Words of grammar: they stand in every turn and tell none from another.
const STOP_WORDS: &str = " a an the and or but if of to in on at for with by from up about into over after is am are was were be been being do does did \
    doing have has had having i you he she it we they me him her us them my your his its our their this that these those what which who whom \
    whose when where why how not no so as can could will would should may might must than then there here just s t d m re ve ll im ive ill id \
    youre youve hes shes were theyre thats whats dont didnt doesnt isnt wasnt cant ";

/// Turns words into numbers, the same number for every form of a word.
pub(super) struct Lexicon {
    stemmer: Stemmer,
    stems: HashMap<String, u32>,
    /// `None` for a stop word.
    seen: HashMap<String, Option<u32>>,
}

impl Lexicon {
    pub(super) fn new() -> Self {
        Self { stemmer: Stemmer::create(Algorithm::English), stems: HashMap::new(), seen: HashMap::new() }
    }

    /// The number of a lower-case word; `None` for a stop word.
    pub(super) fn word(&mut self, word: &str) -> Option<u32> {
        if let Some(&known) = self.seen.get(word) {
            return known;
        }
        let number = (!STOP_WORDS.contains(&format!(" {word} "))).then(|| {
            let next = self.stems.len() as u32;
            *self.stems.entry(self.stemmer.stem(word).into_owned()).or_insert(next)
        });
        self.seen.insert(word.to_owned(), number);
        number
    }

    /// The numbers of a text's words, in order, without stop words.
    pub(super) fn words(&mut self, text: &str) -> Vec<u32> {
        tokens(text).iter().filter_map(|token| self.word(token)).collect()
    }
}

/// Lower-case words and numbers, `'s` taken off and other apostrophes left out (`don't` is `dont`).
pub(super) fn tokens(text: &str) -> Vec<String> {
    let text = text.to_lowercase().replace('\u{2019}', "'");
    let words = text.split(|c: char| !c.is_alphanumeric() && c != '\'').map(|word| {
        let word = word.trim_matches('\'');
        word.strip_suffix("'s").unwrap_or(word).replace('\'', "")
    });
    words.filter(|word| !word.is_empty()).collect()
}

/// Words with a capital that do not begin a sentence, lower-case: names, mostly.
pub(super) fn names(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut begins = true;
    for word in text.split(|c: char| c.is_whitespace() || c == '/') {
        let opens = word.starts_with(['"', '\u{201c}', '\u{2018}']);
        let plain = word.trim_matches(|c: char| !c.is_alphanumeric());
        if let Some(first) = plain.chars().next() {
            let pronoun = plain == "I" || plain.starts_with("I'") || plain.starts_with("I\u{2019}");
            if first.is_uppercase() && !begins && !opens && !pronoun {
                found.extend(tokens(plain));
            }
            begins = false;
        }
        let closed = word.trim_end_matches(['"', '\u{201d}', '\'', ')']);
        if closed.ends_with(['.', '!', '?']) {
            begins = true;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeded::Seeded;

    #[test]
    fn forms_of_a_word_are_one() {
        let mut lexicon = Lexicon::new();
        for forms in [&["move", "moves", "moved", "moving"][..], &["study", "studies", "studied"], &["class", "classes"]] {
            for form in forms {
                assert_eq!(lexicon.word(form), lexicon.word(forms[0]), "{form}");
            }
        }
        assert_ne!(lexicon.word("paint"), lexicon.word("point"));
        assert_eq!(lexicon.word("where"), None);
        assert_eq!(lexicon.words("When did they move?").len(), 1);
    }

    #[test]
    fn apostrophes_join_and_possessives_go() {
        assert_eq!(
            tokens("Maria's dogs don\u{2019}t like  '90s rock-music (2023)!"),
            ["maria", "dogs", "dont", "like", "90s", "rock", "music", "2023"]
        );
        assert_eq!(tokens("¿Où? 東京 's '"), ["où", "東京", "s"]);
    }

    #[test]
    fn names_have_capitals_within_a_sentence() {
        assert_eq!(names("Last week I met Anna in New York. She said hi. I'm off to Turin!"), ["anna", "new", "york", "turin"]);
        assert!(names("\"Home is far\" \"Yes\" it is").is_empty());
    }

    #[test]
    fn no_text_makes_it_panic() {
        let mut random = Seeded::new();
        let mut lexicon = Lexicon::new();
        for _ in 0..2_000 {
            let text = random.unicode(40);
            let words = lexicon.words(&text).len();
            assert!(words <= tokens(&text).len() && names(&text).iter().all(|name| !name.is_empty()), "seed {}: {text:?}", random.seed);
        }
    }
}
