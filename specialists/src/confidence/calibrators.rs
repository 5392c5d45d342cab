//! A calibrator per specialist: from the signals of an answer to the probability that it is
//! correct.

use std::collections::BTreeMap;

use nyx_domain::Signals;
use serde::{Deserialize, Serialize};

use super::signals::{FEATURES, features};
use crate::learn::{Artifact, Isotonic, LinearModel, Platt};

/// Bound on confidences: none is 0 or 1.
pub(super) const LEAST: f64 = 0.01;

/// Map from a score to a probability.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Map {
    Platt(Platt),
    Isotonic(Isotonic),
}

impl Map {
    pub(super) fn apply(&self, score: f64) -> f64 {
        match self {
            Self::Platt(platt) => platt.apply(score),
            Self::Isotonic(isotonic) => isotonic.apply(score),
        }
    }

    pub(super) fn is_sound(&self) -> bool {
        match self {
            Self::Platt(platt) => platt.is_sound(),
            Self::Isotonic(isotonic) => isotonic.is_sound(),
        }
    }
}

/// The calibrator of one specialist's answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Calibrator {
    /// Number of answers that it was fitted on, and the fraction of them that was correct.
    pub(super) rows: usize,
    pub(super) base_rate: f64,
    pub(super) map: Map,
    /// Two classes, wrong and right, over the features of the signals.
    pub(super) model: LinearModel,
}

impl Calibrator {
    pub(super) fn score(model: &LinearModel, signals: &Signals) -> f64 {
        match model.logits(&features(signals))[..] {
            [wrong, right] => right - wrong,
            _ => 0.0,
        }
    }
}

/// The calibrators of all specialists that have one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confidences {
    pub(super) specialists: BTreeMap<String, Calibrator>,
}

impl Artifact for Confidences {
    const KIND: &'static str = "confidence";
    const VERSION: u32 = 2;

    fn check(&self) -> Result<(), String> {
        for (name, Calibrator { base_rate, map, model, .. }) in &self.specialists {
            let (classes, features) = (model.classes(), model.features());
            if !model.is_sound() || classes != 2 || features != FEATURES {
                let expected = FEATURES;
                return Err(format!(
                    "specialists.{name}.model has {classes} rows of {features} weights, expected 2 of {expected} finite ones"
                ));
            }
            if !map.is_sound() {
                return Err(format!(
                    "specialists.{name}.map is {map:?}, expected finite numbers, never falling, probabilities in [0, 1]"
                ));
            }
            if !(0.0..=1.0).contains(base_rate) {
                return Err(format!(
                    "specialists.{name}.base_rate is {base_rate}, expected a share in [0, 1]"
                ));
            }
        }
        Ok(())
    }
}

impl Confidences {
    /// The probability that the answer of that specialist is correct, in [0.01, 0.99]; `None` for a
    /// specialist without a calibrator.
    pub fn apply(&self, specialist: &str, signals: &Signals) -> Option<f64> {
        let Calibrator { map, model, .. } = self.specialists.get(specialist)?;
        Some(map.apply(Calibrator::score(model, signals)).clamp(LEAST, 1.0 - LEAST))
    }

    /// The specialists that have a calibrator.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.specialists.keys().map(String::as_str)
    }

    /// `platt` or `isotonic`.
    pub fn map_of(&self, specialist: &str) -> Option<&'static str> {
        self.specialists.get(specialist).map(|calibrator| match calibrator.map {
            Map::Platt(_) => "platt",
            Map::Isotonic(_) => "isotonic",
        })
    }

    /// These calibrators, and those of `other` for specialists that have none here.
    #[must_use]
    pub fn or(mut self, other: &Self) -> Self {
        for (name, calibrator) in &other.specialists {
            self.specialists.entry(name.clone()).or_insert_with(|| calibrator.clone());
        }
        self
    }
}
