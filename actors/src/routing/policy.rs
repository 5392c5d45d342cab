//! A routing policy, as given on the command line.

use std::str::FromStr;

/// A routing policy.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicySpec {
    pub chooser: RoutingPolicy,
    /// The temperature τ of the softmax; the current one when absent.
    pub temperature: Option<f64>,
    /// The fraction of uniform draws; the current one when absent.
    pub epsilon: Option<f64>,
    /// Whether the current trait weights are added.
    pub weights: bool,
}

/// The kind of draw. The logits are those on record, plus the current trait weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoutingPolicy {
    /// Uniform.
    Uniform,
    /// Always the highest logit.
    Best,
    /// By the softmax of the logits.
    Current,
    /// Always this specialist.
    Specialist(String),
}

const EXPECTED: &str =
    "uniform, best, current or specialist=NAME, with ,temperature=T ,epsilon=E ,weights=none";

impl FromStr for PolicySpec {
    type Err = String;

    /// # Errors
    /// Names the invalid part and what is expected.
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is no policy, expected {EXPECTED}");
        let mut parts = text.split(',').map(str::trim);
        let chooser = match parts.next().unwrap_or_default() {
            "uniform" => RoutingPolicy::Uniform,
            "best" => RoutingPolicy::Best,
            "current" => RoutingPolicy::Current,
            named => match named.split_once('=') {
                Some(("specialist", name)) if !name.is_empty() => {
                    RoutingPolicy::Specialist(name.to_owned())
                }
                _ => return Err(bad()),
            },
        };
        let mut spec = Self { chooser, temperature: None, epsilon: None, weights: true };
        for part in parts {
            let (key, value) = part.split_once('=').ok_or_else(bad)?;
            let number = || {
                value.parse::<f64>().map_err(|_| format!("{key} is {value:?}, expected a number"))
            };
            match (key, value) {
                ("temperature", _) => spec.temperature = Some(number()?),
                ("epsilon", _) => spec.epsilon = Some(number()?),
                ("weights", "none") => spec.weights = false,
                _ => return Err(bad()),
            }
        }
        if let Some(temperature) =
            spec.temperature.filter(|temperature| !(*temperature > 0.0 && temperature.is_finite()))
        {
            return Err(format!("temperature is {temperature}, expected a number above 0"));
        }
        if let Some(epsilon) = spec.epsilon.filter(|epsilon| !(0.0..=1.0).contains(epsilon)) {
            return Err(format!("epsilon is {epsilon}, expected 0 to 1"));
        }
        Ok(spec)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_read_or_refused_by_name() {
        let plain =
            |chooser| PolicySpec { chooser, temperature: None, epsilon: None, weights: true };
        assert_eq!("uniform".parse(), Ok(plain(RoutingPolicy::Uniform)));
        assert_eq!(
            "specialist=moira".parse(),
            Ok(plain(RoutingPolicy::Specialist("moira".into())))
        );
        let current = PolicySpec {
            temperature: Some(0.3),
            epsilon: Some(0.0),
            weights: false,
            ..plain(RoutingPolicy::Current)
        };
        assert_eq!("current, temperature=0.3,epsilon=0,weights=none".parse(), Ok(current));
        for (wrong, message) in [
            ("", "uniform"),
            ("a/master.json", "no policy"),
            ("specialist=", "no policy"),
            ("best,fast", "no policy"),
            ("current,epsilon=2", "epsilon is 2"),
            ("best,temperature=x", "\"x\""),
        ] {
            let error = wrong.parse::<PolicySpec>().unwrap_err();
            assert!(error.contains(message), "{wrong}: {error}");
        }
    }
}
