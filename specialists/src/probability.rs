//! Parses the probability that an answer states, in any language: the last line of the form
//! `Probability: 70%`.
//!
//! After the line's last `:` or `=` (or from its start, without one) only the value and punctuation
//! are accepted: `70%`, `70 %`, `%70`, `12,5%`, `0.7`, `0,7`, `٪٧٠`, `**~70%**.`. Digits of every
//! script and decimal commas are accepted. An integer without a percent sign is rejected: it may be
//! any count. A value outside [0, 1] gives `None`, and so does a text in any other form: words are
//! not interpreted.

use unicode_normalization::UnicodeNormalization as _;

/// The zero digits of scripts with their own decimal digits; full-width digits are folded to ASCII
/// before.
const ZEROS: [char; 17] = [
    '\u{660}', '\u{6f0}', '\u{7c0}', '\u{966}', '\u{9e6}', '\u{a66}', '\u{ae6}', '\u{b66}',
    '\u{be6}', '\u{c66}', '\u{ce6}', '\u{d66}', '\u{e50}', '\u{ed0}', '\u{f20}', '\u{1040}',
    '\u{17e0}',
];
/// Punctuation accepted around a value.
const MARKS: &str = "*_`\"'()[]{}~≈<>≤≥|#.,;!。、،؛«»“”„‘’„‹›";

/// The probability that an answer states, in [0, 1].
pub fn read_probability(answer: &str) -> Option<f64> {
    let stated = answer.lines().rev().find_map(|line| {
        let line: String = line.nfkc().map(plain).collect();
        value(line.rsplit([':', '=']).next()?)
    })?;
    (0.0..=1.0).contains(&stated).then_some(stated)
}

/// Converts digits and number signs to ASCII; direction marks to spaces.
fn plain(c: char) -> char {
    let digit =
        ZEROS.iter().find_map(|zero| char::from_digit((c as u32).checked_sub(*zero as u32)?, 10));
    match c {
        _ if digit.is_some() => digit.unwrap_or(c),
        '\u{66a}' => '%',
        '\u{66b}' => '.',
        '\u{2212}' => '-',
        '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => ' ',
        _ => c,
    }
}

/// A single value: a percentage, or a number with a decimal point or comma.
fn value(text: &str) -> Option<f64> {
    // a leading point is part of `.7`
    let inner = |c: char| c != '.' && is_mark(c);
    let text = text.trim_start_matches(inner).trim_end_matches(is_mark);
    let (text, percent) = match (text.strip_suffix('%'), text.strip_prefix('%')) {
        (Some(number), _) | (None, Some(number)) => (number.trim_matches(inner), true),
        (None, None) => (text, false),
    };
    let number = text.replace(',', ".");
    let digits = number.strip_prefix('-').unwrap_or(&number);
    let is_number = digits.contains(|c: char| c.is_ascii_digit())
        && digits.chars().all(|c| c.is_ascii_digit() || c == '.');
    // `1.000.000` is rejected by the parser
    let number: f64 =
        number.parse().ok().filter(|_| is_number && (percent || digits.contains('.')))?;
    Some(if percent { number / 100.0 } else { number })
}

fn is_mark(c: char) -> bool {
    c.is_whitespace() || MARKS.contains(c)
}

#[cfg(test)]
mod tests;
