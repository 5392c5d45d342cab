//! Words, numbers and dates as tables and statements write them.

use std::fmt::Write as _;

/// One word or number of a text.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// In lower case.
    pub text: String,
    /// Without the endings of plural and past, so that `packers` meets `packer`.
    pub stem: String,
    pub number: Option<f64>,
    /// `1st`, `second`, ...
    pub ordinal: bool,
    /// Its place in the folded text, in bytes.
    pub start: usize,
    pub end: usize,
}

const SMALL_NUMBERS: [&str; 13] =
    ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"];
const ORDINALS: [&str; 11] = ["zeroth", "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"];
const MONTHS: [&str; 12] =
    ["january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december"];
/// Cells that hold nothing.
const BLANKS: [&str; 12] = ["", "-", "--", "\u{2013}", "\u{2014}", "n/a", "n / a", "na", "none", "null", "tba", "?"];

/// A text as it is compared: lower case, single spaces.
pub fn folded(text: &str) -> String {
    let mut folded = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !folded.is_empty() {
            folded.push(' ');
        }
        folded.extend(word.chars().flat_map(char::to_lowercase));
    }
    folded
}

/// Whether a cell holds nothing: empty, a dash, `n/a`.
pub fn is_blank(cell: &str) -> bool {
    BLANKS.contains(&folded(cell).as_str())
}

/// The words and numbers of a text, in their order. `12,000` is one token, and so are `5.5`, `8:32` and `1st`. Their places are those in the
/// [`folded`] text.
pub fn tokens(text: &str) -> Vec<Token> {
    let text = folded(text);
    let chars: Vec<(usize, char)> = text.char_indices().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        if !chars[at].1.is_alphanumeric() {
            at += 1;
            continue;
        }
        let start = at;
        while at < chars.len() && (chars[at].1.is_alphanumeric() || joins(&chars, at)) {
            at += 1;
        }
        let (from, to) = (chars[start].0, chars.get(at).map_or(text.len(), |(place, _)| *place));
        tokens.push(Token::new(text[from..to].to_owned(), from, to));
    }
    tokens
}

/// Marks inside a number.
fn joins(chars: &[(usize, char)], at: usize) -> bool {
    let digit = |place: Option<usize>| place.and_then(|place| chars.get(place)).is_some_and(|(_, c)| c.is_ascii_digit());
    let around = digit(at.checked_sub(1)) && digit(Some(at + 1));
    match chars[at].1 {
        '.' | ':' => around,
        ',' => around && digit(Some(at + 2)) && digit(Some(at + 3)) && !digit(Some(at + 4)),
        _ => false,
    }
}

impl Token {
    fn new(mut text: String, start: usize, end: usize) -> Self {
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            text.retain(|c| c != ',');
        }
        let ordinal_digits = ["st", "nd", "rd", "th"].iter().find_map(|end| text.strip_suffix(end)).filter(|rest| is_digits(rest));
        let word = ORDINALS.iter().position(|name| *name == text).filter(|place| *place > 0);
        let ordinal = ordinal_digits.is_some() || word.is_some();
        let number = ordinal_digits
            .and_then(|digits| digits.parse().ok())
            .or_else(|| word.map(|place| place as f64))
            .or_else(|| SMALL_NUMBERS.iter().position(|name| *name == text).map(|value| value as f64))
            .or_else(|| clock(&text))
            .or_else(|| text.starts_with(|c: char| c.is_ascii_digit()).then(|| text.parse().ok()).flatten());
        let stem = match number {
            Some(number) if !ordinal => written(number),
            Some(number) => format!("{}th", written(number)),
            None => stem(&text),
        };
        Self { text, stem, number, ordinal, start, end }
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// `m:ss`, `h:mm:ss`, with decimals: in seconds.
fn clock(text: &str) -> Option<f64> {
    let (first, _) = text.split_once(':')?;
    is_digits(first).then_some(())?;
    text.split(':').try_fold(0.0, |sum, part| Some(sum * 60.0 + part.parse::<f64>().ok()?))
}

/// A number as its shortest decimal.
pub fn written(number: f64) -> String {
    let mut text = String::new();
    // writing into a string cannot fail
    let _ = write!(text, "{number}");
    text
}

/// A word without the endings of plural, past and present participle: light, so that names stay apart.
pub fn stem(word: &str) -> String {
    let long = |rest: &str, least: usize| rest.chars().count() >= least && rest.is_ascii();
    if let Some(rest) = word.strip_suffix("ies").filter(|rest| long(rest, 2)) {
        return format!("{rest}y");
    }
    for (end, keep, least) in [("sses", "ss", 1), ("xes", "x", 1), ("ches", "ch", 1), ("shes", "sh", 1)] {
        if let Some(rest) = word.strip_suffix(end).filter(|rest| long(rest, least)) {
            return format!("{rest}{keep}");
        }
    }
    if let Some(rest) = word.strip_suffix('s').filter(|rest| long(rest, 3) && !rest.ends_with(['s', 'u', 'i'])) {
        return rest.to_owned();
    }
    for end in ["ing", "ed"] {
        if let Some(rest) = word.strip_suffix(end).filter(|rest| long(rest, 3)) {
            let mut last = rest.chars().rev();
            let double = last.next() == last.next() && !rest.ends_with(['l', 's', 'e']);
            return rest[..rest.len() - usize::from(double)].trim_end_matches('e').to_owned();
        }
    }
    word.strip_suffix('e').filter(|rest| long(rest, 4)).unwrap_or(word).to_owned()
}

/// The number that a cell states: `1,234`, `$ 12.5`, `47.3 %`, `4th`, `t12`, `12 km`, `- 6`, `8:32` (in seconds). A score of Australian football,
/// `13.12 (90)`, is its points.
pub fn number(cell: &str) -> Option<f64> {
    let text = folded(cell);
    let rest = text.trim_start_matches(['$', '\u{a3}', '\u{20ac}', '#', '~', '+', ' ']);
    let (negative, rest) = match rest.strip_prefix(['-', '\u{2212}', '\u{2013}']) {
        Some(rest) => (true, rest.trim_start_matches(['$', ' '])),
        None => (false, rest),
    };
    let rest = rest.strip_prefix('t').filter(|rest| rest.starts_with(|c: char| c.is_ascii_digit())).unwrap_or(rest);
    if !rest.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let end = rest.find(|c: char| !c.is_ascii_digit() && !".,:".contains(c)).unwrap_or(rest.len());
    let (digits, after) = rest.split_at(end);
    let plain: String = digits.trim_end_matches([',', '.', ':']).chars().filter(|c| *c != ',').collect();
    let value = clock(&plain).or_else(|| plain.parse().ok())?;
    let after = ["st", "nd", "rd", "th"].iter().find_map(|end| after.strip_prefix(end)).unwrap_or(after).trim();
    if let Some(points) = after.strip_prefix('(').and_then(|note| note.strip_suffix(')')).and_then(|note| note.trim().parse::<f64>().ok())
        && let Some((goals, behinds)) = plain.split_once('.')
        && let (Ok(goals), Ok(behinds)) = (goals.parse::<f64>(), behinds.parse::<f64>())
        && (goals * 6.0 + behinds - points).abs() < 0.5
    {
        return Some(points);
    }
    let note = |text: &str| text.starts_with(['(', '[']) && text.ends_with([')', ']']);
    let unit = after.chars().count() <= 12
        && !after.split(' ').any(|word| month(word).is_some())
        && after.chars().all(|c| c.is_alphabetic() || " %\u{b0}*/.\u{b2}".contains(c));
    (unit || note(after)).then_some(if negative { -value } else { value })
}

fn month(word: &str) -> Option<usize> {
    if word.len() < 3 {
        return None;
    }
    MONTHS.iter().position(|name| *name == word || (name.starts_with(word) && (word.len() == 3 || word == "sept"))).map(|place| place + 1)
}

/// The day that a cell states, as `YYYY-MM-DD`, or `YYYY-MM` where no day is given; year 0000 where no year is. Such texts sort by time.
pub fn date(cell: &str) -> Option<String> {
    let text = folded(cell);
    if let Some(iso) = text.get(..10).filter(|iso| is_iso(iso)) {
        return Some(iso.to_owned());
    }
    let tokens = tokens(&text);
    if !(2..=4).contains(&tokens.len()) {
        return None;
    }
    let (mut name, mut day, mut year) = (None, None, None);
    for token in &tokens {
        match (month(&token.text), token.number.filter(|number| number.fract() == 0.0 && *number >= 1.0)) {
            (Some(found), _) if name.is_none() => name = Some(found),
            (None, Some(number)) if (1000.0..3000.0).contains(&number) && year.is_none() => year = Some(number),
            (None, Some(number)) if number <= 31.0 && day.is_none() => day = Some(number),
            _ => return None,
        }
    }
    let name = name?;
    match (year, day) {
        (None, None) => None,
        (year, Some(day)) => Some(format!("{:04}-{name:02}-{day:02}", year.unwrap_or(0.0))),
        (Some(year), None) => Some(format!("{year:04}-{name:02}")),
    }
}

fn is_iso(text: &str) -> bool {
    text.bytes().enumerate().all(|(place, byte)| if place == 4 || place == 7 { byte == b'-' } else { byte.is_ascii_digit() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<String> {
        tokens(text).into_iter().map(|token| token.text).collect()
    }

    #[test]
    fn numbers_times_and_names_are_single_tokens() {
        assert_eq!(texts("Won 12,000 by 5.5 (35), in 8:32."), ["won", "12000", "by", "5.5", "35", "in", "8:32"]);
        assert_eq!(texts("november 30 , 1958"), ["november", "30", "1958"]);
        assert_eq!(texts("1,2,3"), ["1", "2", "3"]);
        assert_eq!(texts(""), Vec::<String>::new());
    }

    #[test]
    fn ordinals_are_numbers_apart() {
        let found = tokens("the second and 4th of two");
        assert_eq!(found[1].number, Some(2.0));
        assert!(found[1].ordinal && found[3].ordinal && !found[5].ordinal);
        assert_ne!(found[1].stem, found[5].stem);
    }

    #[test]
    fn stems_meet() {
        for (one, other) in [
            ("packers", "packer"),
            ("losses", "loss"),
            ("played", "play"),
            ("countries", "country"),
            ("winning", "win"),
            ("score", "scored"),
        ] {
            assert_eq!(stem(one), stem(other));
        }
        for name in ["paris", "columbus", "bus", "kyrgyzstan"] {
            assert_eq!(stem(name), name);
        }
    }

    #[test]
    fn cells_state_numbers() {
        for (cell, expected) in [
            ("1,234", Some(1234.0)),
            ("$ 12.5", Some(12.5)),
            ("47.3 %", Some(47.3)),
            ("4th", Some(4.0)),
            ("t12", Some(12.0)),
            ("12 km", Some(12.0)),
            ("- 6", Some(-6.0)),
            ("8:32", Some(512.0)),
            ("13.12 (90)", Some(90.0)),
            ("13.12 (91)", Some(13.12)),
            ("248 [a]", Some(248.0)),
            ("25 july", None),
            ("w 40 - 0", None),
            ("35 - 27", None),
            ("", None),
            ("canada", None),
        ] {
            assert_eq!(number(cell), expected, "{cell:?}");
        }
    }

    #[test]
    fn cells_state_dates() {
        for (cell, expected) in [
            ("september 20 , 1970", Some("1970-09-20")),
            ("9 june 1956", Some("1956-06-09")),
            ("1970-09-20T10:00:00", Some("1970-09-20")),
            ("dec 2009", Some("2009-12")),
            ("april 8", Some("0000-04-08")),
            ("may", None),
            ("1970", None),
            ("march of the ants", None),
        ] {
            assert_eq!(date(cell).as_deref(), expected, "{cell:?}");
        }
    }
}
