//! What the learned model sees of a question.

use std::collections::BTreeSet;

use super::Asked;
use super::horizon::horizon;

/// Places for word sequences of the question and of the context: sequences that share a place share a weight (the hashing trick, Weinberger et al. 2009).
const QUESTION_PLACES: u32 = 2048;
const CONTEXT_PLACES: u32 = 1024;
/// Words in a sequence at most.
const QUESTION_WORDS: usize = 3;
const CONTEXT_WORDS: usize = 2;
/// What each group counts beside the traits: the square roots of 12, 4 and 4, found by cross-validation on the train questions.
const QUESTION_SCALE: f32 = 3.46;
const CONTEXT_SCALE: f32 = 2.0;
const EMBEDDING_SCALE: f32 = 2.0;
/// Characters of a context that are read: where the rules stand.
const CONTEXT_CHARS: usize = 1_000;
const TRAITS: usize = 34;

/// All features but the embedding's, which come last.
pub(super) const FEATURES_BUT_EMBEDDING: usize = TRAITS + (QUESTION_PLACES + CONTEXT_PLACES) as usize;

/// Runs of letters, and numbers with their points and commas inside, in lower case.
pub(super) fn words(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Pairs of a feature's number and its value.
pub(super) fn features(asked: &Asked<'_>) -> Vec<(u32, f32)> {
    let context: String = asked.context.chars().take(CONTEXT_CHARS).collect();
    let (question_words, context_words) = (words(asked.question), words(&context));
    let mut features: Vec<(u32, f32)> = (0..).zip(traits(asked, &question_words, &context, &context_words)).collect();
    features.retain(|(_, value)| *value != 0.0);
    let start = TRAITS as u32;
    features.extend(sequences(&question_words, QUESTION_WORDS, QUESTION_PLACES, QUESTION_SCALE).map(|(at, value)| (start + at, value)));
    let start = start + QUESTION_PLACES;
    features.extend(sequences(&context_words, CONTEXT_WORDS, CONTEXT_PLACES, CONTEXT_SCALE).map(|(at, value)| (start + at, value)));
    let start = start + CONTEXT_PLACES;
    features.extend((start..).zip(asked.embedding).map(|(at, value)| (at, value * EMBEDDING_SCALE)));
    features
}

/// Sequences of up to `longest` words, each once, as a vector of length `scale`. Numbers are all alike.
fn sequences(words: &[String], longest: usize, places: u32, scale: f32) -> impl Iterator<Item = (u32, f32)> + use<> {
    let plain = words.iter().map(|word| if word.starts_with(|c: char| c.is_ascii_digit()) { "#" } else { word.as_str() });
    let framed: Vec<&str> = std::iter::once("^").chain(plain).chain(["$"]).collect();
    let found: BTreeSet<String> = (1..=longest).flat_map(|length| framed.windows(length).map(|window| window.join(" "))).collect();
    let mut counts = std::collections::BTreeMap::<u32, f32>::new();
    for sequence in &found {
        *counts.entry(place(sequence, places)).or_default() += 1.0;
    }
    let length = counts.values().map(|count| count * count).sum::<f32>().sqrt().max(1.0);
    counts.into_iter().map(move |(at, count)| (at, count * scale / length))
}

/// FNV-1a (64 bits), folded: the same on every machine and in every version.
fn place(text: &str, places: u32) -> u32 {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let folded = (hash ^ (hash >> 32)) as u32;
    (folded ^ (folded >> 15)) % places
}

/// What is known to matter, as numbers around 0 to 1.
fn traits(asked: &Asked<'_>, question: &[String], context_text: &str, context: &[String]) -> [f32; TRAITS] {
    let is = |holds: bool| f32::from(u8::from(holds));
    let any = |list: &[&str]| is(question.iter().any(|word| list.contains(&word.as_str())));
    let padded = |words: &[String]| format!(" {} ", words.join(" "));
    let (joined, background) = (padded(question), padded(context));
    let says = |phrases: &[&str]| is(phrases.iter().any(|phrase| joined.contains(&format!(" {phrase} "))));
    let told = |phrases: &[&str]| is(phrases.iter().any(|phrase| background.contains(&format!(" {phrase} "))));
    let starts = |word: &str| question.first().is_some_and(|first| first == word);
    let followed = |word: &str, next: &dyn Fn(&str) -> bool| is(question.windows(2).any(|pair| pair[0] == word && next(&pair[1])));
    let digit = |word: &str| word.starts_with(|c: char| c.is_ascii_digit());
    let raw = asked.question;
    let days = horizon(question, context, asked.on);
    let within = |limit: i64| is(days.is_some_and(|days| days <= limit));
    let capitals = raw.split_whitespace().skip(1).filter(|word| word.starts_with(char::is_uppercase)).count();
    let numbers = question.iter().filter(|word| digit(word)).count();
    [
        is(days.is_none()),
        days.map_or(0.0, |days| (days as f32).ln_1p() / 5.0),
        within(7),
        within(30),
        is(days.is_some_and(|days| days > 120)),
        is(starts("will") && question.get(1).is_some_and(|word| word == "the")),
        is(starts("will")),
        is(!starts("will")),
        // one candidate of many
        if starts("will") { says(&["win", "be the", "be named", "become", "have the"]) } else { 0.0 },
        any(&["most", "best", "top", "highest", "largest", "lowest", "first", "next", "second", "third", "record"]),
        any(&["win", "wins", "winner", "champion", "nominee", "award", "cup", "final", "finals", "championship", "primary", "election"]),
        followed("by", &|next| next == "the" || next == "end" || digit(next) || next.len() > 2),
        any(&["before"]),
        any(&["not", "no", "without", "never", "fail", "won", "doesn", "isn"]),
        any(&["remain", "remains", "still", "stay", "keep", "continue", "least", "any"]),
        is(raw.contains(['+', '≥', '>'])).max(any(&["above", "exceed", "exceeds", "over", "higher", "greater", "least", "more"])),
        is(raw.contains(['<', '≤'])).max(any(&["below", "under", "less", "lower", "fewer"])),
        any(&["between"]).max(is(question.windows(2).any(|pair| digit(&pair[0]) && digit(&pair[1])))),
        any(&["hit", "reach", "dip"]),
        any(&["exactly"]).max(followed("be", &digit)),
        is(raw.contains('$')),
        is(raw.contains('%')),
        question.len() as f32 / 20.0,
        any(&["or"]),
        says(&["or higher", "or more", "or above", "or less", "or lower", "or below"]),
        numbers as f32 / 3.0,
        capitals as f32 / 6.0,
        told(&["this market will resolve", "this market resolves"]),
        is(context.is_empty()),
        is(context_text.contains("](http")),
        context_text.len() as f32 / 600.0,
        told(&["otherwise this market will resolve to"]),
        told(&["resolve according to the", "will immediately resolve to", "if no", "if for any reason"]),
        is(!raw.trim_end().ends_with('?')),
    ]
}

#[cfg(test)]
mod tests {
    use chrono::NaiveDate;

    use super::*;
    use crate::seeded::Seeded;

    fn of(question: &str, context: &str) -> Vec<(u32, f32)> {
        let on = NaiveDate::from_ymd_opt(2026, 3, 1).unwrap();
        features(&Asked { question, context, on, embedding: &[0.6, 0.8] })
    }

    #[test]
    fn each_group_has_its_places_and_its_length() {
        let found = of("Will Ada win the 2026 cup?", "If no winner is known, it is void.");
        let start = |group: usize| [0, TRAITS as u32, TRAITS as u32 + QUESTION_PLACES, FEATURES_BUT_EMBEDDING as u32, u32::MAX][group];
        let length = |group: usize| {
            let values = found.iter().filter(|(at, _)| (start(group)..start(group + 1)).contains(at));
            values.map(|(_, value)| value * value).sum::<f32>().sqrt()
        };
        assert!(length(0) > 1.0);
        for (group, scale) in [(1, QUESTION_SCALE), (2, CONTEXT_SCALE), (3, EMBEDDING_SCALE)] {
            assert!((length(group) - scale).abs() < 1e-4, "group {group}: {}", length(group));
        }
        let mut places: Vec<u32> = found.iter().map(|(at, _)| *at).collect();
        places.dedup();
        assert_eq!(places.len(), found.len(), "a feature stands once");
    }

    #[test]
    fn numbers_are_alike_and_words_are_not() {
        let sequence = |text: &str| sequences(&words(text), 3, QUESTION_PLACES, 1.0).collect::<Vec<_>>();
        assert_eq!(sequence("above 70 by May"), sequence("Above 85 by may"));
        assert_ne!(sequence("above 70 by May"), sequence("below 70 by May"));
        // the place of a text never changes: files of weights rely on it
        assert_eq!([place("will the", 2048), place("win", 2048), place("", 2048)], [1305, 1177, 96]);
    }

    #[test]
    fn no_text_makes_it_panic() {
        let mut random = Seeded::new();
        for _ in 0..500 {
            let (question, context) = (random.unicode(60), random.unicode(200));
            assert!(of(&question, &context).iter().all(|(_, value)| value.is_finite()), "seed {}: {question:?}", random.seed);
        }
    }
}
