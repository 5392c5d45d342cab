//! What a question says about the turns that answer it: who spoke, which words, which days, and what kind of answer it wants.

use chrono::{DateTime, Datelike, NaiveDate, Utc};

use super::words::{Lexicon, names, tokens};

const MONTHS: [&str; 12] =
    ["january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december"];
/// What stands before a month's name where it could also be another word.
const BEFORE_MONTH: [&str; 10] = ["in", "of", "during", "early", "late", "by", "since", "until", "before", "after"];
/// Words that ask for what a picture shows.
const PICTURE_WORDS: [&str; 12] =
    ["photo", "photos", "picture", "pictures", "pic", "image", "shown", "painting", "share", "shared", "poster", "photograph"];
/// Shortest beginning of a name that stands for it (`Deb` for `Deborah`).
const NICKNAME: usize = 3;

/// What kind of answer a question wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asks {
    When,
    Who,
    Where,
    HowMany,
    How,
    Which,
    What,
    Why,
    Else,
}

/// A day, a month or a year that a question names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Date {
    pub(super) year: Option<i32>,
    pub(super) month: Option<u32>,
    pub(super) day: Option<u32>,
}

/// A question as the ranking reads it.
#[derive(Debug)]
pub(super) struct Question {
    /// Words without stop words, each once, in order.
    pub(super) words: Vec<u32>,
    /// The same without the speakers' names.
    pub(super) content: Vec<u32>,
    /// Pairs of words that follow each other.
    pub(super) pairs: Vec<(u32, u32)>,
    /// Names other than the speakers'.
    pub(super) names: Vec<u32>,
    /// The speakers that it names, as numbers into the list given, in the order of the question.
    pub(super) speakers: Vec<usize>,
    pub(super) asks: Asks,
    pub(super) dates: Vec<Date>,
    /// It asks for what a picture showed.
    pub(super) picture: bool,
    /// It may have several answers.
    pub(super) several: bool,
}

impl Question {
    pub(super) fn read(text: &str, speakers: &[String], lexicon: &mut Lexicon) -> Self {
        let tokens = tokens(text);
        let (mut named, mut aliases) = (Vec::new(), Vec::new());
        for token in &tokens {
            if let Some(speaker) = speakers.iter().position(|speaker| is_name_of(token, speaker)) {
                if !named.contains(&speaker) {
                    named.push(speaker);
                }
                aliases.push(token.as_str());
            }
        }
        let aliases: Vec<u32> = aliases.into_iter().filter_map(|alias| lexicon.word(alias)).collect();
        let all: Vec<u32> = tokens.iter().filter_map(|token| lexicon.word(token)).collect();
        let mut words = Vec::new();
        all.iter().for_each(|word| {
            if !words.contains(word) {
                words.push(*word);
            }
        });
        let content = words.iter().copied().filter(|word| !aliases.contains(word)).collect();
        let names = names(text).iter().filter_map(|name| lexicon.word(name)).filter(|name| !aliases.contains(name)).collect();
        let has = |word: &str| tokens.iter().any(|token| token == word);
        let first = tokens.first().map_or("", String::as_str);
        let plural = matches!(first, "what" | "which")
            && tokens.get(1).is_some_and(|noun| noun.len() > 3 && noun.ends_with('s') && !noun.ends_with("ss"));
        Self {
            words,
            content,
            pairs: all.windows(2).map(|pair| (pair[0], pair[1])).collect(),
            names,
            speakers: named,
            asks: asks(&tokens),
            dates: dates(&tokens),
            picture: PICTURE_WORDS.iter().any(|word| has(word)),
            several: plural
                || ["all", "both", "has", "have"].iter().any(|word| has(word))
                || (has("are") && matches!(first, "what" | "which")),
        }
    }
}

/// Whether a lower-case word is a speaker's name, the first of its words, or the beginning of that.
fn is_name_of(token: &str, speaker: &str) -> bool {
    let speaker = speaker.to_lowercase();
    let first = speaker.split_whitespace().next().unwrap_or_default();
    token == first
        || (token.len() >= NICKNAME
            && first.len() > token.len()
            && first.starts_with(token)
            && !MONTHS.iter().any(|month| month.starts_with(token)))
}

fn asks(tokens: &[String]) -> Asks {
    for (at, token) in tokens.iter().enumerate() {
        let next = tokens.get(at + 1).map_or("", String::as_str);
        match token.as_str() {
            "when" => return Asks::When,
            "who" | "whom" | "whose" => return Asks::Who,
            "where" => return Asks::Where,
            "how" if matches!(next, "many" | "much" | "long" | "often" | "old" | "far") => return Asks::HowMany,
            "how" => return Asks::How,
            "which" => return Asks::Which,
            "what" => return Asks::What,
            "why" => return Asks::Why,
            _ => {}
        }
    }
    Asks::Else
}

/// Days, months and years: `3 May 2023`, `May 3rd, 2023`, `May 2023`, `in May`, `2023`.
fn dates(tokens: &[String]) -> Vec<Date> {
    let at = |index: Option<usize>| index.and_then(|index| tokens.get(index)).map(String::as_str);
    let mut found = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        let Some(month) = MONTHS.iter().position(|month| month == token) else { continue };
        let before = index.checked_sub(1);
        let after = at(Some(index + 1));
        let day_before =
            at(before).and_then(day).or_else(|| if at(before) == Some("of") { at(index.checked_sub(2)).and_then(day) } else { None });
        let day_after = if day_before.is_none() { after.and_then(day) } else { None };
        let year = if day_after.is_some() { at(Some(index + 2)) } else { after }.and_then(year);
        let day = day_before.or(day_after);
        let other_word = matches!(token.as_str(), "may" | "march");
        if other_word && day.is_none() && year.is_none() && !at(before).is_some_and(|word| BEFORE_MONTH.contains(&word)) {
            continue;
        }
        found.push(Date { year, month: Some(month as u32 + 1), day });
    }
    if found.is_empty() {
        found.extend(tokens.iter().filter_map(|token| year(token)).map(|year| Date { year: Some(year), month: None, day: None }));
    }
    found
}

fn day(word: &str) -> Option<u32> {
    let digits = ["st", "nd", "rd", "th"].iter().find_map(|end| word.strip_suffix(end)).unwrap_or(word);
    digits.parse().ok().filter(|day| digits.len() <= 2 && (1..=31).contains(day))
}

fn year(word: &str) -> Option<i32> {
    word.parse().ok().filter(|year| word.len() == 4 && (1900..2100).contains(year))
}

/// How a moment agrees with the dates that a question names.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct DateMatch {
    /// It is that day.
    pub(super) day: f64,
    /// It is a little later, when one tells of what happened: 1 falls to 0.
    pub(super) near: f64,
    /// It is in that month, where no day was named.
    pub(super) month: f64,
    /// It is in that year, where no month was named.
    pub(super) year: f64,
    /// Dates were named and none of them agrees.
    pub(super) apart: f64,
}

impl DateMatch {
    pub(super) fn of(dates: &[Date], when: Option<DateTime<Utc>>) -> Self {
        let mut found = Self::default();
        let (false, Some(when)) = (dates.is_empty(), when) else { return found };
        let mut nearest: Option<i64> = None;
        for date in dates {
            match (date.month, date.day) {
                (Some(month), Some(day)) => {
                    let Some(told) = NaiveDate::from_ymd_opt(date.year.unwrap_or(when.year()), month, day) else { continue };
                    let mut days = (when.date_naive() - told).num_days();
                    if date.year.is_none() {
                        // December seen from January, and the other way
                        days = (days + 183).rem_euclid(365) - 183;
                    }
                    if nearest.is_none_or(|nearest| days.abs() < nearest.abs()) {
                        nearest = Some(days);
                    }
                }
                (Some(month), None) => {
                    let same_year = date.year.is_none_or(|year| year == when.year());
                    let next_month = (when.month() + 12 - month) % 12 == 1;
                    if month == when.month() && same_year {
                        found.month = 1.0;
                    } else if next_month && (same_year || (month == 12 && date.year.is_some_and(|year| year + 1 == when.year()))) {
                        found.near = f64::max(found.near, 0.5);
                    }
                }
                (None, _) => found.year = f64::max(found.year, f64::from(u8::from(date.year == Some(when.year())))),
            }
        }
        match nearest {
            Some(0) => found.day = 1.0,
            Some(days @ -1..=8) => found.near = f64::max(found.near, 1.0 - days.abs() as f64 / 10.0),
            Some(-31..=31) => found.near = f64::max(found.near, 0.1),
            _ => {}
        }
        if found == Self::default() {
            found.apart = 1.0;
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seeded::Seeded;

    fn read(text: &str) -> Question {
        Question::read(text, &["Maria".into(), "Deborah".into()], &mut Lexicon::new())
    }

    #[test]
    fn speakers_are_known_by_their_names() {
        assert_eq!(read("What did Deb tell Maria's mother?").speakers, [1, 0]);
        assert_eq!(read("What did Maria buy?").content.len(), 1);
        assert!(read("Who went to the debate in March?").speakers.is_empty());
        assert_eq!(read("Did Maria meet Anna?").names.len(), 1);
    }

    #[test]
    fn kinds_of_questions() {
        for (text, kind) in [
            ("When did she go?", Asks::When),
            ("How many dogs does she have?", Asks::HowMany),
            ("How did she feel?", Asks::How),
            ("In which city?", Asks::Which),
            ("Would she like it?", Asks::Else),
        ] {
            assert_eq!(read(text).asks, kind, "{text}");
        }
        assert!(read("What books has Maria read?").several && !read("What did Maria read?").several);
        assert!(read("What is on the poster?").picture);
    }

    #[test]
    fn dates_in_their_forms() {
        let date = |year, month, day| Date { year, month, day };
        for (text, expected) in [
            ("on 3 May, 2023", date(Some(2023), Some(5), Some(3))),
            ("on May 3rd, 2023?", date(Some(2023), Some(5), Some(3))),
            ("on the 3rd of May", date(None, Some(5), Some(3))),
            ("in August 2023", date(Some(2023), Some(8), None)),
            ("in may", date(None, Some(5), None)),
            ("during 2022", date(Some(2022), None, None)),
        ] {
            assert_eq!(dates(&tokens(text)), [expected], "{text}");
        }
        assert!(dates(&tokens("may she march 45 miles?")).is_empty());
    }

    #[test]
    fn moments_agree_or_not() {
        let when = |text: &str| Some(DateTime::parse_from_rfc3339(text).unwrap().to_utc());
        let named = dates(&tokens("on 30 December"));
        assert_eq!(DateMatch::of(&named, when("2022-12-30T10:00:00Z")).day, 1.0);
        assert_eq!(DateMatch::of(&named, when("2023-01-02T10:00:00Z")).near, 0.7);
        assert_eq!(DateMatch::of(&named, when("2023-06-02T10:00:00Z")).apart, 1.0);
        let month = dates(&tokens("in December 2022"));
        assert_eq!(DateMatch::of(&month, when("2022-12-01T00:00:00Z")).month, 1.0);
        assert_eq!(DateMatch::of(&month, when("2023-01-20T00:00:00Z")).near, 0.5);
        assert_eq!(DateMatch::of(&month, when("2021-12-20T00:00:00Z")).apart, 1.0);
        assert_eq!(DateMatch::of(&month, None), DateMatch::default());
        assert_eq!(DateMatch::of(&[], when("2021-12-20T00:00:00Z")), DateMatch::default());
    }

    #[test]
    fn no_question_makes_it_panic() {
        let mut random = Seeded::new();
        let when = DateTime::from_timestamp(1_700_000_000, 0);
        for _ in 0..2_000 {
            let pieces = ["31 ", "february ", "may ", "of ", "2023 ", "0 ", "who ", "Maria ", "99th "];
            let text: String = (0..random.below(8)).map(|_| random.pick(&pieces).to_owned()).collect::<String>() + &random.unicode(10);
            let question = read(&text);
            let found = DateMatch::of(&question.dates, when);
            assert!(found.near >= 0.0 && found.near <= 1.0, "seed {}: {text:?}", random.seed);
        }
    }
}
