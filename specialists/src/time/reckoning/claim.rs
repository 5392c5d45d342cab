//! What a sentence says of an axis: a stretch, and the words that say it.

use super::read::{Amount, Axis, Kind, Mark, Point, plain_words, read};

/// Further than any time that is named.
const FOREVER: i64 = i64::MAX / 4;

/// What a sentence says of one axis: both ends are part of it.
#[derive(Debug, Clone)]
pub(super) struct Claim {
    pub axis: Axis,
    pub from: i64,
    pub to: i64,
    /// Of lengths and distances, the amount that is named or was counted.
    pub amount: Option<Amount>,
    /// Its words.
    pub said: String,
    /// Whether it is a length that was counted between two points.
    pub counted: bool,
    /// The sentence that says it.
    pub sentence: String,
}

impl Claim {
    /// An amount, with what its words make of it: more or less than that, or just that.
    fn of_amount(axis: Axis, amount: Amount, mark: &Mark, said: String, sentence: &str) -> Option<Self> {
        let total = amount.total();
        let (from, to) = if mark.led_by(&["less", "under", "fewer", "shorter", "before"]) {
            (0, total - 1)
        } else if mark.led_by(&["within"]) || (mark.led_by(&["at"]) && mark.led_by(&["most"])) {
            (0, total)
        } else if mark.led_by(&["more", "over", "longer", "after"]) {
            (total + 1, FOREVER)
        } else if mark.led_by(&["least"]) {
            (total, FOREVER)
        } else {
            (total, total)
        };
        (from <= to).then_some(Self { axis, from, to, amount: Some(amount), said, counted: false, sentence: sentence.to_owned() })
    }

    fn of_point(point: &Point, mark: &Mark, said: String, sentence: &str) -> Option<Self> {
        // weeks begin on Monday or on Sunday: what lies before or after one cannot be told
        if point.axis == Axis::Weekday && point.from == 6 && !mark.lead.is_empty() && !mark.led_by(&["on"]) {
            return None;
        }
        let (from, to) = if mark.led_by(&["before"]) {
            (-FOREVER, point.from - 1)
        } else if mark.led_by(&["after"]) {
            (point.to + 1, FOREVER)
        } else if mark.led_by(&["by", "until", "till"]) {
            (-FOREVER, point.to)
        } else if mark.led_by(&["since", "from"]) {
            (point.from, FOREVER)
        } else {
            (point.from, point.to)
        };
        Some(Self { axis: point.axis, from, to, amount: None, said, counted: false, sentence: sentence.to_owned() })
    }
}

/// What the sentences of a text say, one claim at most of each: a sentence that denies, or that names more times than can be placed, says nothing.
pub(super) fn claims(text: &str) -> Vec<Claim> {
    sentences(text).into_iter().filter_map(claim).collect()
}

/// A text in sentences: they end with a line, or before a word that begins with a capital.
pub(super) fn sentences(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for line in text.lines() {
        let mut from = 0;
        for (at, _) in line.match_indices(['.', '?', '!']) {
            let after = &line[at + 1..];
            let word = after.trim_start();
            if word.len() < after.len() && word.starts_with(|c: char| c.is_uppercase() || c.is_ascii_digit() || c == '"') {
                found.push(line[from..=at].trim());
                from = at + 1;
            }
        }
        found.push(line[from..].trim());
    }
    found.retain(|sentence| !sentence.is_empty());
    found
}

/// Words of a sentence that denies, supposes or hedges.
const UNSURE: [&str; 35] = [
    "not",
    "never",
    "no",
    "cannot",
    "nobody",
    "none",
    "neither",
    "nor",
    "without",
    "unless",
    "except",
    "if",
    "whether",
    "might",
    "could",
    "maybe",
    "perhaps",
    "possibly",
    "probably",
    "supposedly",
    "failed",
    "fails",
    "refused",
    "almost",
    "nearly",
    "about",
    "around",
    "roughly",
    "approximately",
    "circa",
    "barely",
    "hardly",
    "some",
    "or",
    "either",
];
/// Words that say that something begins, and that it ends.
const BEGINS: [&str; 9] = ["began", "begins", "begin", "started", "starts", "start", "became", "opened", "founded"];
const ENDS: [&str; 12] =
    ["ended", "ends", "end", "lasted", "lasts", "reached", "reaches", "arrived", "finished", "graduated", "closed", "stopped"];

fn claim(sentence: &str) -> Option<Claim> {
    let words = plain_words(sentence);
    let has = |some: &[&str]| words.iter().any(|word| some.contains(&word.as_str()));
    if has(&UNSURE) || words.iter().any(|word| word.ends_with("n't")) || sentence.contains("up to") {
        return None;
    }
    let text = |mark: &Mark| sentence[mark.range.clone()].to_owned();
    let said = |mark: &Mark| {
        let lead: String = mark.lead.iter().filter(|word| *word != "and").flat_map(|word| [word, " "]).collect();
        format!("{lead}{}", text(mark))
    };
    match &read(sentence)[..] {
        [first, second] => {
            let (Kind::Point(start), Kind::Point(end)) = (first.kind, second.kind) else { return None };
            let turned = [first, second].iter().any(|mark| mark.led_by(&["before", "after", "by", "since"]));
            // two things that happened are no stretch, unless one is the beginning and one the end
            let reaches = second.led_by(&["to", "until", "till"]) || first.led_by(&["between"]) || (has(&BEGINS) && has(&ENDS));
            let amount = between(&start, &end).filter(|_| reaches && !turned && second.stands_alone())?;
            let said = format!("from {} to {}", text(first), text(second));
            Some(Claim {
                axis: Axis::Length,
                from: amount.total(),
                to: amount.total(),
                amount: Some(amount),
                said,
                counted: true,
                sentence: sentence.to_owned(),
            })
        }
        [mark] => match mark.kind {
            Kind::Point(point) => Claim::of_point(&point, mark, said(mark), sentence),
            // "3 days after the wedding" is not counted from the present
            Kind::Amount(_) if ["after", "before", "later", "earlier", "of", "old", "from", "into"].contains(&mark.next.as_str()) => None,
            Kind::Amount(amount) if mark.next == "ago" => {
                let (total, said) = (-amount.total(), format!("{} ago", said(mark)));
                let amount = Amount { months: -amount.months, minutes: -amount.minutes };
                mark.lead.is_empty().then_some(Claim {
                    axis: Axis::FromNow,
                    from: total,
                    to: total,
                    amount: Some(amount),
                    said,
                    counted: false,
                    sentence: sentence.to_owned(),
                })
            }
            Kind::Amount(amount) if mark.led_by(&["for"]) || has(&["lasted", "lasts", "last", "took", "takes", "take"]) => {
                Claim::of_amount(Axis::Length, amount, mark, said(mark), sentence)
            }
            Kind::Amount(amount) if mark.led_by(&["in", "within", "after", "before"]) => {
                Claim::of_amount(Axis::FromNow, amount, mark, said(mark), sentence)
            }
            Kind::Amount(_) => None,
        },
        _ => None,
    }
}

/// The time from one point to the next such point after it.
fn between(start: &Point, end: &Point) -> Option<Amount> {
    let (from, to) = (start.from, end.from);
    let around = |turn: i64| Some((to - from).rem_euclid(turn)).filter(|steps| *steps > 0);
    match (start.axis, end.axis) {
        (Axis::Calendar, Axis::Calendar) if start.day && end.day => (to > from).then(|| Amount::days(to - from)),
        (Axis::Calendar, Axis::Calendar) if start.day == end.day => {
            let months = match (start.month, end.month) {
                (Some(first), Some(last)) => last - first,
                (None, None) => year_of(to)? - year_of(from)?,
                _ => return None,
            };
            let months = if start.month.is_none() { months * 12 } else { months };
            (months > 0).then(|| Amount::months(months))
        }
        (Axis::Year, Axis::Year) if start.day && end.day => days_between(start, end).map(Amount::days),
        (Axis::Year, Axis::Year) if start.day == end.day => {
            Some((end.month? - start.month?).rem_euclid(12)).filter(|months| *months > 0).map(Amount::months)
        }
        (Axis::Weekday, Axis::Weekday) => around(7).map(Amount::days),
        (Axis::Day, Axis::Day) => (to > from).then(|| Amount::days(to - from)),
        (Axis::Clock, Axis::Clock) => around(1_440).map(|minutes| Amount { months: 0, minutes }),
        _ => None,
    }
}

/// Days from one day of a year to the next other one, where it does not matter which year.
fn days_between(start: &Point, end: &Point) -> Option<i64> {
    let date = |year: i32, point: &Point| {
        let month = u32::try_from(point.month?).ok()?;
        chrono::NaiveDate::from_ymd_opt(year, month, u32::try_from(point.from).ok()?.checked_sub(month * 31)?)
    };
    let days = |year: i32| {
        let (from, to) = (date(year, start)?, date(year, end)?);
        let to = if to < from { date(year + 1, end)? } else { to };
        Some((to - from).num_days()).filter(|days| *days > 0)
    };
    // around a leap day, and not
    days(2021).filter(|found| [2023, 2024].into_iter().all(|year| days(year) == Some(*found)))
}

fn year_of(day: i64) -> Option<i64> {
    chrono::NaiveDate::from_num_days_from_ce_opt(i32::try_from(day).ok()?).map(|date| i64::from(chrono::Datelike::year(&date)))
}
