//! Phrase patterns.

use super::normal::{Token, single, tokens};

/// Maximum number of words that a gap (`..`) matches.
const GAP: usize = 3;

/// A phrase: a sequence of words, each with its alternatives (`kill|hurt`); a `*` at a word's end
/// matches any ending, and `..` up to three arbitrary words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern(Vec<Element>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Element {
    Word(Vec<Alternative>),
    Gap,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Alternative {
    word: String,
    single: String,
    any_ending: bool,
}

/// The result of matching a pattern at a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Match {
    /// The match ends before this token.
    Full(usize),
    /// The text ends before the pattern does, and matches so far.
    Partial,
    No,
}

impl Pattern {
    /// Parses a phrase.
    ///
    /// # Errors
    /// A description of the invalid part.
    pub(super) fn parse(phrase: &str) -> Result<Self, String> {
        let mut elements = Vec::new();
        for part in phrase.split_whitespace() {
            if part == ".." {
                elements.push(Element::Gap);
                continue;
            }
            // alternatives with an apostrophe would be several words
            if let [word] = part.split('|').collect::<Vec<_>>().as_slice()
                && let several = tokens(word)
                && several.len() > 1
            {
                elements.extend(
                    several
                        .into_iter()
                        .map(|token| Element::Word(vec![Alternative::new(&token.plain, false)])),
                );
                continue;
            }
            let alternatives = part.split('|').map(|word| {
                let (stem, any_ending) =
                    word.strip_suffix('*').map_or((word, false), |stem| (stem, true));
                match tokens(stem).as_slice() {
                    [token] if stem.chars().any(char::is_alphanumeric) => {
                        Ok(Alternative::new(&token.plain, any_ending))
                    }
                    _ => {
                        Err(format!("{phrase:?} has the word {word:?}, expected letters or digits"))
                    }
                }
            });
            elements.push(Element::Word(alternatives.collect::<Result<_, String>>()?));
        }
        let edges = [elements.first(), elements.last()];
        if edges.iter().any(|edge| !matches!(edge, Some(Element::Word(_)))) {
            return Err(format!(
                "{phrase:?} is no phrase, expected words with `..` between them at most"
            ));
        }
        Ok(Self(elements))
    }

    /// Maximum number of tokens that it matches.
    pub(super) fn longest(&self) -> usize {
        self.0.iter().map(|element| if matches!(element, Element::Gap) { GAP } else { 1 }).sum()
    }

    /// Matches it at the start of `tokens`. `growing` means that the last token may be incomplete.
    pub(super) fn at(&self, tokens: &[Token], growing: bool) -> Match {
        match_from(&self.0, tokens, 0, growing)
    }
}

impl Alternative {
    fn new(word: &str, any_ending: bool) -> Self {
        Self { word: word.to_owned(), single: single(word), any_ending }
    }

    fn is(&self, token: &Token) -> bool {
        let same = |text: &str, word: &str| {
            if self.any_ending { text.starts_with(word) } else { text == word }
        };
        same(&token.plain, &self.word)
            || token.squeezed.as_ref().is_some_and(|squeezed| same(squeezed, &self.single))
    }

    /// Whether an incomplete token may still become it.
    fn may_become(&self, token: &Token) -> bool {
        self.word.starts_with(&token.plain)
            || self.is(token)
            || self.single.starts_with(&single(&token.plain))
    }
}

fn match_from(elements: &[Element], tokens: &[Token], at: usize, growing: bool) -> Match {
    let Some((element, rest)) = elements.split_first() else { return Match::Full(at) };
    match element {
        Element::Word(alternatives) => {
            let Some(token) = tokens.get(at) else { return Match::Partial };
            let last = growing && at + 1 == tokens.len();
            if alternatives.iter().any(|word| word.is(token)) {
                match match_from(rest, tokens, at + 1, growing) {
                    // "die" may still become "diet"
                    Match::Full(_) if last => Match::Partial,
                    found => found,
                }
            } else if last && alternatives.iter().any(|word| word.may_become(token)) {
                Match::Partial
            } else {
                Match::No
            }
        }
        Element::Gap => {
            let mut partial = Match::No;
            for skipped in 0..=GAP {
                // a gap does not cross a sentence boundary
                if skipped > 0
                    && tokens.get(at + skipped - 1).is_some_and(|token| token.begins_clause)
                {
                    break;
                }
                match match_from(rest, tokens, at + skipped, growing) {
                    Match::Full(end) => return Match::Full(end),
                    Match::Partial => partial = Match::Partial,
                    Match::No => {}
                }
            }
            partial
        }
    }
}
