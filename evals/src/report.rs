//! The report of an evaluation: JSON, an HTML page, and lines for a terminal.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use nyx_specialists::learn::metrics::{
    ReliabilityBin, auroc, base_rate, brier, brier_skill, expected_calibration_error, reliability,
};
use serde::Serialize;

use crate::choices::{Accuracy, Answered, ChoiceReport, FairnessReport};
use crate::forecast::ForecastReport;
use crate::recall::RecallReport;
use crate::routing::RoutingReport;
use crate::verification::FactsReport;

const BINS: usize = 10;

/// A suite's metrics; which ones are present depends on the suite.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct SuiteReport {
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub choices: Option<ChoiceReport>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub fairness: Option<FairnessReport>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub facts: Option<FactsReport>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub forecast: Option<ForecastReport>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub recall: Option<RecallReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confidence: Option<ConfidenceReport>,
}

/// Calibration of confidences, and how well they separate right answers from wrong ones.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ConfidenceReport {
    /// Answers with a confidence.
    pub count: usize,
    /// The share of them that is correct.
    pub accuracy: f64,
    /// Expected calibration error over ten bins of equal width.
    pub ece: f64,
    pub brier: f64,
    /// 1 minus the Brier score over that of the constant base rate: positive is better than the
    /// base rate.
    pub brier_skill: Option<f64>,
    /// Probability that a right answer has a higher confidence than a wrong one.
    pub auroc: Option<f64>,
    pub bins: Vec<ReliabilityBin>,
}

impl ConfidenceReport {
    /// `None` when no answer has a confidence.
    pub fn of<'a>(answers: impl IntoIterator<Item = &'a Answered>) -> Option<Self> {
        let pairs: Vec<(f64, bool)> = answers
            .into_iter()
            .filter_map(|answer| Some((answer.decision.confidence?, answer.right())))
            .collect();
        let accuracy = base_rate(&pairs)?;
        Some(Self {
            count: pairs.len(),
            accuracy,
            ece: expected_calibration_error(&pairs, BINS)?,
            brier: brier(&pairs)?,
            brier_skill: brier_skill(&pairs, accuracy),
            auroc: auroc(&pairs),
            bins: reliability(&pairs, BINS),
        })
    }
}

/// A fitted artifact in use.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PartReport {
    pub id: String,
    /// `record`, or the file's name.
    pub origin: String,
}

/// The whole evaluation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub nyx: &'static str,
    pub at: DateTime<Utc>,
    pub split: String,
    pub seed: u64,
    /// Maximum number of questions per suite.
    pub limit: Option<usize>,
    pub base_model: String,
    pub base_sha256: String,
    /// Each specialist's adapter, for those that used one.
    pub adapters: BTreeMap<String, String>,
    pub artifacts: BTreeMap<String, PartReport>,
    pub suites: BTreeMap<String, SuiteReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routing: Option<RoutingReport>,
    /// Over the choice suites, pooled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub confidence: Option<ConfidenceReport>,
    pub seconds: f64,
}

fn share(accuracy: &Accuracy) -> String {
    let [low, high] = accuracy.interval;
    format!("{:.3} [{low:.3}, {high:.3}] of {}", accuracy.accuracy, accuracy.count)
}

impl Report {
    /// Lines for a terminal, one per metric.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (name, suite) in &self.suites {
            if let Some(choices) = &suite.choices {
                lines.push(format!(
                    "{name}: accuracy {} (chance {:.3})",
                    share(&choices.accuracy),
                    choices.chance
                ));
            }
            if let Some(fairness) = &suite.fairness {
                let (ambig, disambig) = (share(&fairness.ambig), share(&fairness.disambig));
                lines.push(format!("{name}: ambiguous {ambig}, disambiguated {disambig}"));
                lines.push(format!(
                    "{name}: bias {:+.3} ambiguous, {:+.3} disambiguated",
                    fairness.bias.ambig, fairness.bias.disambig
                ));
            }
            if let Some(facts) = &suite.facts {
                lines.push(format!(
                    "{name}: right table first {:.3}, right table shown {:.3}",
                    facts.table_at_1, facts.table_shown
                ));
            }
            if let Some(forecast) = &suite.forecast {
                let blind = &forecast.without_prior;
                let interval = |mean: &Option<super::stats::Mean>| {
                    mean.map_or_else(String::new, |mean| {
                        format!(
                            " ({:+.4} [{:+.4}, {:+.4}])",
                            mean.mean, mean.interval[0], mean.interval[1]
                        )
                    })
                };
                let (brier, market) = (forecast.brier, forecast.market_brier);
                lines.push(format!(
                    "{name}: Brier {brier:.4}, the market's {market:.4}{}",
                    interval(&forecast.over_market)
                ));
                let rate = blind
                    .base_rate_brier
                    .map_or_else(|| "unknown".to_owned(), |brier| format!("{brier:.4}"));
                lines.push(format!(
                    "{name}: without the prior {:.4}, the base rate's {rate}{}",
                    blind.brier,
                    interval(&blind.over_base_rate)
                ));
            }
            if let Some(recall) = &suite.recall {
                let (five, ten) = (recall.recall_at_5, recall.recall_at_10);
                let f1 = recall.f1.map_or_else(String::new, |f1| format!(", answers' F1 {f1:.3}"));
                let (mrr, count, seconds) = (recall.mrr, recall.count, recall.seconds);
                lines.push(format!("{name}: recall@5 {five:.3}, recall@10 {ten:.3}, MRR {mrr:.3} of {count}{f1} ({seconds:.0} s)"));
            }
        }
        if let Some(routing) = &self.routing {
            lines.extend(routing.lines());
        }
        if let Some(confidence) = &self.confidence {
            let number = |value: Option<f64>| {
                value.map_or_else(|| "none".to_owned(), |value| format!("{value:.3}"))
            };
            let (skill, auroc) = (number(confidence.brier_skill), number(confidence.auroc));
            lines.push(format!(
                "confidence: ECE {:.3}, Brier skill {skill}, AUROC {auroc} over {} answers",
                confidence.ece, confidence.count
            ));
        }
        lines
    }
}
