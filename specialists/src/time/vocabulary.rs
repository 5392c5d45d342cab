//! Words of time.

use chrono::Weekday;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Unit {
    Seconds(i64),
    Months(i64),
}

pub(super) fn unit(word: &str) -> Option<Unit> {
    Some(match word.strip_suffix('s').unwrap_or(word) {
        "second" => Unit::Seconds(1),
        "minute" => Unit::Seconds(60),
        "hour" => Unit::Seconds(3_600),
        "day" => Unit::Seconds(86_400),
        "week" => Unit::Seconds(604_800),
        "month" => Unit::Months(1),
        "year" => Unit::Months(12),
        "decade" => Unit::Months(120),
        _ => return None,
    })
}

pub(super) fn number(word: &str) -> Option<i64> {
    const WORDS: [&str; 13] = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"];
    match word {
        "a" | "an" => Some(1),
        "couple" => Some(2),
        "few" | "several" => Some(3),
        _ => WORDS
            .iter()
            .position(|known| *known == word)
            .map(|at| at as i64)
            .or_else(|| word.parse().ok().filter(|count| (0..10_000).contains(count))),
    }
}

pub(super) fn ordinal(word: &str) -> Option<u32> {
    let digits = ["st", "nd", "rd", "th"].iter().find_map(|ending| word.strip_suffix(ending)).unwrap_or(word);
    digits.parse().ok().filter(|day| (1..=31).contains(day))
}

pub(super) fn month(word: &str) -> Option<u32> {
    const MONTHS: [&str; 12] =
        ["january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december"];
    let at = MONTHS.iter().position(|month| {
        *month == word || (word.len() == 3 && word != "mar" && month.starts_with(word)) || (*month == "september" && word == "sept")
    })?;
    u32::try_from(at + 1).ok()
}

pub(super) fn weekday(word: &str) -> Option<Weekday> {
    // "sun", "sat" and "wed" are words of their own
    let full = word.ends_with("day") || ["mon", "tue", "thu", "fri"].contains(&word);
    word.parse().ok().filter(|_| full)
}

pub(super) fn season(word: &str) -> Option<(u32, u32)> {
    Some(match word {
        "spring" => (3, 5),
        "summer" | "summers" => (6, 8),
        "autumn" | "fall" => (9, 11),
        "winter" | "winters" => (12, 2),
        _ => return None,
    })
}

pub(super) fn part(word: &str) -> Option<(u32, u32)> {
    Some(match word.strip_suffix('s').unwrap_or(word) {
        "morning" => (5, 12),
        "noon" => (12, 13),
        "afternoon" => (12, 17),
        "evening" => (17, 22),
        "night" => (21, 5),
        "midnight" => (0, 1),
        _ => return None,
    })
}
