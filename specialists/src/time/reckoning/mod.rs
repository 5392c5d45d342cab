//! What follows from the times that a text names: lengths between points, and whether a statement about time holds, by interval arithmetic
//! (a statement is a stretch of an axis; what is told and what is asked are compared as sets, as in Allen, "Maintaining knowledge about temporal
//! intervals", 1983).
//!
//! A small model cannot count months; it can read what was counted. Of a sentence that denies, hedges or names more than can be placed, and of one that
//! shares too few words with the statement, nothing is said. Months and years are counted from one to the other, as people do: from 1990 to 2004
//! is 14 years.

mod claim;
mod read;
#[cfg(test)]
mod tests;

use chrono::{DateTime, Duration, Months, Utc};
use serde::Serialize;

use claim::{Claim, claims, sentences};
use read::{Amount, Axis, plain_words, read};

/// How a statement stands to what was told; the names are those of textual inference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Relation {
    /// It follows.
    Entailment,
    /// Both cannot be.
    Contradiction,
    /// It may or may not be.
    Neutral,
}

impl Relation {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Entailment => "entailment",
            Self::Contradiction => "contradiction",
            Self::Neutral => "neutral",
        }
    }
}

/// What was worked out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reckoning {
    /// For the prompt.
    pub text: String,
    /// Of what is asked to what was told, where it is a statement.
    pub relation: Option<Relation>,
}

/// Works out what `told` and `asked` allow: how a statement at the end of `asked` stands to what was told, else how long a stretch is that they name,
/// else when it is in so many days.
pub fn reckon(told: &str, asked: &str, now: DateTime<Utc>) -> Option<Reckoning> {
    let mut earlier = sentences(asked);
    let statement = earlier.pop()?;
    let told = format!("{told}\n{}", earlier.join("\n"));
    let (given, wanted) = (claims(&told), claims(statement));
    let wanted = wanted.first();
    let known = wanted.filter(|wanted| !wanted.counted && states(statement)).and_then(|wanted| {
        let mut alike = given.iter().filter(|given| given.axis == wanted.axis && about_the_same(given, statement));
        let first = alike.next()?;
        // of two that differ nobody can say which is meant
        alike.all(|other| (other.from, other.to) == (first.from, first.to)).then_some((first, wanted))
    });
    if let Some((given, wanted)) = known {
        let relation = relate(given, wanted);
        let text = format!("{}; {}: {}.", in_units_of(given, wanted), wanted.said, relation.as_str());
        return Some(Reckoning { text, relation: Some(relation) });
    }
    if let Some(Claim { amount: Some(amount), said, .. }) = given.iter().chain(wanted).rfind(|claim| claim.counted) {
        return Some(Reckoning { text: format!("{said} is {}.", in_words(*amount)), relation: None });
    }
    let distance = wanted.filter(|claim| claim.axis == Axis::FromNow && claim.from == claim.to)?;
    let date = moved(now, distance.amount?)?;
    Some(Reckoning { text: format!("{} is {}.", distance.said, date.format("%A, %-d %B %Y, %H:%M UTC")), relation: None })
}

fn relate(given: &Claim, wanted: &Claim) -> Relation {
    // months have no fixed length: 9 of them are 274 days, and nearly that as well
    let exact = given.amount.zip(wanted.amount).is_none_or(|(given, wanted)| given.comparable(wanted));
    let slack = if exact || wanted.from != wanted.to { 0 } else { wanted.from.abs() / 50 };
    let (from, to) = (wanted.from - slack, wanted.to + slack);
    if given.from >= from && given.to <= to {
        Relation::Entailment
    } else if given.to < from || given.from > to {
        Relation::Contradiction
    } else {
        Relation::Neutral
    }
}

/// What was told, with its amount counted in the units of what is asked.
fn in_units_of(given: &Claim, wanted: &Claim) -> String {
    let Some((told, asked)) = given.amount.zip(wanted.amount) else { return given.said.clone() };
    let about = if told.comparable(asked) { "" } else { "about " };
    let count = |unit: i64, name: &str| {
        let count = (told.total().abs() + unit / 2).div_euclid(unit);
        (told.comparable(asked).then_some(told.total() % unit == 0) != Some(false))
            .then(|| format!("{about}{count} {name}{}", if count == 1 { "" } else { "s" }))
    };
    let counted = if asked.months != 0 && asked.minutes == 0 {
        if asked.months % 12 == 0 { count(Amount::months(12).total(), "year") } else { None }
            .or_else(|| count(Amount::months(1).total(), "month"))
    } else if asked.minutes % 1_440 == 0 {
        count(1_440, "day")
    } else if asked.minutes % 60 == 0 {
        count(60, "hour")
    } else {
        count(1, "minute")
    };
    let ago = if told.total() < 0 { " ago" } else { "" };
    let counted = format!("{}{ago}", counted.unwrap_or_else(|| in_words(told)));
    if given.said.ends_with(&counted) { given.said.clone() } else { format!("{} is {counted}", given.said) }
}

fn in_words(amount: Amount) -> String {
    let (minutes, months) = (amount.minutes.abs(), amount.months.abs());
    let parts =
        [(months / 12, "year"), (months % 12, "month"), (minutes / 1_440, "day"), (minutes / 60 % 24, "hour"), (minutes % 60, "minute")];
    let word = |(count, name): (i64, &str)| format!("{count} {name}{}", if count == 1 { "" } else { "s" });
    let words: Vec<String> = parts.into_iter().filter(|(count, _)| *count != 0).map(word).collect();
    if months > 12 && months % 12 != 0 { format!("{} ({months} months)", words.join(" ")) } else { words.join(" ") }
}

fn moved(now: DateTime<Utc>, amount: Amount) -> Option<DateTime<Utc>> {
    let months = Months::new(u32::try_from(amount.months.abs()).ok()?);
    let date = if amount.months < 0 { now.checked_sub_months(months)? } else { now.checked_add_months(months)? };
    date.checked_add_signed(Duration::try_minutes(amount.minutes)?)
}

/// Whether a sentence says something, or asks whether it is so: not how long, when or what.
fn states(sentence: &str) -> bool {
    let words = plain_words(sentence);
    !words.iter().any(|word| ["how", "when", "what", "which", "who", "where", "why"].contains(&word.as_str()))
}

/// Whether a claim is about what a statement is about, by the first letters of the words that carry its meaning: all of them, the verb too; of a length
/// that was counted from beginning to end, a third, since other words say that it lasted.
fn about_the_same(given: &Claim, statement: &str) -> bool {
    const STOP: [&str; 28] = [
        "does", "follow", "follows", "that", "true", "this", "they", "them", "their", "there", "will", "would", "were", "been", "with",
        "have", "from", "until", "before", "after", "less", "more", "than", "least", "most", "lasted", "within", "right",
    ];
    let told = plain_words(&given.sentence);
    let stem = |word: &str| word.chars().take(4).collect::<String>();
    let mut rest = statement.to_owned();
    for mark in read(statement).iter().rev() {
        rest.replace_range(mark.range.clone(), " ");
    }
    let mut own = plain_words(&rest);
    own.retain(|word| word.chars().count() >= 4 && !STOP.contains(&word.as_str()));
    let shared = own.iter().filter(|word| told.iter().any(|other| stem(other) == stem(word))).count();
    let enough = if given.counted { shared * 3 >= own.len() } else { shared == own.len() };
    enough && shared > 0
}
