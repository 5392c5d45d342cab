//! What a question says about time, read by rules against a fixed present.

use chrono::{DateTime, Datelike, Days, Duration, Months, NaiveDate, Utc, Weekday};

use super::vocabulary::{Unit, month, number, ordinal, part, season, unit, weekday};

/// A stretch of time; an open end is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    pub from: Option<DateTime<Utc>>,
    /// Not part of it.
    pub to: Option<DateTime<Utc>>,
}

impl Interval {
    pub fn contains(&self, at: DateTime<Utc>) -> bool {
        self.from.is_none_or(|from| from <= at) && self.to.is_none_or(|to| at < to)
    }
}

/// What was read. All empty where a question says nothing of time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TimeReading {
    /// The time that is asked about, such as `last week`.
    pub interval: Option<Interval>,
    /// A weekday that comes again and again, such as `on mondays`.
    pub weekday: Option<Weekday>,
    /// Hours of the day, from and to (not part of it; before `from` it goes over midnight), such as `in the morning`.
    pub hours: Option<(u32, u32)>,
    /// Months of a season that comes again, from and to (part of it), such as `in summer`.
    pub months: Option<(u32, u32)>,
}

impl TimeReading {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Reads what a question says about time. Days begin at midnight UTC and weeks on Monday; seasons are those of the northern half. Of a month or a day
/// without a year, the last one that has begun is meant.
pub fn read_time(question: &str, now: DateTime<Utc>) -> TimeReading {
    let words: Vec<String> = question
        .to_lowercase()
        .replace('\u{2019}', "'")
        .split(|c: char| !(c.is_alphanumeric() || c == ':' || c == '-'))
        .map(|word| word.trim_matches([':', '-']).to_owned())
        .filter(|word| !word.is_empty())
        .collect();
    let mut reader = Reader { words: &words, today: now.date_naive(), now, reading: TimeReading::default() };
    let mut at = 0;
    let mut seen: Vec<(usize, Interval)> = Vec::new();
    while at < words.len() {
        let (length, interval) = reader.at(at);
        if let Some(interval) = interval {
            seen.push((at, interval));
        }
        at += length.max(1);
    }
    reader.reading.interval = combined(&words, &seen, now);
    if let (Some(Interval { from: Some(from), to: Some(to) }), Some((first, last))) = (reader.reading.interval, reader.reading.hours)
        && to - from == Duration::days(1)
    {
        // "yesterday at 5 pm" is an hour of that day
        let length = if last > first { last - first } else { 24 - first + last };
        let from = from + Duration::hours(i64::from(first));
        reader.reading.interval = Some(Interval { from: Some(from), to: Some(from + Duration::hours(i64::from(length))) });
    }
    reader.reading
}

/// Of several stretches the first, turned by the word before it; `between A and B` and `from A to B` reach from one to the other.
fn combined(words: &[String], seen: &[(usize, Interval)], now: DateTime<Utc>) -> Option<Interval> {
    let &(at, first) = seen.first()?;
    let before = |at: usize, back: usize| at.checked_sub(back).and_then(|at| words.get(at)).map_or("", String::as_str);
    let led_by =
        (1..=2).map(|back| before(at, back)).find(|word| ["since", "before", "after", "until", "till", "between", "from"].contains(word));
    match (led_by, seen.get(1)) {
        (Some("between" | "from" | "since"), Some(&(next, second)))
            if (1..=2).any(|back| ["and", "to", "until", "till"].contains(&before(next, back))) =>
        {
            Some(Interval { from: first.from, to: second.to })
        }
        (Some("since"), _) => Some(Interval { from: first.from, to: Some(now.max(first.from.unwrap_or(now))) }),
        (Some("before" | "until" | "till"), _) => Some(Interval { from: None, to: first.from }),
        (Some("after"), _) => Some(Interval { from: first.to, to: None }),
        _ => Some(first),
    }
}

struct Reader<'a> {
    words: &'a [String],
    today: NaiveDate,
    now: DateTime<Utc>,
    reading: TimeReading,
}

/// Words taken, and the stretch they mean, if they mean one.
type Read = (usize, Option<Interval>);

impl Reader<'_> {
    fn word(&self, at: usize) -> &str {
        self.words.get(at).map_or("", String::as_str)
    }

    fn at(&mut self, at: usize) -> Read {
        let none = (0, None);
        for read in [Self::named_day, Self::amount, Self::relative, Self::date, Self::weekday, Self::season, Self::part_of_day] {
            let found = read(self, at);
            if found != none {
                return found;
            }
        }
        none
    }

    fn named_day(&mut self, at: usize) -> Read {
        let (length, shift) = match (self.word(at), self.word(at + 1), self.word(at + 2)) {
            ("day", "before", "yesterday") => (3, -2),
            ("day", "after", "tomorrow") => (3, 2),
            ("today" | "tonight", ..) => (1, 0),
            ("this", "morning" | "afternoon" | "evening", _) => (1, 0),
            ("yesterday", ..) => (1, -1),
            ("last", "night", _) => (1, -1),
            ("tomorrow", ..) => (1, 1),
            _ => return (0, None),
        };
        if self.word(at) == "tonight" {
            self.reading.hours = Some((18, 24));
        }
        (length, self.days(self.shifted(shift), 1))
    }

    /// `3 days ago`, `in two weeks`, `the last 3 months`, `next 5 days`.
    fn amount(&mut self, at: usize) -> Read {
        let lead = self.word(at);
        let shift = usize::from(["in", "last", "past", "next", "within"].contains(&lead));
        let the =
            usize::from(shift == 1 && ["the", "last", "past", "next"].contains(&self.word(at + 1)) && ["in", "within"].contains(&lead));
        let also = usize::from(the == 1 && ["last", "past", "next"].contains(&self.word(at + 2)));
        let number_at = at + shift + the + also;
        let (mut taken, Some(count)) = (number_at - at + 1, number(self.word(number_at))) else { return (0, None) };
        if self.word(number_at + 1) == "of" {
            taken += 1;
        }
        let Some(unit) = unit(self.word(at + taken)) else { return (0, None) };
        taken += 1;
        let ago = ["ago", "earlier", "back"].contains(&self.word(at + taken));
        let led = [lead, self.word(at + shift), self.word(at + shift + the)];
        let backwards = led.iter().any(|word| ["last", "past"].contains(word));
        let forwards = led.contains(&"next");
        if ago {
            return (taken + 1, self.around(unit, -count));
        }
        if backwards {
            return (taken, Some(Interval { from: self.moved(unit, -count), to: Some(self.now) }));
        }
        if forwards || lead == "within" {
            return (taken, Some(Interval { from: Some(self.now), to: self.moved(unit, count) }));
        }
        // "in 1999" is a year, "in 3 weeks" an amount
        if lead == "in" { (taken, self.around(unit, count)) } else { (0, None) }
    }

    /// `last week`, `next month`, `this weekend`.
    fn relative(&mut self, at: usize) -> Read {
        let turn = match self.word(at) {
            "last" | "previous" | "past" => -1,
            "this" | "current" => 0,
            "next" | "coming" | "following" => 1,
            _ => return (0, None),
        };
        let monday = self.today - Days::new(u64::from(self.today.weekday().num_days_from_monday()));
        let week = |turn: i64| monday.checked_add_signed(Duration::weeks(turn));
        let stretch = match self.word(at + 1) {
            "week" => self.days(week(turn), 7),
            "weekend" => {
                // the last one has ended: on a Sunday, this one has not
                let saturday = week(turn).and_then(|monday| monday.checked_add_days(Days::new(5)));
                self.days(saturday, 2)
            }
            "month" => {
                let first = self.today.with_day(1).and_then(|first| months_later(first, turn));
                self.until(first, first.and_then(|first| months_later(first, 1)))
            }
            "year" => self.year(i64::from(self.today.year()) + turn),
            word => {
                if let Some(season) = season(word) {
                    return (2, self.season_of(season, turn));
                }
                if let Some(month) = month(word) {
                    let year = i64::from(self.today.year());
                    let year = match turn {
                        -1 if month >= self.today.month() => year - 1,
                        1 if month <= self.today.month() => year + 1,
                        _ => year,
                    };
                    return (2, self.month(year, month));
                }
                let Some(day) = weekday(word) else { return (0, None) };
                let days = i64::from(day.num_days_from_monday()) - i64::from(self.today.weekday().num_days_from_monday());
                let days = match turn {
                    -1 if days >= 0 => days - 7,
                    1 if days <= 0 => days + 7,
                    _ => days,
                };
                self.days(self.shifted(days), 1)
            }
        };
        (2, stretch)
    }

    /// `5 May 2023`, `May 5th`, `the 5th of May`, `in May`, `2023-05-07`, `in 2023`.
    fn date(&mut self, at: usize) -> Read {
        if let Ok(date) = NaiveDate::parse_from_str(self.word(at), "%Y-%m-%d") {
            return (1, self.days(Some(date), 1));
        }
        let year = |word: &str| word.parse::<i64>().ok().filter(|year| word.len() == 4 && (1900..2200).contains(year));
        let (mut taken, mut day, mut of) = (0, None, None);
        if let (Some(first), next) = (ordinal(self.word(at)), self.word(at + 1)) {
            let skip = usize::from(next == "of");
            if let Some(named) = month(self.word(at + 1 + skip)) {
                (taken, day, of) = (2 + skip, Some(first), Some(named));
            }
        } else if let Some(named) = month(self.word(at)) {
            let before = at.checked_sub(1).map_or("", |before| self.word(before));
            let after = self.word(at + 1);
            // "may" and "march" are verbs as well
            let clear = !["may", "march"].contains(&self.word(at))
                || ["in", "since", "of", "during", "before", "after", "until", "and", "between", "early", "late"].contains(&before)
                || year(after).is_some()
                || ordinal(after).is_some();
            if clear {
                (taken, day, of) = (1, ordinal(after).filter(|_| year(after).is_none()), Some(named));
                taken += usize::from(day.is_some());
            }
        }
        let Some(named) = of else {
            let led = at.checked_sub(1).is_some_and(|before| {
                ["in", "since", "during", "of", "before", "after", "until", "from", "to", "and", "between", "year"]
                    .contains(&self.word(before))
            });
            return match year(self.word(at)).filter(|_| led) {
                Some(year) => (1, self.year(year)),
                None => (0, None),
            };
        };
        let mut told = year(self.word(at + taken));
        if told.is_some() {
            taken += 1;
        } else {
            told = None;
        }
        let this_year = i64::from(self.today.year());
        let begun = |year: i64| date_of(year, named, day.unwrap_or(1)).is_some_and(|date| date <= self.today);
        let year = told.unwrap_or(if begun(this_year) { this_year } else { this_year - 1 });
        match day {
            Some(day) => (taken, self.days(date_of(year, named, day), 1)),
            None => (taken, self.month(year, named)),
        }
    }

    /// `on monday` is the last one; `mondays` and `every monday` come again.
    fn weekday(&mut self, at: usize) -> Read {
        let word = self.word(at);
        let before = at.checked_sub(1).map_or("", |before| self.word(before));
        let again = word.ends_with("days")
            || ["every", "each"].contains(&before)
            || self.word(at + 1).ends_with('s') && part(self.word(at + 1)).is_some();
        let Some(day) = weekday(word.strip_suffix('s').filter(|stem| stem.ends_with("day")).unwrap_or(word)) else { return (0, None) };
        if again {
            self.reading.weekday = Some(day);
            return (1, None);
        }
        let back = (7 + i64::from(self.today.weekday().num_days_from_monday()) - i64::from(day.num_days_from_monday())) % 7;
        (1, self.days(self.shifted(-back), 1))
    }

    fn season(&mut self, at: usize) -> Read {
        let Some(months) = season(self.word(at)) else { return (0, None) };
        // "fall" and "spring" are verbs as well
        let before = at.checked_sub(1).map_or("", |before| self.word(before));
        let year = self.word(at + 1).parse::<i64>().ok().filter(|year| (1900..2200).contains(year));
        if !["in", "the", "of", "during", "every", "each", "since"].contains(&before) && year.is_none() {
            return (0, None);
        }
        match year {
            Some(year) => (2, self.months(year, months)),
            None => {
                self.reading.months = Some(months);
                (1, None)
            }
        }
    }

    /// `in the morning`, `at 5 pm`, `at 17:30`, `at noon`.
    fn part_of_day(&mut self, at: usize) -> Read {
        let word = self.word(at);
        if let Some(hours) = part(word) {
            self.reading.hours = Some(hours);
            return (1, None);
        }
        let (digits, half) =
            match word.strip_suffix("am").map(|digits| (digits, "am")).or_else(|| word.strip_suffix("pm").map(|digits| (digits, "pm"))) {
                Some((digits, half)) if !digits.is_empty() => (digits, half),
                _ => (word, self.word(at + 1)),
            };
        let led = at.checked_sub(1).is_some_and(|before| ["at", "around", "by", "about"].contains(&self.word(before)));
        let half = Some(half).filter(|half| ["am", "pm"].contains(half));
        let clock = digits.contains(':');
        let Some(hour) = digits.split(':').next().and_then(|hour| hour.parse::<u32>().ok()).filter(|hour| *hour < 24) else {
            return (0, None);
        };
        if half.is_none() && !(led && clock) {
            return (0, None);
        }
        let hour = match half {
            Some("pm") if hour < 12 => hour + 12,
            Some("am") if hour == 12 => 0,
            _ => hour,
        };
        let taken = 1 + usize::from(half.is_some() && digits == word);
        self.reading.hours = Some((hour, hour + 1));
        (taken, None)
    }

    fn shifted(&self, days: i64) -> Option<NaiveDate> {
        self.today.checked_add_signed(Duration::days(days))
    }

    fn days(&self, from: Option<NaiveDate>, days: u64) -> Option<Interval> {
        self.until(from, from.and_then(|from| from.checked_add_days(Days::new(days))))
    }

    fn until(&self, from: Option<NaiveDate>, to: Option<NaiveDate>) -> Option<Interval> {
        Some(Interval { from: Some(midnight(from?)), to: Some(midnight(to?)) })
    }

    fn year(&self, year: i64) -> Option<Interval> {
        self.until(date_of(year, 1, 1), date_of(year + 1, 1, 1))
    }

    fn month(&self, year: i64, month: u32) -> Option<Interval> {
        let first = date_of(year, month, 1)?;
        self.until(Some(first), months_later(first, 1))
    }

    fn months(&self, year: i64, (from, to): (u32, u32)) -> Option<Interval> {
        // winter begins in December and ends in the next year
        let end = if to < from { year + 1 } else { year };
        self.until(date_of(year, from, 1), date_of(end, to, 1).and_then(|last| months_later(last, 1)))
    }

    fn season_of(&self, months: (u32, u32), turn: i64) -> Option<Interval> {
        let year = i64::from(self.today.year());
        let seasons: Vec<Interval> = (year - 2..=year + 2).filter_map(|year| self.months(year, months)).collect();
        match turn {
            -1 => seasons.into_iter().rfind(|season| season.to.is_some_and(|to| to <= self.now)),
            1 => seasons.into_iter().find(|season| season.from.is_some_and(|from| from > self.now)),
            _ => self.months(year, months),
        }
    }

    fn moved(&self, unit: Unit, count: i64) -> Option<DateTime<Utc>> {
        match unit {
            Unit::Seconds(seconds) => self.now.checked_add_signed(Duration::try_seconds(seconds.checked_mul(count)?)?),
            Unit::Months(months) => {
                let months_away = u32::try_from((months * count).abs()).ok()?;
                if count < 0 {
                    self.now.checked_sub_months(Months::new(months_away))
                } else {
                    self.now.checked_add_months(Months::new(months_away))
                }
            }
        }
    }

    /// The day, week, month or year in which that point lies; half an hour around it for smaller units.
    fn around(&self, unit: Unit, count: i64) -> Option<Interval> {
        let point = self.moved(unit, count)?;
        let day = point.date_naive();
        match unit {
            Unit::Seconds(seconds) if seconds < 86_400 => {
                let slack = Duration::try_seconds(seconds.max(60))? / 2;
                Some(Interval { from: Some(point - slack), to: Some(point + slack) })
            }
            Unit::Seconds(86_400) => self.days(Some(day), 1),
            // people count weeks and months loosely
            Unit::Seconds(_) => self.days(day.checked_sub_days(Days::new(3)), 7),
            Unit::Months(1) => self.days(day.checked_sub_days(Days::new(15)), 31),
            Unit::Months(_) => self.year(i64::from(day.year())),
        }
    }
}

fn date_of(year: i64, month: u32, day: u32) -> Option<NaiveDate> {
    NaiveDate::from_ymd_opt(i32::try_from(year).ok()?, month, day)
}

fn months_later(date: NaiveDate, months: i64) -> Option<NaiveDate> {
    let away = Months::new(u32::try_from(months.abs()).ok()?);
    if months < 0 { date.checked_sub_months(away) } else { date.checked_add_months(away) }
}

fn midnight(date: NaiveDate) -> DateTime<Utc> {
    date.and_time(chrono::NaiveTime::MIN).and_utc()
}
