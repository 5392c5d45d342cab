//! The groups of people that are watched over, by axis, read from `groups.toml`.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::Deserialize;

use super::spans::{agree_article, capitalised, find, words};

/// The shipped lists.
const SHIPPED: &str = include_str!("groups.toml");

/// What a group may be named by, on each axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lexicon {
    /// Rows of terms of the same kind, any of which may stand where another stood.
    rows: Vec<Row>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    axis: String,
    /// As written, and as words in lower case.
    terms: Vec<(String, Vec<String>)>,
}

#[derive(Deserialize)]
struct File(BTreeMap<String, Vec<Vec<String>>>);

/// A group that a text names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMention {
    pub axis: String,
    pub term: String,
    /// Bytes of the text.
    pub span: Range<usize>,
    /// Another term of the row, to stand there instead.
    pub counterpart: String,
}

impl Lexicon {
    /// The lists that are inside the binary.
    pub fn shipped() -> Result<Self, String> {
        Self::parse(SHIPPED)
    }

    /// Reads lists: a table an axis with `rows`, each a list of at least two terms.
    ///
    /// # Errors
    /// What is wrong with the file, in one line.
    pub fn parse(text: &str) -> Result<Self, String> {
        let File(axes) = toml::from_str(text).map_err(|error| error.message().replace('\n', ", "))?;
        let mut rows = Vec::new();
        for (axis, lists) in axes {
            for list in lists {
                if list.len() < 2 {
                    return Err(format!("{axis} has the row {list:?}, expected at least two terms in it"));
                }
                let terms: Vec<(String, Vec<String>)> = list
                    .into_iter()
                    .map(|term| {
                        let parts = words(&term).into_iter().map(|word| word.lower).collect();
                        (term, parts)
                    })
                    .collect();
                if let Some((term, _)) = terms.iter().find(|(_, parts)| parts.is_empty()) {
                    return Err(format!("{axis} has the term {term:?}, expected a word"));
                }
                rows.push(Row { axis: axis.clone(), terms });
            }
        }
        Ok(Self { rows })
    }

    /// Every group that a text names, in the order in which they stand; the longest term wins where several begin alike.
    pub fn mentions(&self, text: &str) -> Vec<GroupMention> {
        let found = words(text);
        let mut mentions: Vec<(Range<usize>, GroupMention)> = Vec::new();
        for row in &self.rows {
            for (index, (term, parts)) in row.terms.iter().enumerate() {
                for range in find(&found, parts) {
                    let counterpart = row.terms[(index + 1) % row.terms.len()].0.clone();
                    let span = found[range.start].span.start..found[range.end - 1].span.end;
                    mentions.push((range, GroupMention { axis: row.axis.clone(), term: term.clone(), span, counterpart }));
                }
            }
        }
        mentions.sort_by_key(|(range, _)| (range.start, std::cmp::Reverse(range.end)));
        let mut end = 0;
        mentions.retain(|(range, _)| {
            let free = range.start >= end;
            if free {
                end = range.end;
            }
            free
        });
        mentions.into_iter().map(|(_, mention)| mention).collect()
    }

    /// The text about other groups: the first group that it names, wherever it stands, with its counterpart in its place. `None` where it names none.
    pub fn exchanged(&self, text: &str) -> Option<String> {
        let mentions = self.mentions(text);
        let first = mentions.first()?;
        let mut out = String::with_capacity(text.len() + 16);
        let mut from = 0;
        for mention in mentions.iter().filter(|mention| mention.term == first.term) {
            out.push_str(&text[from..mention.span.start]);
            agree_article(&mut out, &mention.counterpart);
            let capital = text[mention.span.start..].starts_with(char::is_uppercase) && mention.term.starts_with(char::is_lowercase);
            out.push_str(&if capital { capitalised(&mention.counterpart) } else { mention.counterpart.clone() });
            let plural = text[mention.span.clone()].chars().count() > mention.term.chars().count();
            out.push_str(if plural && !mention.counterpart.ends_with('s') { "s" } else { "" });
            from = mention.span.end;
        }
        out.push_str(&text[from..]);
        Some(out)
    }

    /// The axes that a text touches, each once.
    pub fn axes(&self, text: &str) -> Vec<String> {
        let mut axes: Vec<String> = Vec::new();
        for mention in self.mentions(text) {
            if !axes.contains(&mention.axis) {
                axes.push(mention.axis);
            }
        }
        axes
    }
}
