//! Reads a stated probability out of free text.
//!
//! Asked for: a last line `Probability: 70%`. Understood as well, in this order:
//! 1. after a label (`probability`, `chance` or `likelihood`, then `:` or `=`), the last label first, also when the value stands on the
//!    next line: `70%`, `70 percent`, `0.7`, `7 in 10`, `7 out of 10`, `7/10`, and here alone bare numbers (`70`; `0` and `1` are the ends);
//! 2. in a sentence, the last one first: `a 70% chance`, `70% likely`, `the probability is about 0.7`, `a chance of 7 in 10`;
//! 3. a last line that holds nothing else: `About 70%.`
//!
//! A range (`between 60 and 70%`, `60-70%`) is its midpoint, a bound (`over 90%`) itself, and `60/40` the first of two odds that make 100.
//! Other numbers (years, prices, growth rates) do not count. What is written as a probability but lies outside [0, 1] gives `None`.

/// Words and marks that may stand between a label and its value.
const HEDGES: [&str; 28] = [
    "about",
    "above",
    "almost",
    "approximately",
    "approx",
    "around",
    "at",
    "below",
    "between",
    "from",
    "i'd",
    "i",
    "is",
    "it's",
    "least",
    "less",
    "maybe",
    "more",
    "most",
    "nearly",
    "or",
    "over",
    "perhaps",
    "roughly",
    "say",
    "than",
    "under",
    "would",
];
const CUES: [&str; 3] = ["probability", "chance", "likelihood"];
/// What may follow a value that is one: `70% likely`.
const AFTER: [&str; 6] = ["chance", "likely", "likelihood", "probability", "probable", "certain"];
/// Words before a value that tie it to a cue earlier in the sentence.
const LINKS: [&str; 5] = ["is", "at", "be", "as", "being"];
/// Words that may follow `a chance of 70%`; another word would make it a chance of something else: `a chance of 5% growth`.
const FOLLOW: [&str; 14] = ["and", "as", "based", "because", "by", "for", "given", "in", "of", "on", "or", "that", "to", "which"];

/// The probability that an answer states, in [0, 1].
pub fn read_probability(answer: &str) -> Option<f64> {
    // ASCII case changes no byte's place. The typographic apostrophe is the one that hedges are written with.
    let text = answer.to_ascii_lowercase().replace('’', "'");
    let stated = after_label(&text).or_else(|| in_sentence(&text)).or_else(|| alone(&text))?;
    (0.0..=1.0).contains(&stated.value).then_some(stated.value)
}

/// A number with the unit that makes it a probability, not yet checked against [0, 1].
#[derive(Debug, Clone, Copy, PartialEq)]
struct Quantity<'a> {
    value: f64,
    /// Written as a probability; otherwise a bare number that only a label makes one.
    explicit: bool,
    rest: &'a str,
}

fn after_label(text: &str) -> Option<Quantity<'_>> {
    let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect::<Vec<_>>();
    starts.into_iter().rev().find_map(|start| {
        let line = text[start..].lines().next().unwrap_or_default();
        let (_, cue_end) = CUES.iter().filter_map(|cue| find_word(line, cue)).min()?;
        line.match_indices([':', '=']).filter(|(at, _)| *at >= cue_end).find_map(|(at, _)| {
            let value = &line[at + 1..];
            if between_digits(line, at) {
                return None;
            }
            if !value.contains(char::is_alphanumeric) {
                return labelled(text[start + line.len()..].trim_start().lines().next()?);
            }
            labelled(value)
        })
    })
}

/// The value behind a label: directly, also a bare number, or the first one that is written as a probability.
fn labelled(value: &str) -> Option<Quantity<'_>> {
    let (direct, between) = skip_hedges(value);
    quantity(direct, between, true)
        .filter(|found| {
            found.explicit || (0.0..=1.0).contains(&found.value) && next_word(found.rest).is_none_or(|word| FOLLOW.contains(&word))
        })
        .or_else(|| quantities(value).map(|(_, found)| found).next())
}

fn in_sentence(text: &str) -> Option<Quantity<'_>> {
    text.lines().rev().flat_map(|line| sentences(line).into_iter().rev()).find_map(|sentence| {
        quantities(sentence)
            .find_map(|(at, found)| (is_followed_by_cue(found.rest) || is_tied_to_cue(&sentence[..at], found.rest)).then_some(found))
    })
}

fn is_followed_by_cue(rest: &str) -> bool {
    next_word(rest).is_some_and(|word| AFTER.contains(&word))
}

fn is_tied_to_cue(before: &str, rest: &str) -> bool {
    let Some(cue_end) = CUES.iter().filter_map(|cue| before.rfind(cue).map(|at| at + cue.len())).max() else { return false };
    let tail = &before[cue_end..];
    let words: Vec<&str> = tail.split(|c: char| !c.is_alphanumeric() && c != '\'').filter(|word| !word.is_empty()).collect();
    if tail.trim_end().ends_with('(')
        || words.iter().rev().take_while(|word| HEDGES.contains(word) || LINKS.contains(word)).any(|word| LINKS.contains(word))
    {
        return true;
    }
    let of = words.first() == Some(&"of") && words[1..].iter().all(|word| HEDGES.contains(word));
    of && next_word(rest).is_none_or(|word| FOLLOW.contains(&word))
}

fn alone(text: &str) -> Option<Quantity<'_>> {
    let line = text.lines().rev().find(|line| line.contains(char::is_alphanumeric))?;
    let (start, between) = skip_hedges(line);
    quantity(start, between, false).filter(|found| found.explicit && !found.rest.contains(char::is_alphanumeric))
}

/// Every quantity of a text that is written as a probability, with its place.
fn quantities(text: &str) -> impl Iterator<Item = (usize, Quantity<'_>)> {
    let mut end = 0;
    text.char_indices().filter_map(move |(at, c)| {
        let before = text[..at].chars().next_back();
        let inside = before.is_some_and(|b| b.is_alphanumeric() || ".,/:$€£¥-−".contains(b));
        if at < end || inside || !(c.is_ascii_digit() || c == '.' || c == '-' || c == '−') {
            return None;
        }
        let between = text[..at].trim_end().ends_with("between") || text[..at].trim_end().ends_with("from");
        let found = quantity(&text[at..], between, false).filter(|found| found.explicit)?;
        end = text.len() - found.rest.len();
        Some((at, found))
    })
}

/// The quantity at the start of a text. `between` lets `and` join a range; `labelled` lets a slash make a fraction, which elsewhere may
/// be a date.
fn quantity(text: &str, between: bool, labelled: bool) -> Option<Quantity<'_>> {
    let first = Number::read(text)?;
    if let Some(range) = first.range(between) {
        return Some(range);
    }
    if let Some(rest) = percent(first.rest) {
        return Some(Quantity { value: first.value / 100.0, explicit: true, rest });
    }
    if let Some(fraction) = first.fraction(labelled) {
        return Some(fraction);
    }
    if first.rest.starts_with('/') {
        return None;
    }
    let (value, explicit) = first.bare();
    Some(Quantity { value, explicit, rest: first.rest })
}

#[derive(Debug, Clone, Copy)]
struct Number<'a> {
    value: f64,
    /// It was written with a decimal point or comma.
    decimal: bool,
    rest: &'a str,
}

impl<'a> Number<'a> {
    /// Digits with an optional sign, point or comma (`1,000` is a thousand, `0,7` is seven tenths) that no letter follows.
    fn read(text: &'a str) -> Option<Self> {
        let unsigned = text.strip_prefix(['-', '−', '+']).unwrap_or(text);
        let negative = text.starts_with(['-', '−']);
        let mut digits = String::new();
        let mut decimal = false;
        let mut rest = unsigned;
        loop {
            let run = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            digits.push_str(&rest[..run]);
            rest = &rest[run..];
            let Some(after) = rest.strip_prefix(['.', ',']) else { break };
            let next = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
            if next == 0 || decimal || (rest.starts_with(',') && digits.is_empty()) {
                break;
            }
            if !(rest.starts_with(',') && next == 3) {
                decimal = true;
                digits.push('.');
            }
            rest = after;
        }
        if rest.starts_with(char::is_alphabetic) {
            return None;
        }
        let value: f64 = digits.parse().ok()?;
        Some(Self { value: if negative { -value } else { value }, decimal, rest })
    }

    /// `60-70%`, `60% to 70%`, `between 0.6 and 0.7`: its midpoint.
    fn range(self, between: bool) -> Option<Quantity<'a>> {
        let low_percent = percent(self.rest);
        let joint = low_percent.unwrap_or(self.rest).trim_start();
        let and = if between { joint.strip_prefix("and ") } else { None };
        let high = Self::read(and.or_else(|| joint.strip_prefix("to ")).or_else(|| joint.strip_prefix(['-', '–', '—']))?.trim_start())?;
        let middle = f64::midpoint(self.value, high.value);
        if let Some(rest) = percent(high.rest) {
            return Some(Quantity { value: middle / 100.0, explicit: true, rest });
        }
        let plain = low_percent.is_none() && self.value <= high.value;
        if plain && self.decimal && high.decimal && high.value <= 1.0 {
            return Some(Quantity { value: middle, explicit: true, rest: high.rest });
        }
        (plain && !self.decimal && !high.decimal && high.value > 1.0).then_some(Quantity {
            value: middle / 100.0,
            explicit: false,
            rest: high.rest,
        })
    }

    /// `7 in 10`, `7 out of 10`, `7/10`.
    fn fraction(self, slash: bool) -> Option<Quantity<'a>> {
        let joint = self.rest.trim_start();
        let (rest, by) =
            [("out of ", "of"), ("in ", "in"), ("/", "/")].into_iter().find_map(|(word, by)| Some((joint.strip_prefix(word)?, by)))?;
        let whole = Self::read(rest.trim_start()).filter(|whole| whole.value > 0.0 && !whole.decimal && !self.decimal)?;
        let year = by == "in" && (1900.0..=2100.0).contains(&whole.value);
        if year || (by == "/" && (!slash || whole.rest.starts_with('/'))) {
            return None;
        }
        let odds = by == "/" && self.value + whole.value == 100.0;
        Some(Quantity { value: self.value / if odds { 100.0 } else { whole.value }, explicit: true, rest: whole.rest })
    }

    /// A number without a unit: up to 1 it is a probability (and if it has a decimal point, is meant as one), from 2 on a percentage. What lies
    /// between is neither, and stays out of range.
    fn bare(self) -> (f64, bool) {
        if self.value <= 1.0 { (self.value, self.decimal) } else { (if self.value < 2.0 { 2.0 } else { self.value / 100.0 }, false) }
    }
}

/// What follows a percent sign or word.
fn percent(text: &str) -> Option<&str> {
    let text = text.trim_start_matches([' ', '\u{a0}', '\u{202f}', '*']);
    if let Some(rest) = text.strip_prefix(['%', '％', '٪']) {
        return Some(rest);
    }
    let rest = ["percent", "per cent", "pct"].iter().find_map(|word| text.strip_prefix(word))?;
    (!rest.starts_with(char::is_alphanumeric)).then_some(rest)
}

/// What follows hedging words and marks, and whether `between` or `from` was among them.
fn skip_hedges(text: &str) -> (&str, bool) {
    let mut between = false;
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches(|c: char| c.is_whitespace() || "*_`\"'([~≈<>≤≥=|#".contains(c));
        let word = &rest[..rest.find(|c: char| !c.is_alphanumeric() && c != '\'').unwrap_or(rest.len())];
        if !HEDGES.contains(&word) {
            return (rest, between);
        }
        between |= word == "between" || word == "from";
        rest = rest[word.len()..].trim_start_matches('.');
    }
}

/// Start and end of the first place where `word` stands by itself.
fn find_word(text: &str, word: &str) -> Option<(usize, usize)> {
    text.match_indices(word).map(|(at, _)| (at, at + word.len())).find(|&(at, end)| {
        !text[..at].ends_with(char::is_alphanumeric) && !text[end..].trim_start_matches('s').starts_with(char::is_alphanumeric)
    })
}

/// The word that follows, unless a mark other than space or emphasis stands before it.
fn next_word(text: &str) -> Option<&str> {
    let text = text.trim_start_matches([' ', '*', '_']);
    let end = text.find(|c: char| !c.is_alphanumeric()).unwrap_or(text.len());
    (end > 0).then_some(&text[..end])
}

fn sentences(line: &str) -> Vec<&str> {
    line.split_inclusive(". ").flat_map(|part| part.split_inclusive(['!', '?', ';'])).collect()
}

fn between_digits(line: &str, at: usize) -> bool {
    line[..at].ends_with(|c: char| c.is_ascii_digit()) && line[at + 1..].starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests;
