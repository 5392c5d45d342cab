//! The words that carry an answer's content, brought to a common form so that an answer and its evidence can be compared.

/// Words of grammar and of talking about talking: whoever uses them has said nothing that a source could support.
const STOP_WORDS: &str = " a about after again all also am an and any are as at be because been before being but by can could d did do does \
    doing down during each for from further had has have having he her here hers him his how i if in into is it its just ll m may me might \
    more most must my no nor not now of off on once only or other our ours out over own re s same shall she should so some such t than that \
    the their theirs them then there these they this those through to too under until up us ve very was we were what when where which while \
    who whom why will with would you your yours according answer based memory mention mentioned note noted remember said say says tell told \
    user yes ok okay ";

/// Lower-case, without punctuation, citations (`[1]`), stop words and simple endings; in the order and number in which they stand.
pub(crate) fn content_words(text: &str) -> Vec<String> {
    without_citations(text)
        .to_lowercase()
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty() && !STOP_WORDS.contains(&format!(" {word} ")))
        .map(stem)
        .collect()
}

/// The text with each `[1]`, `[1, 2]` turned into a space.
fn without_citations(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('[') {
        plain.push_str(before);
        let digits = after.find(|c: char| !c.is_ascii_digit() && c != ',' && c != ' ').unwrap_or(after.len());
        let cited = after[digits..].strip_prefix(']').filter(|_| after[..digits].contains(|c: char| c.is_ascii_digit()));
        plain.push(' ');
        rest = cited.unwrap_or(after);
    }
    plain + rest
}

/// Takes plural, `-ed` and `-ing` off an ASCII word, so that `moved`, `moves` and `moving` meet. Cruder than Porter's (1980), and enough
/// to compare two short texts: both sides are treated alike, so a stem need not be a word. Others come out unchanged.
pub(crate) fn stem(word: &str) -> String {
    if word.len() <= 2 || !word.bytes().all(|b| b.is_ascii_lowercase()) {
        return word.into();
    }
    let vowel = |stem: &str| stem.len() >= 2 && stem.contains(['a', 'e', 'i', 'o', 'u', 'y']);
    let plural = word.strip_suffix('s').filter(|_| !["ss", "us", "is"].iter().any(|end| word.ends_with(end)));
    let word = plural.unwrap_or(word);
    let inflected = word.strip_suffix("ing").or_else(|| word.strip_suffix("ed").filter(|stem| !stem.ends_with('e')));
    let mut stem = match inflected.filter(|stem| vowel(stem)) {
        Some(stem) => {
            let (head, last) = stem.split_at(stem.len() - 1);
            // planned, running; but not called, missed
            if head.ends_with(last) && !["l", "s", "z", "o", "e"].contains(&last) { head } else { stem }
        }
        None => word,
    }
    .to_owned();
    // story, stories; move, moved; study, studied
    if stem.len() > 3 && stem.ends_with("ie") {
        stem.truncate(stem.len() - 2);
        stem.push('y');
    } else if stem.len() > 2 && stem.ends_with('e') {
        stem.pop();
    } else if stem.len() > 2 && stem.ends_with('i') {
        stem.pop();
        stem.push('y');
    }
    stem
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeded::Seeded;

    #[test]
    fn forms_of_a_word_meet() {
        for forms in [
            &["move", "moves", "moved", "moving"][..],
            &["study", "studies", "studied", "studying"],
            &["plan", "plans", "planned", "planning"],
            &["call", "calls", "called", "calling"],
            &["box", "boxes", "boxed"],
            &["story", "stories"],
            &["nurse", "nurses", "nursed"],
            &["need", "needs", "needed"],
            &["use", "uses", "used", "using"],
        ] {
            for form in forms {
                assert_eq!(stem(form), stem(forms[0]), "{form}");
            }
        }
    }

    #[test]
    fn words_that_only_look_inflected_stay() {
        for word in ["class", "bus", "tennis", "red", "sing", "string", "speed", "2026", "été", "is"] {
            assert_eq!(stem(word), word);
        }
    }

    #[test]
    fn content_leaves_out_grammar_and_citations() {
        assert_eq!(content_words("You told me that your sister's dogs moved to Lisbon [1], [2, 3]."), ["sister", "dog", "mov", "lisbon"]);
        assert_eq!(content_words("Yes, I do. [12]"), Vec::<String>::new());
        assert_eq!(content_words("[open [x] [] ]"), ["open", "x"]);
        assert_eq!(content_words("Größe ÉTÉ 東京"), ["größe", "été", "東京"]);
    }

    #[test]
    fn no_text_makes_it_panic() {
        let mut random = Seeded::new();
        for _ in 0..2_000 {
            let text = random.unicode(40);
            assert!(content_words(&text).iter().all(|word| !word.is_empty()), "seed {}: {text:?}", random.seed);
        }
    }
}
