//! What of a question's text the head reads beside its embedding: its words and pairs of words, hashed.

use std::collections::BTreeMap;

/// Before the first word and after the last one.
const ENDS: &str = "^";

/// Runs of letters in lower case, runs of digits by their length alone (a head must not learn which years its examples were about), and every
/// other character by itself.
pub(super) fn words(text: &str) -> Vec<String> {
    #[derive(PartialEq, Clone, Copy)]
    enum Kind {
        Letters,
        Digits,
        Space,
        Other,
    }
    let kind = |c: char| match c {
        _ if c.is_whitespace() => Kind::Space,
        '\'' | '\u{2019}' => Kind::Letters,
        _ if c.is_ascii_digit() => Kind::Digits,
        _ if c.is_alphabetic() => Kind::Letters,
        _ => Kind::Other,
    };
    let characters: Vec<char> = text.chars().collect();
    characters
        .chunk_by(|a, b| kind(*a) == kind(*b) && kind(*a) != Kind::Other)
        .filter_map(|run| match run.first().map(|c| kind(*c))? {
            Kind::Space => None,
            Kind::Digits => Some(format!("#{}", run.len())),
            Kind::Letters => Some(run.iter().flat_map(|c| if *c == '\u{2019}' { '\'' } else { *c }.to_lowercase()).collect()),
            Kind::Other => Some(run.iter().collect()),
        })
        .collect()
}

/// FNV-1a, 64 bits.
pub(crate) fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// The text's words and pairs of neighbours (the ends count as words), each in one of `buckets`: `1 + ln count`, the whole of length 1.
/// Weinberger et al. 2009, "Feature Hashing for Large Scale Multitask Learning".
pub(super) fn hashed(text: &str, buckets: usize) -> Vec<(u32, f32)> {
    let words = words(text);
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    let mut last = ENDS;
    for word in words.iter().map(String::as_str).chain([ENDS]) {
        *counts.entry(format!("{last} {word}")).or_default() += 1;
        last = word;
    }
    for word in &words {
        *counts.entry(word.clone()).or_default() += 1;
    }
    let mut values: BTreeMap<u32, f32> = BTreeMap::new();
    for (term, count) in counts {
        // below `buckets`, which is far below 2^32
        let bucket = (fnv1a(&term) % buckets.max(1) as u64) as u32;
        *values.entry(bucket).or_default() += 1.0 + (count as f32).ln();
    }
    let norm = values.values().map(|value| value * value).sum::<f32>().sqrt();
    values.into_iter().map(|(bucket, value)| (bucket, value / norm)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_letters_shapes_of_numbers_and_signs() {
        assert_eq!(words("Will it rain on 4 July 1976?"), ["will", "it", "rain", "on", "#1", "july", "#4", "?"]);
        assert_eq!(words("Anna\u{2019}s 1.5 %"), ["anna's", "#1", ".", "#1", "%"]);
        assert_eq!(words("  "), Vec::<String>::new());
        assert_eq!(words("\u{c9}t\u{e9}\u{2026}!!"), ["\u{e9}t\u{e9}", "\u{2026}", "!", "!"]);
    }

    #[test]
    fn a_text_has_length_one_and_years_look_alike() {
        let length = |text: &str| hashed(text, 512).iter().map(|(_, value)| value * value).sum::<f32>();
        for text in ["", "a", "Will it rain? Will it snow?"] {
            assert!((length(text) - 1.0).abs() < 1e-5, "{text}");
        }
        assert_eq!(hashed("in 1987", 512), hashed("In 2031", 512));
        assert_ne!(hashed("rain will it", 512), hashed("will it rain", 512));
        assert!(hashed("one two three four five six", 7).iter().all(|(bucket, _)| *bucket < 7));
        // the reference values of the algorithm's authors
        assert_eq!((fnv1a(""), fnv1a("a")), (0xcbf2_9ce4_8422_2325, 0xaf63_dc4c_8601_ec8c));
    }
}
