//! Reading when a question ends out of its words.

use chrono::{Datelike, Days, Months, NaiveDate};

const MONTHS: [&str; 12] =
    ["january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december"];

/// Days from `on` to the latest moment that the question names and that is not over: a day, a month's or a year's end. The context's
/// days count where the question names nothing.
pub(super) fn horizon(question: &[String], context: &[String], on: NaiveDate) -> Option<i64> {
    let latest = |words: &[String], days_only: bool| {
        let ahead = moments(words, on, days_only).into_iter().map(|moment| (moment - on).num_days()).filter(|days| *days >= 0);
        ahead.max()
    };
    latest(question, false).or_else(|| latest(context, true))
}

/// Every moment that words (lower-case) name.
fn moments(words: &[String], on: NaiveDate, days_only: bool) -> Vec<NaiveDate> {
    let number = |at: usize| words.get(at).and_then(|word| word.trim_end_matches(|c: char| c.is_ascii_alphabetic()).parse::<u32>().ok());
    let year = |at: usize| number(at).filter(|year| (1990..=2100).contains(year)).map(u32::cast_signed);
    let mut found = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|before| words.get(before)).map_or("", String::as_str);
        let day = |at: usize| number(at).filter(|day| (1..=31).contains(day));
        // `3 May` at the end, and not `3 may leave`
        let dated = || words.get(at + 1).is_none() && at.checked_sub(1).and_then(day).is_some();
        let is_month = |_: &u32| word != "may" || number(at + 1).is_some() || ["in", "by", "of", "before"].contains(&before) || dated();
        if let Some(month) = month(word).filter(is_month) {
            // `March 15, 2026` or `15 March 2026`
            let day = day(at + 1).map(|day| (day, year(at + 2))).or_else(|| Some((day(at.checked_sub(1)?)?, year(at + 1))));
            if let Some((day, named)) = day {
                let this = NaiveDate::from_ymd_opt(named.unwrap_or(on.year()), month, day);
                // without a year, the next one to come
                found.extend(this.map(|this| if named.is_none() && this < on { this + Months::new(12) } else { this }));
            } else if !days_only {
                let named = year(at + 1);
                let this = end_of_month(named.unwrap_or(on.year()), month);
                found.extend(this.map(|this| if named.is_none() && this < on { this + Months::new(12) } else { this }));
            }
        } else if !days_only && let Some(year) = year(at) {
            match before {
                "before" => found.extend(NaiveDate::from_ymd_opt(year, 1, 1)),
                "by" | "in" | "of" | "during" => found.extend(NaiveDate::from_ymd_opt(year, 12, 31)),
                _ => {}
            }
        }
    }
    found
}

/// The month of a name, whole or cut to three letters (or `sept`).
fn month(word: &str) -> Option<u32> {
    let fits = |name: &&str| **name == *word || name[..3] == *word || (word == "sept" && **name == *"september");
    MONTHS.iter().zip(1..).find_map(|(name, number)| fits(name).then_some(number))
}

fn end_of_month(year: i32, month: u32) -> Option<NaiveDate> {
    NaiveDate::from_ymd_opt(year, month, 1)?.checked_add_months(Months::new(1))?.checked_sub_days(Days::new(1))
}

#[cfg(test)]
mod tests {
    use super::super::features::words;
    use super::*;

    #[test]
    fn what_a_question_names() {
        let on = NaiveDate::from_ymd_opt(2026, 3, 10).unwrap();
        for (question, context, expected) in [
            ("Will it rain by March 15, 2026?", "", Some(5)),
            ("Will it rain by March 15th?", "", Some(5)),
            ("Will it rain on Jan 10?", "", Some(306)),
            ("Will it rain by 20 April 2026?", "", Some(41)),
            ("Will it rain by 3 May?", "", Some(54)),
            ("Best model at the end of April?", "", Some(51)),
            ("Will she win in April 2026?", "", Some(51)),
            ("Will it happen before 2027?", "", Some(297)),
            ("Will it happen in 2026?", "", Some(296)),
            ("Will the 2026 World Cup be won by France?", "The final is on July 19, 2026.", Some(131)),
            ("Will it rain?", "In 2026 it rained.", None),
            ("They may leave", "", None),
            ("Will it have rained by March 1, 2026?", "", None),
            ("Will they leave by May?", "", Some(82)),
            ("On February 30, 2026?", "", None),
        ] {
            assert_eq!(horizon(&words(question), &words(context), on), expected, "{question}");
        }
    }
}
