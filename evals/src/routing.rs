//! The routing suite: whether the master model routes a request, by its text alone, to its labelled
//! specialist.

use std::collections::BTreeMap;
use std::path::Path;

use nyx_actors::NyxError;
use nyx_actors::orchestrator::messages::Routing;
use serde::{Deserialize, Serialize};

use crate::choices::Accuracy;
use crate::dataset::{DatasetError, read_lines};
use crate::environment::EvalEnvironment;

/// A request with its specialist: a line of a file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RoutingCase {
    /// The language it is written in, such as `de`.
    pub lang: Option<String>,
    pub request: String,
    pub specialist: String,
}

/// Reads requests, one JSON object per line.
///
/// # Errors
/// An invalid line, or one whose specialist is not in `specialists`.
pub fn read(path: &Path, specialists: &[&str]) -> Result<Vec<RoutingCase>, DatasetError> {
    read_lines(path, |case: &RoutingCase| {
        if specialists.contains(&case.specialist.as_str()) {
            return Ok(());
        }
        Err(format!(
            "specialist is {:?}, expected one of {}",
            case.specialist,
            specialists.join(", ")
        ))
    })
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RoutingReport {
    #[serde(flatten)]
    pub accuracy: Accuracy,
    /// Accuracy of the base model's scores alone.
    pub by_scores: f64,
    /// Share of a specialist's requests that were routed to it.
    pub by_class: BTreeMap<String, Accuracy>,
    /// Share of a language's requests that were routed correctly; empty if no case names a
    /// language.
    pub by_language: BTreeMap<String, Accuracy>,
    /// `confusion[specialist][chosen]` counts requests.
    pub confusion: BTreeMap<String, BTreeMap<String, usize>>,
}

impl RoutingReport {
    fn of(routed: &[(&RoutingCase, Routing)]) -> Self {
        let right = |(case, routing): &(&RoutingCase, Routing)| {
            routing.best() == Some(case.specialist.as_str())
        };
        let by_scores = routed
            .iter()
            .filter(|(case, routing)| highest(&routing.scores) == Some(case.specialist.as_str()))
            .count();
        let mut classes: BTreeMap<String, Vec<bool>> = BTreeMap::new();
        let mut languages: BTreeMap<String, Vec<bool>> = BTreeMap::new();
        let mut confusion: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
        for one in routed {
            let (case, routing) = one;
            classes.entry(case.specialist.clone()).or_default().push(right(one));
            if let Some(lang) = &case.lang {
                languages.entry(lang.clone()).or_default().push(right(one));
            }
            let chosen = routing.best().unwrap_or_default().to_owned();
            *confusion.entry(case.specialist.clone()).or_default().entry(chosen).or_default() += 1;
        }
        let shares = |all: BTreeMap<String, Vec<bool>>| {
            all.into_iter().map(|(name, right)| (name, Accuracy::of(right))).collect()
        };
        Self {
            accuracy: Accuracy::of(routed.iter().map(right)),
            by_scores: by_scores as f64 / routed.len().max(1) as f64,
            by_class: shares(classes),
            by_language: shares(languages),
            confusion,
        }
    }

    /// Lines for a terminal, one per metric.
    pub fn lines(&self) -> Vec<String> {
        let [low, high] = self.accuracy.interval;
        let (accuracy, count) = (self.accuracy.accuracy, self.accuracy.count);
        let by = |all: &BTreeMap<String, Accuracy>| {
            all.iter()
                .map(|(name, one)| format!("{name} {:.3} of {}", one.accuracy, one.count))
                .collect::<Vec<_>>()
                .join(", ")
        };
        let mut lines = vec![
            format!(
                "routing: accuracy {accuracy:.3} [{low:.3}, {high:.3}] of {count} (by the scores alone {:.3})",
                self.by_scores
            ),
            format!("routing: {}", by(&self.by_class)),
        ];
        if !self.by_language.is_empty() {
            lines.push(format!("routing: {}", by(&self.by_language)));
        }
        lines
    }
}

/// The name with the highest number.
fn highest(numbers: &BTreeMap<String, f64>) -> Option<&str> {
    numbers.iter().max_by(|a, b| a.1.total_cmp(b.1)).map(|(name, _)| name.as_str())
}

/// Routes requests. The prediction is the highest logit, without the exploration draw.
///
/// # Errors
/// The first request that could not be routed.
pub async fn run(
    environment: &EvalEnvironment,
    cases: &[RoutingCase],
) -> Result<RoutingReport, NyxError> {
    let routed = environment
        .each("routing", cases, |case| async move {
            Ok((
                case,
                environment
                    .nyx
                    .decisions
                    .route(environment.context()?, case.request.clone())
                    .await?,
            ))
        })
        .await?;
    Ok(RoutingReport::of(&routed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_specialist_and_language() {
        let case = |lang: Option<&str>, specialist: &str| RoutingCase {
            lang: lang.map(str::to_owned),
            request: "?".into(),
            specialist: specialist.into(),
        };
        let routing = |best: &str, by_scores: &str| {
            let of = |high: &str| {
                ["moira", "nyx"]
                    .map(|name| (name.to_owned(), if name == high { 1.0 } else { 0.0 }))
                    .into()
            };
            Routing { logits: of(best), scores: of(by_scores), ..Routing::default() }
        };
        let cases = [
            case(Some("en"), "moira"),
            case(Some("en"), "nyx"),
            case(Some("de"), "nyx"),
            case(None, "nyx"),
        ];
        let routed: Vec<_> = cases
            .iter()
            .zip([
                routing("moira", "nyx"),
                routing("nyx", "nyx"),
                routing("moira", "nyx"),
                routing("nyx", "moira"),
            ])
            .collect();
        let report = RoutingReport::of(&routed);
        assert_eq!(
            (report.accuracy.count, report.accuracy.accuracy, report.by_scores),
            (4, 0.75, 0.5)
        );
        assert_eq!((report.by_class["moira"].accuracy, report.by_class["nyx"].count), (1.0, 3));
        assert_eq!(
            (
                report.by_language["en"].accuracy,
                report.by_language["de"].accuracy,
                report.by_language.len()
            ),
            (1.0, 0.0, 2)
        );
        assert_eq!((report.confusion["nyx"]["moira"], report.confusion["nyx"]["nyx"]), (1, 2));
    }

    #[test]
    fn a_wrong_line_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("requests.jsonl");
        let line = |specialist: &str| {
            format!("{{\"lang\": \"en\", \"request\": \"Hi\", \"specialist\": \"{specialist}\"}}\n")
        };
        std::fs::write(&path, line("nyx") + &line("zeus")).unwrap();
        let error = read(&path, &["moira", "nyx"]).unwrap_err().to_string();
        assert!(
            error.contains("line 2") && error.contains("zeus") && error.contains("moira, nyx"),
            "{error}"
        );
        assert_eq!(read(&path, &["nyx", "zeus"]).unwrap().len(), 2);
    }
}
