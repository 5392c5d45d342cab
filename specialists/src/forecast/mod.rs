//! Forecasts: what a learned model, the language model and others (a market) say of a question, made one probability in log-odds.
//!
//! The [`Forecaster`] holds two things. A logistic regression reads the question itself: how such questions end (one candidate of many, a deadline near
//! or far, a threshold) is known better than what will happen. And for each set of opinions that may be at hand, a [`Pool`] says how much each counts.

mod features;
mod fit;
mod horizon;
mod pool;

use std::collections::BTreeMap;

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

use crate::learn::{LearnedPart, LinearModel};

pub use fit::{ForecastExample, ForecastFit, fit};
pub use pool::{Opinions, Pool};

use features::{FEATURES_BUT_EMBEDDING, features, words};

/// Parameters that Nyx ships, learned by `nyx train forecast`.
pub const SHIPPED_FORECASTER: &str = include_str!("../../learned/forecast.json");

/// The class of [`Forecaster::model`] that says that it happens.
const YES: usize = 1;
/// The model is never surer than this: it knows no facts.
const SUREST: f64 = 0.98;

/// What the learned model reads of a question.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub question: &'a str,
    /// Background, such as the rules of resolution; empty when there is none.
    pub context: &'a str,
    /// The caller's present.
    pub on: NaiveDate,
    /// The question's unit vector.
    pub embedding: &'a [f32],
}

/// The learned part `forecast`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forecaster {
    /// The share of its examples that happened.
    base_rate: f64,
    /// Numbers in an embedding.
    dimension: usize,
    /// Two classes, No and Yes.
    model: LinearModel,
    /// By the names of the opinions that are pooled: see [`Opinions::names`].
    pools: BTreeMap<String, Pool>,
}

/// A forecast and what it was made of; kept with the decision.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Forecast {
    #[serde(flatten)]
    pub opinions: Opinions,
    /// The pool that made one of them: the opinions that counted, and how much.
    pub pool: Pool,
    /// The probability that it happens, in (0, 1).
    pub probability: f64,
}

impl Forecaster {
    /// The learned model's probability that it happens; `None` for an embedding of another size than it was learned on.
    pub fn learned(&self, asked: &Asked<'_>) -> Option<f64> {
        if asked.embedding.len() != self.dimension {
            return None;
        }
        let p = self.model.probabilities(&features(asked)).get(YES).copied()?;
        Some(p.clamp(1.0 - SUREST, SUREST))
    }

    /// Whether any pool counts what the language model says: then these parameters belong to the model that they were learned on.
    pub fn reads_language_model(&self) -> bool {
        self.pools.keys().any(|names| names.split('+').any(|name| name == "choice" || name == "chains"))
    }

    /// Pools opinions. Sets of opinions that nothing was learned for lose the chains first, then the choice, then the learned model; a prior alone is
    /// believed, and without any opinion the base rate is.
    pub fn forecast(&self, opinions: Opinions) -> Forecast {
        let mut known = opinions.clone();
        loop {
            let names = known.names();
            let pool = match self.pools.get(&names) {
                Some(pool) => pool.clone(),
                None if names.is_empty() => Pool::constant(self.base_rate),
                None if names == "prior" => Pool::alone("prior"),
                None => {
                    known.forget_one();
                    continue;
                }
            };
            let probability = pool.probability(&known);
            return Forecast { opinions, pool, probability };
        }
    }
}

/// The day by which it will be known, as far as the question (or else its context) names one that is not before `on`.
pub fn due(question: &str, context: &str, on: NaiveDate) -> Option<NaiveDate> {
    let days = horizon::horizon(&words(question), &words(context), on)?;
    on.checked_add_signed(chrono::TimeDelta::days(days))
}

/// Whether a question can be answered by Yes or No: it does not begin with a word that asks for something else.
pub fn asks_whether(question: &str) -> bool {
    const OTHERS: [&str; 12] = ["what", "when", "who", "whom", "whose", "where", "which", "how", "why", "tell", "list", "name"];
    words(question).first().is_some_and(|first| !OTHERS.contains(&first.as_str()))
}

/// Which of two choices is Yes, where they are Yes and No (in any case and order).
pub fn yes_of(choices: &[String]) -> Option<usize> {
    let [first, second] = choices else { return None };
    let is = |choice: &String, word: &str| choice.trim().eq_ignore_ascii_case(word);
    match (first, second) {
        (yes, no) if is(yes, "yes") && is(no, "no") => Some(0),
        (no, yes) if is(no, "no") && is(yes, "yes") => Some(1),
        _ => None,
    }
}

impl LearnedPart for Forecaster {
    const KIND: &'static str = "forecast";
    const VERSION: u32 = 1;

    fn check(&self) -> Result<(), String> {
        if !(self.base_rate > 0.0 && self.base_rate < 1.0) {
            return Err(format!("base_rate is {}, expected a number between 0 and 1", self.base_rate));
        }
        let (features, expected) = (self.model.features(), FEATURES_BUT_EMBEDDING + self.dimension);
        if !self.model.is_sound() || self.model.classes() != 2 || features != expected {
            let classes = self.model.classes();
            return Err(format!("model has {classes} classes of {features} features, expected 2 of {expected} finite ones"));
        }
        self.pools.iter().try_for_each(|(names, pool)| pool.check(names).map_err(|reason| format!("pools.{names:?}.{reason}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learn::LearnedFile;

    fn forecaster() -> Forecaster {
        LearnedFile::<Forecaster>::parse(SHIPPED_FORECASTER).unwrap().parameters
    }

    fn asked<'a>(question: &'a str, embedding: &'a [f32]) -> Asked<'a> {
        Asked { question, context: "", on: NaiveDate::from_ymd_opt(2026, 3, 1).unwrap(), embedding }
    }

    #[test]
    fn the_shipped_parameters_are_sound_and_know_one_candidate_of_many() {
        let forecaster = forecaster();
        let flat = vec![0.0; forecaster.dimension];
        let one_of_many = forecaster.learned(&asked("Will the Utah Jazz win the 2026 NBA Finals?", &flat)).unwrap();
        let likely = forecaster.learned(&asked("Will at least 3 people still be alive by March 2, 2026?", &flat)).unwrap();
        assert!(one_of_many < 0.3 && one_of_many < likely, "{one_of_many}, {likely}");
        assert_eq!(forecaster.learned(&asked("Will it rain?", &[1.0])), None);
    }

    #[test]
    fn yes_is_found_and_so_is_the_day() {
        let of = |choices: &[&str]| yes_of(&choices.iter().map(|choice| (*choice).to_owned()).collect::<Vec<_>>());
        assert_eq!(
            [of(&["Yes", "No"]), of(&["no", "YES "]), of(&["Yes", "Maybe"]), of(&["Yes", "No", "?"])],
            [Some(0), Some(1), None, None]
        );
        assert!(asks_whether("Will it rain?") && asks_whether("Ceasefire by May?") && !asks_whether("Who wins?") && !asks_whether("?"));
        let on = |day: u32| NaiveDate::from_ymd_opt(2026, 3, day).unwrap();
        assert_eq!(due("Will it rain by March 15, 2026?", "", on(1)), Some(on(15)));
        assert_eq!(due("Will it rain by March 15, 2026?", "", on(20)), None);
    }

    #[test]
    fn a_prior_moves_the_forecast_most() {
        let forecaster = forecaster();
        let of = |prior: Option<f64>, learned: Option<f64>| forecaster.forecast(Opinions { prior, learned, ..Opinions::default() });
        let mut last = 0.0;
        for prior in [0.0, 0.05, 0.2, 0.5, 0.8, 0.95, 1.0] {
            let forecast = of(Some(prior), Some(0.3));
            assert!(forecast.probability > last && (forecast.probability - prior).abs() < 0.15, "{prior}: {forecast:?}");
            last = forecast.probability;
        }
        assert!((of(Some(0.4), None).probability - 0.4).abs() < 1e-9, "a prior alone is believed");
        assert!((of(None, None).probability - forecaster.base_rate).abs() < 1e-9);
        assert!(of(None, Some(0.1)).probability < of(None, Some(0.5)).probability);
        // an opinion that nothing was learned for changes nothing
        let strange = Opinions { prior: Some(0.4), chains: vec![0.9, 0.8], ..Opinions::default() };
        assert!((forecaster.forecast(strange).probability - 0.4).abs() < 0.15);
    }

    #[test]
    fn a_file_that_does_not_fit_is_refused_by_name() {
        let good = forecaster();
        let wrong = |change: fn(&mut Forecaster)| {
            let mut forecaster = good.clone();
            change(&mut forecaster);
            forecaster.check().unwrap_err()
        };
        assert!(wrong(|forecaster| forecaster.base_rate = 1.0).contains("base_rate is 1"));
        assert!(wrong(|forecaster| forecaster.dimension = 3).contains("features"));
        let moon = |forecaster: &mut Forecaster| drop(forecaster.pools.insert("moon".into(), Pool::constant(0.5)));
        assert!(wrong(moon).contains("pools.\"moon\""));
    }
}
