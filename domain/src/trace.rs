//! What took part in an answer and why it is what it is. Recorded with the decision.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::confidence::Signals;
use crate::forecast::Forecast;
use crate::safety::SafetyReport;
use crate::timing::Plan;

/// The record of one answer's parts; a part that took none is absent.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Trace {
    /// Limits of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestTrace>,
    /// What screening found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub safety: Option<SafetyReport>,
    /// The plan of a specialist that plans by the time that is left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timing: Option<TimingTrace>,
    /// The plan by which the answer was deferred.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deferral: Option<TimingTrace>,
    /// Ids of the evidence that the answer cites.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cited: Option<Vec<String>>,
    /// The inputs of a forecast.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forecast: Option<Forecast>,
    /// The inputs of the confidence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confidence: Option<ConfidenceTrace>,
    /// The draw between the active adapter and a canary.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryTrace>,
    /// The specialist's generation where the base model answered as one, after a rollback.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// What was stored as memories.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remembered: Option<RememberedTrace>,
}

impl Trace {
    /// Adds the parts of `later`, which replace those of `self`.
    pub fn extend(&mut self, later: Self) {
        let Self {
            request,
            safety,
            timing,
            deferral,
            cited,
            forecast,
            confidence,
            canary,
            generation,
            remembered,
        } = later;
        fn put<T>(part: &mut Option<T>, later: Option<T>) {
            if later.is_some() {
                *part = later;
            }
        }
        put(&mut self.request, request);
        put(&mut self.safety, safety);
        put(&mut self.timing, timing);
        put(&mut self.deferral, deferral);
        put(&mut self.cited, cited);
        put(&mut self.forecast, forecast);
        put(&mut self.confidence, confidence);
        put(&mut self.canary, canary);
        put(&mut self.generation, generation);
        put(&mut self.remembered, remembered);
    }
}

/// Limits of the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestTrace {
    /// Milliseconds from the request to its deadline.
    pub deadline_ms: u64,
}

/// A plan of an answer by the time that is left.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TimingTrace {
    /// The options and the chosen one.
    pub plan: Plan,
}

/// The inputs of the confidence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConfidenceTrace {
    /// Signals of the answer.
    pub signals: Signals,
    /// Id of the calibrator that turned them into a confidence; `None` without one.
    pub calibrator: Option<String>,
}

/// Which of two adapters a canary's draw chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arm {
    /// The canary.
    Canary,
    /// The active adapter, or the base model.
    Live,
}

/// A draw between the active adapter and a canary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CanaryTrace {
    /// Which one was drawn.
    pub arm: Arm,
    /// The probability with which it was drawn, in (0, 1].
    pub propensity: f64,
    /// The id of the adapter that answered; `None` is the base model.
    pub id: Option<String>,
    /// The canary's id where the active adapter was drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<String>,
}

impl CanaryTrace {
    /// The canary's id, whichever was drawn.
    pub fn canary_id(&self) -> Option<&str> {
        match self.arm {
            Arm::Canary => self.id.as_deref(),
            Arm::Live => self.canary.as_deref(),
        }
    }
}

/// What was stored as memories of a question and its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RememberedTrace {
    /// The memories' ids: the question's, then the answer's.
    Ids(Vec<Uuid>),
    /// Why nothing was stored.
    Warning(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_shows_the_parts_that_took_part() {
        let trace = Trace {
            request: Some(RequestTrace { deadline_ms: 500 }),
            canary: Some(CanaryTrace {
                arm: Arm::Live,
                propensity: 0.75,
                id: None,
                canary: Some("c".into()),
            }),
            remembered: Some(RememberedTrace::Warning("full".into())),
            ..Trace::default()
        };
        let json = serde_json::to_value(&trace).unwrap();
        let expected = serde_json::json!({
            "request": {"deadline_ms": 500},
            "canary": {"arm": "live", "propensity": 0.75, "id": null, "canary": "c"},
            "remembered": {"warning": "full"},
        });
        assert_eq!(json, expected);
        assert_eq!(serde_json::from_value::<Trace>(json).unwrap(), trace);
        assert_eq!(serde_json::from_str::<Trace>("{}").unwrap(), Trace::default());
        assert_eq!(trace.canary.unwrap().canary_id(), Some("c"));
    }

    #[test]
    fn later_parts_replace_earlier_ones() {
        let mut trace = Trace {
            request: Some(RequestTrace { deadline_ms: 5 }),
            generation: Some(1),
            ..Trace::default()
        };
        trace.extend(Trace { generation: Some(2), cited: Some(Vec::new()), ..Trace::default() });
        let expected = Trace {
            request: Some(RequestTrace { deadline_ms: 5 }),
            generation: Some(2),
            cited: Some(Vec::new()),
            ..Trace::default()
        };
        assert_eq!(trace, expected);
    }
}
