//! Normalises words for screening, however they are spelt, spaced, decorated or disguised.

use std::ops::Range;

/// A normalised word, and its position in the original text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) span: Range<usize>,
    /// Lower case, with look-alike letters replaced by ASCII.
    pub(super) plain: String,
    /// The same with every run of a letter collapsed to one, if a letter occurs three times in a
    /// row (`killll`).
    pub(super) squeezed: Option<String>,
    /// Whether a sentence or a clause ends before it.
    pub(super) begins_clause: bool,
    pub(super) begins_sentence: bool,
}

/// Normalises a character: case, accents, full width and the most common letters of other alphabets
/// that look like Latin ones (a small subset of Unicode's confusables, UTS 39). `None` is a
/// character that is not part of a word and does not end one (zero-width characters, combining
/// marks).
fn plain(c: char) -> Option<char> {
    Some(match c {
        '\u{200B}'..='\u{200F}'
        | '\u{2060}'
        | '\u{FEFF}'
        | '\u{00AD}'
        | '\u{0300}'..='\u{036F}'
        | '\u{FE00}'..='\u{FE0F}' => return None,
        '\u{FF01}'..='\u{FF5E}' => plain(char::from_u32(u32::from(c) - 0xFEE0)?)?,
        '\u{1D400}'..='\u{1D6A3}' => char::from(b'a' + ((u32::from(c) - 0x1D400) % 52 % 26) as u8),
        '\u{24B6}'..='\u{24CF}' => char::from(b'a' + (u32::from(c) - 0x24B6) as u8),
        '\u{24D0}'..='\u{24E9}' => char::from(b'a' + (u32::from(c) - 0x24D0) as u8),
        '\u{2018}' | '\u{2019}' | '\u{02BC}' | '`' | '\u{00B4}' => '\'',
        'à' | 'á' | 'â' | 'ã' | 'ä' | 'å' | 'À' | 'Á' | 'Â' | 'Ã' | 'Ä' | 'Å' | 'а' | 'А' | 'α'
        | 'Α' => 'a',
        'ç' | 'Ç' | 'с' | 'С' => 'c',
        'è' | 'é' | 'ê' | 'ë' | 'È' | 'É' | 'Ê' | 'Ë' | 'е' | 'Е' | 'ё' | 'Ё' | 'ε' | 'Ε' => {
            'e'
        }
        'ì' | 'í' | 'î' | 'ï' | 'Ì' | 'Í' | 'Î' | 'Ï' | 'і' | 'І' | 'ı' | 'ι' | 'Ι' => {
            'i'
        }
        'ñ' | 'Ñ' | 'п' | 'η' => 'n',
        'ò' | 'ó' | 'ô' | 'õ' | 'ö' | 'ø' | 'Ò' | 'Ó' | 'Ô' | 'Õ' | 'Ö' | 'Ø' | 'о' | 'О' | 'ο'
        | 'Ο' => 'o',
        'ù' | 'ú' | 'û' | 'ü' | 'Ù' | 'Ú' | 'Û' | 'Ü' | 'υ' => 'u',
        'ý' | 'ÿ' | 'у' | 'У' | 'γ' => 'y',
        'р' | 'Р' | 'ρ' | 'Ρ' => 'p',
        'х' | 'Х' | 'χ' | 'Χ' => 'x',
        'к' | 'К' | 'κ' | 'Κ' => 'k',
        'м' | 'М' | 'Μ' => 'm',
        'т' | 'Т' | 'τ' | 'Τ' => 't',
        'в' | 'В' | 'Β' | 'β' => 'b',
        'н' | 'Н' | 'Η' => 'h',
        'ѕ' | 'Ѕ' => 's',
        'ј' | 'Ј' => 'j',
        'Ζ' => 'z',
        'ν' => 'v',
        'ԁ' => 'd',
        'ɡ' => 'g',
        'ⅼ' | 'ӏ' => 'l',
        _ => c.to_lowercase().next().unwrap_or(c),
    })
}

/// The letter that a digit or sign replaces inside a word (`su1c1de`, `k!ll`).
fn unmasked(c: char) -> char {
    match c {
        '0' => 'o',
        '1' | '!' | '|' => 'i',
        '3' => 'e',
        '4' | '@' => 'a',
        '5' | '$' => 's',
        '7' => 't',
        _ => c,
    }
}

/// The words of a text. Contractions with `not` are expanded (`don't` is `do`, `not`); consecutive
/// single letters are joined to one word (`k i l l`, `k.i.l.l`).
pub(super) fn tokens(text: &str) -> Vec<Token> {
    let mut raw = split(text);
    raw = join_spelt(raw);
    raw.into_iter().flat_map(finish).collect()
}

struct Raw {
    span: Range<usize>,
    chars: Vec<char>,
    begins_clause: bool,
    begins_sentence: bool,
}

fn split(text: &str) -> Vec<Raw> {
    let mut raw: Vec<Raw> = Vec::new();
    let mut current: Option<Raw> = None;
    let (mut clause, mut sentence) = (true, true);
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let end = at + c.len_utf8();
        let Some(c) = plain(c) else { continue };
        let next_joins = |chars: &mut std::iter::Peekable<std::str::CharIndices<'_>>| {
            chars.peek().and_then(|(_, next)| plain(*next)).is_some_and(char::is_alphanumeric)
        };
        let inside = "'!|@$*".contains(c) && current.is_some() && next_joins(&mut chars);
        let leads = "@$".contains(c) && next_joins(&mut chars);
        if c.is_alphanumeric() || inside || leads {
            let word = current.get_or_insert_with(|| Raw {
                span: at..end,
                chars: Vec::new(),
                begins_clause: std::mem::take(&mut clause),
                begins_sentence: std::mem::take(&mut sentence),
            });
            word.chars.push(c);
            word.span.end = end;
        } else {
            raw.extend(current.take());
            // "k.i.l.l": a full stop directly followed by a letter ends no sentence
            sentence |= matches!(c, '\n' | '!' | '?') || (c == '.' && !next_joins(&mut chars));
            clause |= sentence || matches!(c, ',' | ';' | ':');
        }
    }
    raw.extend(current);
    raw
}

/// Joins three or more consecutive single letters to one word, except a leading `a` or `i`, which
/// are words themselves.
fn join_spelt(raw: Vec<Raw>) -> Vec<Raw> {
    let mut joined: Vec<Raw> = Vec::with_capacity(raw.len());
    let mut run: Vec<Raw> = Vec::new();
    let flush = |run: &mut Vec<Raw>, joined: &mut Vec<Raw>| {
        let keep = if run.len() > 3
            && run.first().is_some_and(|word| matches!(word.chars[0], 'a' | 'i'))
        {
            1
        } else {
            0
        };
        if run.len() < 3 + keep {
            joined.append(run);
            return;
        }
        let mut letters = run.drain(..);
        joined.extend(letters.by_ref().take(keep));
        if let Some(first) = letters.next() {
            joined.push(letters.fold(first, |word, letter| Raw {
                span: word.span.start..letter.span.end,
                chars: word.chars.into_iter().chain(letter.chars).collect(),
                begins_clause: word.begins_clause,
                begins_sentence: word.begins_sentence,
            }));
        }
    };
    for word in raw {
        let single = word.chars.len() == 1 && word.chars[0].is_alphabetic();
        if single && (run.is_empty() || !word.begins_clause) {
            run.push(word);
        } else {
            flush(&mut run, &mut joined);
            if single { run.push(word) } else { joined.push(word) }
        }
    }
    flush(&mut run, &mut joined);
    joined
}

fn finish(word: Raw) -> Vec<Token> {
    let Raw { span, mut chars, begins_clause, begins_sentence } = word;
    let letters = chars.iter().filter(|c| c.is_alphabetic()).count();
    if letters > 0
        && letters < chars.len()
        && chars.iter().all(|c| c.is_alphabetic() || unmasked(*c) != *c || *c == '*')
        && letters >= chars.len() / 2
    {
        chars = chars.into_iter().map(unmasked).collect();
    }
    let mut text: String = chars.into_iter().collect();
    let negated = strip_negation(&mut text);
    if let Some((stem, ending)) = text.split_once('\'') {
        // "i'm", "he'll", "they're": the verb is a word of its own, the possessive is not
        let verb = match ending {
            "m" => Some("am"),
            "re" => Some("are"),
            "ve" => Some("have"),
            "ll" => Some("will"),
            "d" => Some("would"),
            _ => None,
        };
        let stem = Token {
            span: span.clone(),
            squeezed: squeeze(stem),
            plain: stem.into(),
            begins_clause,
            begins_sentence,
        };
        let verb = verb.map(|verb| Token {
            span: span.clone(),
            plain: verb.into(),
            squeezed: None,
            begins_clause: false,
            begins_sentence: false,
        });
        return std::iter::once(stem).chain(verb).filter(|token| !token.plain.is_empty()).collect();
    }
    let (text, verb) = match text.as_str() {
        "im" => ("i".to_owned(), Some("am")),
        "ive" => ("i".to_owned(), Some("have")),
        "wanna" => ("want".to_owned(), Some("to")),
        "gonna" => ("going".to_owned(), Some("to")),
        "u" => ("you".to_owned(), None),
        "ur" => ("your".to_owned(), None),
        "urself" => ("yourself".to_owned(), None),
        _ => (text, negated.then_some("not")),
    };
    let word = Token {
        span: span.clone(),
        squeezed: squeeze(&text),
        plain: text,
        begins_clause,
        begins_sentence,
    };
    std::iter::once(word)
        .chain(verb.map(|verb| Token {
            span,
            plain: verb.into(),
            squeezed: None,
            begins_clause: false,
            begins_sentence: false,
        }))
        .collect()
}

/// Replaces a contracted negation (`can't`, `doesn't`) by its verb; returns whether there was one.
fn strip_negation(text: &mut String) -> bool {
    let mut negated = false;
    for (short, long) in [
        ("can't", "can"),
        ("cant", "can"),
        ("won't", "will"),
        ("wont", "will"),
        ("shan't", "shall"),
        ("dont", "do"),
        ("didnt", "did"),
        ("cannot", "can"),
    ] {
        if *text == short {
            *text = long.into();
            negated = true;
        }
    }
    if let Some(verb) = text.strip_suffix("n't").map(str::to_owned) {
        *text = verb;
        negated = true;
    }
    negated
}

/// Collapses every run of a letter to one letter, if one occurs three times in a row.
fn squeeze(word: &str) -> Option<String> {
    let letters: Vec<char> = word.chars().collect();
    letters
        .windows(3)
        .any(|three| three[0] == three[1] && three[1] == three[2])
        .then(|| single(word))
}

/// Collapses every run of a letter to one letter.
pub(super) fn single(word: &str) -> String {
    let mut last = None;
    word.chars().filter(|c| last.replace(*c) != Some(*c)).collect()
}
