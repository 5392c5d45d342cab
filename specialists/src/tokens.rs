//! Tokens of full-text search: indexed text and queries are tokenised by the same function,
//! independent of the databases' own tokenizers.
//!
//! Text is normalised (NFKD), folded (case by the Unicode case mappings, diacritics of Latin,
//! Greek, Cyrillic, Hebrew and Arabic), recomposed (NFC) and split at Unicode's word boundaries
//! ([UAX #29](https://unicode.org/reports/tr29/)). Scripts that are written without spaces, where
//! those boundaries mean little, give overlapping unigrams and bigrams of their grapheme clusters
//! (as Lucene's `CJKBigramFilter` does with `outputUnigrams`). No language is assumed: there are
//! neither stop words nor stems.
//!
//! A token holds letters, digits and the marks that belong to them, never ASCII punctuation or
//! white space.

use unicode_normalization::UnicodeNormalization as _;
use unicode_segmentation::UnicodeSegmentation as _;

/// The tokens of a text in order, with repetitions.
pub fn tokens(text: &str) -> Vec<String> {
    let folded = fold(text);
    let mut found = Vec::new();
    // grapheme clusters of the current run in a script without spaces
    let mut run: Vec<&str> = Vec::new();
    for segment in folded.split_word_bounds() {
        if segment.chars().any(is_unspaced) {
            // Latin letters and Han are in separate segments, Katakana and Hangul words are not
            // a vowel sign joins whatever precedes it, even a space
            let clusters = segment
                .graphemes(true)
                .flat_map(|cluster| cluster.split(|c: char| !is_token_char(c)));
            run.extend(clusters.filter(|cluster| cluster.chars().any(char::is_alphanumeric)));
            continue;
        }
        end_run(&mut run, &mut found);
        // `l'été`, `example.com` and `3.14` are one segment each
        let parts = segment
            .split(|c: char| !is_token_char(c))
            .filter(|part| part.chars().any(char::is_alphanumeric));
        found.extend(parts.map(str::to_owned));
    }
    end_run(&mut run, &mut found);
    found
}

/// Folds distinctions that a search ignores: case, diacritics, compatibility forms (full width,
/// ligatures).
pub fn fold(text: &str) -> String {
    // by way of upper case, so that `ß` matches `ss`, and a final sigma any other
    text.nfkd()
        .filter(|c| !is_diacritic(*c))
        .flat_map(char::to_uppercase)
        .flat_map(char::to_lowercase)
        .filter(|c| !is_diacritic(*c))
        .nfc()
        .collect()
}

fn end_run(run: &mut Vec<&str>, found: &mut Vec<String>) {
    for (at, cluster) in run.iter().enumerate() {
        found.push((*cluster).to_owned());
        if let Some(next) = run.get(at + 1) {
            found.push(format!("{cluster}{next}"));
        }
    }
    run.clear();
}

/// Letters and digits, and in scripts other than ASCII the marks that write their vowels.
fn is_token_char(c: char) -> bool {
    c.is_alphanumeric() || (!c.is_ascii() && unicode_normalization::char::is_combining_mark(c))
}

/// Optional marks: accents, Hebrew points, Arabic vowel signs. Those of Indic scripts are treated
/// as letters.
fn is_diacritic(c: char) -> bool {
    matches!(c,
        '\u{0300}'..='\u{036f}' | '\u{1ab0}'..='\u{1aff}' | '\u{1dc0}'..='\u{1dff}' | '\u{20d0}'..='\u{20ff}' | '\u{fe20}'..='\u{fe2f}'
        | '\u{0591}'..='\u{05bd}' | '\u{05bf}' | '\u{05c1}'..='\u{05c2}' | '\u{05c4}'..='\u{05c5}' | '\u{05c7}'
        | '\u{064b}'..='\u{065f}' | '\u{0670}' | '\u{0640}')
}

/// Letters of scripts that are written without spaces between words (Han, Kana, Thai, Lao, Myanmar,
/// Khmer), and Hangul, where particles are attached to words.
fn is_unspaced(c: char) -> bool {
    matches!(c,
        '\u{0e00}'..='\u{0eff}' | '\u{1000}'..='\u{109f}' | '\u{1100}'..='\u{11ff}' | '\u{1780}'..='\u{17ff}' | '\u{2e80}'..='\u{2fdf}'
        | '\u{3005}'..='\u{3007}' | '\u{3021}'..='\u{3029}' | '\u{3031}'..='\u{3035}' | '\u{3041}'..='\u{30ff}' | '\u{3105}'..='\u{318f}'
        | '\u{31a0}'..='\u{31bf}' | '\u{31f0}'..='\u{31ff}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' | '\u{a960}'..='\u{a97f}'
        | '\u{a9e0}'..='\u{a9ff}' | '\u{aa60}'..='\u{aa7f}' | '\u{ac00}'..='\u{d7ff}' | '\u{f900}'..='\u{faff}' | '\u{1aff0}'..='\u{1b16f}'
        | '\u{20000}'..='\u{3ffff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(text: &str) -> String {
        tokens(text).join(" ")
    }

    #[test]
    fn composed_and_decomposed_forms_case_and_diacritics_meet() {
        for [a, b] in [
            ["Zürich", "Zu\u{308}rich"],
            ["Élodie", "elodie"],
            ["ÖZTÜRK", "öztürk"],
            ["МАРИЯ", "мария"],
            ["ёлка", "елка"],
            ["Straße", "STRASSE"],
            ["ΟΔΥΣΣΕΥΣ", "οδυσσευς"],
            ["İstanbul", "istanbul"],
            ["ﬁne", "fine"],
            ["Ｎｙｘ", "nyx"],
            ["が", "か\u{3099}"],
            ["한국", "\u{1112}\u{1161}\u{11ab}\u{1100}\u{116e}\u{11a8}"],
            ["שָׁלוֹם", "שלום"],
            ["مُحَمَّد", "محمد"],
        ] {
            assert_eq!(joined(a), joined(b), "{a} and {b}");
            assert!(!joined(a).is_empty());
        }
    }

    #[test]
    fn words_are_cut_at_punctuation_and_keep_the_marks_that_spell_them() {
        assert_eq!(
            joined("L'été, don’t e-mail ada@example.com: 3.14!"),
            "l ete don t e mail ada example com 3 14"
        );
        assert_eq!(joined("snake_case x² \u{1f600} -- "), "snake case x2");
        assert_eq!(joined("हिन्दी में"), "हिन्दी में");
        assert_eq!(joined(""), "");
    }

    #[test]
    fn scripts_without_spaces_give_unigrams_and_bigrams() {
        assert_eq!(joined("東京都"), "東 東京 京 京都 都");
        assert_eq!(joined("猫 犬"), "猫 犬");
        assert_eq!(joined("iPhone東京 2 東"), "iphone 東 東京 京 2 東");
        assert_eq!(joined("サーバー"), "サ サー ー ーバ バ バー ー");
        assert_eq!(joined("한국어를"), "한 한국 국 국어 어 어를 를");
        // a vowel sign stays with its consonant
        assert!(tokens("กินข้าว").contains(&"กิ".to_owned()));
        assert!(
            tokens("ລາວ").contains(&"ລາ".to_owned()) || tokens("ລາວ").contains(&"ລ".to_owned())
        );
        assert!(!tokens("ភាសាខ្មែរ").is_empty());
    }

    #[test]
    fn a_query_of_one_character_finds_the_text_that_holds_it() {
        for (text, query) in
            [("我住在北京", "京"), ("我住在北京", "北京"), ("C 語言", "c"), ("กรุงเทพ", "เท")]
        {
            let (text, query) = (tokens(text), tokens(query));
            assert!(
                !query.is_empty() && query.iter().all(|token| text.contains(token)),
                "{query:?} in {text:?}"
            );
        }
    }

    #[test]
    fn tokens_hold_no_ascii_but_letters_and_digits() {
        let every: String =
            (0..=0x2_ffff).filter_map(char::from_u32).flat_map(|c| [c, ' ', c, 'a']).collect();
        for token in tokens(&every) {
            assert!(
                token
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || !(c.is_ascii() || c.is_whitespace())),
                "{token:?}"
            );
        }
    }
}
