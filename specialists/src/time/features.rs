//! Time stamps as numbers that models can learn from.

use std::f64::consts::TAU;

use chrono::{DateTime, Datelike, Timelike, Utc};

use super::TimeReading;

/// A time stamp's periodic features: sine and cosine of the hour of the day, of the weekday and of the day of the year.
pub const PERIODIC: usize = 6;
/// Numbers that [`time_features`] gives.
pub const TIME_FEATURES: usize = PERIODIC + 9;
/// What ages and distances are measured against: half a century, and a day.
const LONGEST_AGE_S: f64 = 50.0 * 365.25 * 86_400.0;
const LONGEST_DEADLINE_S: f64 = 86_400.0;

/// The periodic part of Time2Vec (Kazemi et al. 2019, "Time2Vec: Learning a Vector Representation of Time") with the periods fixed at a day, a week and a
/// year, each as a sine and a cosine, so that Sunday is next to Monday and 23:59 next to 0:00. In the order hour, weekday, season.
pub fn periodic(at: DateTime<Utc>) -> [f64; PERIODIC] {
    let day = f64::from(at.num_seconds_from_midnight()) / 86_400.0;
    let week = (f64::from(at.weekday().num_days_from_monday()) + day) / 7.0;
    let year = (f64::from(at.ordinal0()) + day) / 365.25;
    let [hour, weekday, season] = [day, week, year].map(|share| (TAU * share).sin_cos());
    [hour.0, hour.1, weekday.0, weekday.1, season.0, season.1]
}

/// How long ago on a log scale, in [0, 1]: `ln(1 + seconds)` over the same of fifty years; 0 for the future.
pub fn log_age(now: DateTime<Utc>, at: DateTime<Utc>) -> f64 {
    let seconds = (now - at).num_milliseconds().max(0) as f64 / 1e3;
    (seconds.ln_1p() / LONGEST_AGE_S.ln_1p()).min(1.0)
}

/// A time to answer on a log scale, in [0, 1]: `ln(1 + seconds)` over the same of a day.
pub fn log_deadline(deadline_ms: u64) -> f64 {
    ((deadline_ms as f64 / 1e3).ln_1p() / LONGEST_DEADLINE_S.ln_1p()).min(1.0)
}

/// A question's place in time, for the master's choice beside the text's embedding: the present's periodic features, the distance of the deadline, and
/// what the question says of time itself (whether it names a stretch, how far back or ahead that lies and how long it is, whether it names a weekday,
/// hours or a season that come again). [`TIME_FEATURES`] numbers in [-1, 1].
pub fn time_features(now: DateTime<Utc>, deadline_ms: u64, said: &TimeReading) -> Vec<f32> {
    let mut features: Vec<f64> = periodic(now).to_vec();
    features.push(log_deadline(deadline_ms));
    let (from, to) = said.interval.map_or((None, None), |interval| (interval.from, interval.to));
    let past = to.or(from).map_or(0.0, |at| log_age(now, at));
    let ahead = from.map_or(0.0, |from| log_age(from, now));
    let length = from.zip(to).map_or(0.0, |(from, to)| log_age(to, from));
    let flag = |known: bool| if known { 1.0 } else { 0.0 };
    features.extend([flag(said.interval.is_some()), flag(to.is_none() && from.is_some()), past, ahead, length]);
    features.extend([flag(said.weekday.is_some()), flag(said.hours.is_some()), flag(said.months.is_some())]);
    features.into_iter().map(|feature| feature as f32).collect()
}

/// How well a memory's time fits a weekday, hours or a season that a question names, in [-1, 1]: the mean cosine of the periods that are named. 0 where
/// none is.
pub fn recurring_similarity(said: &TimeReading, at: DateTime<Utc>) -> f64 {
    let of = periodic(at);
    let mut parts = Vec::new();
    let mut compare = |share: f64, sine: f64, cosine: f64| {
        let (s, c) = (TAU * share).sin_cos();
        parts.push(s * sine + c * cosine);
    };
    if let Some((from, to)) = said.hours {
        let length = if to > from { to - from } else { 24 - from + to };
        compare((f64::from(from) + f64::from(length) / 2.0) / 24.0, of[0], of[1]);
    }
    if let Some(day) = said.weekday {
        // a weekday is its whole day: compared by days and not by hours
        let (sine, cosine) = (TAU * (f64::from(at.weekday().num_days_from_monday()) + 0.5) / 7.0).sin_cos();
        compare((f64::from(day.num_days_from_monday()) + 0.5) / 7.0, sine, cosine);
    }
    if let Some((from, to)) = said.months {
        let length = if to >= from { to - from + 1 } else { 12 - from + to + 1 };
        compare((f64::from(from - 1) + f64::from(length) / 2.0) / 12.0, of[4], of[5]);
    }
    if parts.is_empty() { 0.0 } else { parts.iter().sum::<f64>() / parts.len() as f64 }
}

/// How long ago, in words: `just now`, `5 minutes ago`, `3 days ago`, `in 2 weeks`. Rounded down.
pub fn age_in_words(now: DateTime<Utc>, at: DateTime<Utc>) -> String {
    let seconds = (now - at).num_seconds();
    let (count, unit) = match seconds.unsigned_abs() {
        0..60 => return "just now".into(),
        seconds @ 60..3_600 => (seconds / 60, "minute"),
        seconds @ 3_600..86_400 => (seconds / 3_600, "hour"),
        seconds @ 86_400..1_209_600 => (seconds / 86_400, "day"),
        seconds @ 1_209_600..5_184_000 => (seconds / 604_800, "week"),
        seconds @ 5_184_000..63_072_000 => (seconds / 2_629_800, "month"),
        seconds => (seconds / 31_557_600, "year"),
    };
    let count = count.max(1);
    let amount = format!("{count} {unit}{}", if count == 1 { "" } else { "s" });
    if seconds < 0 { format!("in {amount}") } else { format!("{amount} ago") }
}
