//! Points and amounts of time as they stand in a sentence.

use std::ops::Range;

use chrono::{Datelike, NaiveDate};

use super::super::vocabulary::{Unit, month, number, ordinal, unit, weekday};

/// Minutes of a month: a twelfth of 365.25 days.
const MONTH: i64 = 43_830;

/// A length of time; months have no fixed length and are kept apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Amount {
    pub months: i64,
    pub minutes: i64,
}

impl Amount {
    pub const fn months(months: i64) -> Self {
        Self { months, minutes: 0 }
    }

    pub const fn days(days: i64) -> Self {
        Self { months: 0, minutes: days * 1_440 }
    }

    /// As minutes, a month of the mean length.
    pub const fn total(self) -> i64 {
        self.months * MONTH + self.minutes
    }

    /// Whether both are in months alone, or neither has any: then they are compared exactly.
    pub const fn comparable(self, other: Self) -> bool {
        (self.minutes == 0 && other.minutes == 0) || (self.months == 0 && other.months == 0)
    }
}

/// On what a point lies. Points are compared on one axis only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Axis {
    /// Days of the common era.
    Calendar,
    /// Days of a year that is not named, 31 to a month.
    Year,
    /// Days of a month that is not named.
    Day,
    /// Days of a week, from Monday.
    Weekday,
    /// Minutes of a day.
    Clock,
    /// Minutes from the present.
    FromNow,
    /// Minutes that something takes.
    Length,
}

/// A stretch of an axis, both ends part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Point {
    pub axis: Axis,
    pub from: i64,
    pub to: i64,
    /// Of a calendar's point, months since the year 0, and of one without a year, of that, if it names a month.
    pub month: Option<i64>,
    /// Whether it names a day.
    pub day: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Point(Point),
    Amount(Amount),
}

/// A time that a sentence names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    pub kind: Kind,
    /// The words before it that say how it is meant, nearest last.
    pub lead: Vec<String>,
    /// The word after it.
    pub next: String,
    /// Where it stands, in bytes.
    pub range: Range<usize>,
}

impl Mark {
    /// Whether nothing follows that may be what was counted.
    pub fn stands_alone(&self) -> bool {
        AFTER_A_POINT.contains(&self.next.as_str())
    }

    pub fn led_by(&self, words: &[&str]) -> bool {
        self.lead.iter().any(|word| words.contains(&word.as_str()))
    }
}

/// Words that say how a time is meant.
const LEADS: [&str; 27] = [
    "before", "after", "in", "within", "on", "at", "by", "from", "to", "until", "till", "since", "between", "and", "for", "less", "more",
    "than", "least", "most", "under", "over", "exactly", "fewer", "longer", "shorter", "the",
];

/// Words that a point without a year, or a year alone, must follow: `may`, `march` and `2000` are other words as well.
const PREPOSITIONS: [&str; 15] =
    ["before", "after", "in", "on", "at", "by", "from", "to", "until", "till", "since", "between", "and", "during", "of"];

struct Word {
    text: String,
    range: Range<usize>,
    /// Part of what stands before it, as the `5` of `1.5` and of `twenty-five` is.
    glued: bool,
}

/// Words that may follow a point: anything else may be what was counted.
const AFTER_A_POINT: [&str; 40] = [
    "", "to", "and", "or", "until", "till", "in", "on", "at", "by", "of", "the", "a", "an", "as", "with", "for", "from", "but", "when",
    "where", "which", "who", "because", "since", "before", "after", "he", "she", "it", "they", "we", "i", "you", "my", "his", "her",
    "their", "our", "then",
];

fn words(text: &str) -> Vec<Word> {
    let inside = |c: char| c.is_alphanumeric() || c == ':' || c == '\'' || c == '\u{2019}';
    let mut found: Vec<Word> = Vec::new();
    let mut from = None;
    for (at, c) in text.char_indices().chain([(text.len(), ' ')]) {
        match (inside(c), from) {
            (true, None) => from = Some(at),
            (false, Some(start)) => {
                let end = start + text[start..at].trim_end_matches([':', '\'', '\u{2019}']).len();
                if end > start {
                    let mut before = text[..start].chars().rev();
                    let glued =
                        before.next().is_some_and(|c| ".,-/\u{2013}".contains(c)) && before.next().is_some_and(char::is_alphanumeric);
                    found.push(Word { text: text[start..end].to_lowercase().replace('\u{2019}', "'"), range: start..end, glued });
                }
                from = None;
            }
            _ => {}
        }
    }
    found
}

/// The words of a text in lower case.
pub(super) fn plain_words(text: &str) -> Vec<String> {
    words(text).into_iter().map(|word| word.text).collect()
}

/// Every point and amount of time that a text names, in order.
pub(super) fn read(text: &str) -> Vec<Mark> {
    let words = words(text);
    let reader = Reader { words: &words };
    let (mut at, mut found) = (0, Vec::new());
    while at < words.len() {
        match reader.at(at) {
            Some((taken, kind)) => {
                let lead = reader.lead(at);
                let range = words[at].range.start..words[at + taken - 1].range.end;
                found.push(Mark { kind, lead, next: reader.word(at + taken).to_owned(), range });
                at += taken;
            }
            None => at += 1,
        }
    }
    found
}

struct Reader<'a> {
    words: &'a [Word],
}

impl Reader<'_> {
    fn word(&self, at: usize) -> &str {
        self.words.get(at).map_or("", |word| &word.text)
    }

    fn before(&self, at: usize) -> &str {
        at.checked_sub(1).map_or("", |before| self.word(before))
    }

    fn lead(&self, at: usize) -> Vec<String> {
        let mut lead: Vec<String> =
            (0..at).rev().take(4).map(|at| self.word(at).to_owned()).take_while(|word| LEADS.contains(&word.as_str())).collect();
        lead.reverse();
        lead
    }

    fn at(&self, at: usize) -> Option<(usize, Kind)> {
        let point = |(taken, point)| (taken, Kind::Point(point));
        self.amounts(at)
            .or_else(|| self.clock(at).map(point))
            .or_else(|| self.date(at).map(point))
            .or_else(|| self.weekday(at).map(point))
            .or_else(|| self.year(at).map(point))
    }

    /// `5 months`, `40 years 6 months`, `2 hours and 10 minutes`.
    fn amounts(&self, at: usize) -> Option<(usize, Kind)> {
        let (mut taken, mut amount) = self.amount(at)?;
        loop {
            let and = usize::from(self.word(at + taken) == "and");
            match self.amount(at + taken + and) {
                Some((more, further)) if further.total() < amount.total() => {
                    amount = Amount { months: amount.months + further.months, minutes: amount.minutes + further.minutes };
                    taken += and + more;
                }
                _ => return Some((taken, Kind::Amount(amount))),
            }
        }
    }

    fn amount(&self, at: usize) -> Option<(usize, Amount)> {
        // "several" is an amount of no size
        let count = Some(self.word(at)).filter(|word| !["few", "several", "couple"].contains(word)).and_then(number)?;
        let (before, two_before) = (self.before(at), at.checked_sub(2).map_or("", |at| self.word(at)));
        // "1.5 hours", "10,000 years", "twenty-five days"; "half an hour", "once a week"; "between 5 and 6 hours"
        let part = self.words.get(at).is_some_and(|word| word.glued)
            || ["half", "quarter", "once", "twice", "times", "every", "per", "each"].contains(&before)
            || (["and", "to", "or"].contains(&before) && number(two_before).is_some());
        let one = ["a", "an"].contains(&self.word(at));
        let led =
            ["for", "in", "within", "after", "before", "than", "took", "takes", "take", "lasted", "lasts", "last", ""].contains(&before);
        let and_a_half =
            self.word(at + 2) == "and" && ["half", "quarter"].iter().any(|part| [self.word(at + 3), self.word(at + 4)].contains(part));
        if part || (one && !led) || and_a_half {
            return None;
        }
        let word = self.word(at + 1);
        let minutes = match unit(word.trim_end_matches('s'))? {
            Unit::Months(months) => return Some((2, Amount::months(count * months))),
            Unit::Seconds(seconds) if seconds >= 60 => seconds / 60,
            Unit::Seconds(_) => return None,
        };
        Some((2, Amount { months: 0, minutes: count * minutes }))
    }

    /// `10 PM`, `10pm`, `17:30`, `noon`, `midnight`.
    fn clock(&self, at: usize) -> Option<(usize, Point)> {
        let word = self.word(at);
        let point = |minute: u32| Point { axis: Axis::Clock, from: minute.into(), to: minute.into(), month: None, day: false };
        match word {
            "noon" => return Some((1, point(720))),
            "midnight" => return Some((1, point(0))),
            _ => {}
        }
        let joined = ["am", "pm"].into_iter().find_map(|half| Some((word.strip_suffix(half)?, half)));
        let (digits, half, taken) = match joined.filter(|(digits, _)| !digits.is_empty()) {
            Some((digits, half)) => (digits, Some(half), 1),
            None => match (self.word(at + 1), self.word(at + 2)) {
                (half @ ("am" | "pm"), _) => (word, Some(half), 2),
                ("a", "m") => (word, Some("am"), 3),
                ("p", "m") => (word, Some("pm"), 3),
                _ => (word, None, 1),
            },
        };
        let (hour, minute) = digits.split_once(':').unwrap_or((digits, "0"));
        // "9:00" may be the morning's or the evening's; "09:00" and "17:00" say which
        if half.is_none() && !(digits.len() == 5 && digits.contains(':')) {
            return None;
        }
        if digits.contains(':') && minute.len() != 2 {
            return None;
        }
        let (hour, minute) =
            (hour.parse::<u32>().ok().filter(|hour| *hour <= 24)?, minute.parse::<u32>().ok().filter(|minute| *minute < 60)?);
        let hour = match half {
            Some(_) if !(1..=12).contains(&hour) => return None,
            Some("pm") => hour % 12 + 12,
            Some(_) => hour % 12,
            None => hour % 24,
        };
        Some((taken, point(hour * 60 + minute)))
    }

    fn named_year(&self, at: usize) -> Option<i32> {
        let word = self.word(at);
        word.parse::<i32>().ok().filter(|year| word.len() == 4 && (1000..3000).contains(year))
    }

    /// `5 May 2023`, `May 5th, 2023`, `the 5th of May`, `May 2023`, `in May`, `on the 5th`, `2023-05-07` (its parts are words here).
    fn date(&self, at: usize) -> Option<(usize, Point)> {
        if let (Some(year), Ok(of), Ok(day)) = (self.named_year(at), self.word(at + 1).parse::<u32>(), self.word(at + 2).parse::<u32>())
            && let Some(date) = NaiveDate::from_ymd_opt(year, of, day)
        {
            return Some((3, calendar(date, date, Some(of), true)));
        }
        let first = ordinal(self.word(at));
        let of = usize::from(self.word(at + 1) == "of");
        if let (Some(day), Some(named)) = (first, abbreviated(self.word(at + 1 + of))) {
            let year = self.named_year(at + 2 + of);
            return match year {
                Some(year) => dated(year, named, Some(day)).map(|point| (3 + of, point)),
                None => self.led(at).then(|| (2 + of, yearly(named, Some(day)))),
            };
        }
        if let Some(named) = abbreviated(self.word(at)) {
            let day = ordinal(self.word(at + 1)).filter(|_| self.named_year(at + 1).is_none());
            let taken = 1 + usize::from(day.is_some());
            return match self.named_year(at + taken) {
                Some(year) => dated(year, named, day).map(|point| (taken + 1, point)),
                None => self.led(at).then(|| (taken, yearly(named, day))),
            };
        }
        // a bare number is no day
        let day = first.filter(|_| self.led(at) && !self.word(at).chars().all(|c| c.is_ascii_digit()))?;
        // "the 12th century"
        if !AFTER_A_POINT.contains(&self.word(at + 1)) {
            return None;
        }
        let day = i64::from(day);
        Some((1, Point { axis: Axis::Day, from: day, to: day, month: None, day: true }))
    }

    fn led(&self, at: usize) -> bool {
        let before = self.before(at);
        let before = if before == "the" { at.checked_sub(2).map_or("", |before| self.word(before)) } else { before };
        PREPOSITIONS.contains(&before)
    }

    fn weekday(&self, at: usize) -> Option<(usize, Point)> {
        let word = self.word(at);
        let short = ["wed", "sat", "sun", "tues", "thur", "thurs"].contains(&word) && self.led(at);
        let day = if short { word.get(..3)?.parse().ok()? } else { weekday(word)? };
        let day = i64::from(day.num_days_from_monday());
        Some((1, Point { axis: Axis::Weekday, from: day, to: day, month: None, day: false }))
    }

    fn year(&self, at: usize) -> Option<(usize, Point)> {
        let year = self.named_year(at).filter(|_| self.led(at))?;
        let (from, to) = (NaiveDate::from_ymd_opt(year, 1, 1)?, NaiveDate::from_ymd_opt(year, 12, 31)?);
        Some((1, calendar(from, to, None, false)))
    }
}

fn abbreviated(word: &str) -> Option<u32> {
    if word == "mar" { Some(3) } else { month(word) }
}

fn calendar(from: NaiveDate, to: NaiveDate, month: Option<u32>, day: bool) -> Point {
    let month = month.map(|month| i64::from(from.year()) * 12 + i64::from(month));
    Point { axis: Axis::Calendar, from: from.num_days_from_ce().into(), to: to.num_days_from_ce().into(), month, day }
}

fn dated(year: i32, month: u32, day: Option<u32>) -> Option<Point> {
    let from = NaiveDate::from_ymd_opt(year, month, day.unwrap_or(1))?;
    let last = from.checked_add_months(chrono::Months::new(1)).and_then(|next| next.pred_opt())?;
    Some(calendar(from, if day.is_some() { from } else { last }, Some(month), day.is_some()))
}

fn yearly(month: u32, day: Option<u32>) -> Point {
    let at = |day: u32| i64::from(month * 31 + day);
    Point { axis: Axis::Year, from: at(day.unwrap_or(1)), to: at(day.unwrap_or(31)), month: Some(month.into()), day: day.is_some() }
}
