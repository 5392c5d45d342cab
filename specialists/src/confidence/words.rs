//! An answer's words and their hashes.

/// Runs of letters in lower case, runs of digits by their length alone (a model must not learn which years its examples were about), and every
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
pub(super) fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
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
    fn hashes_are_the_reference_values_of_the_algorithms_authors() {
        assert_eq!((fnv1a(""), fnv1a("a")), (0xcbf2_9ce4_8422_2325, 0xaf63_dc4c_8601_ec8c));
    }
}
