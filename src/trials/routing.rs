//! Routing: whether the master gives a question, by its text alone, to the specialist whose suite it is from.

use std::collections::BTreeMap;

use nyx_actors::NyxError;
use serde::Serialize;

use super::choices::Accuracy;
use super::stage::{Stage, today};

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RoutingReport {
    #[serde(flatten)]
    pub accuracy: Accuracy,
    /// Accuracy of the master's own scores, without the learned head.
    pub before_learning: f64,
    /// Share of a class's questions that were given to it.
    pub by_class: BTreeMap<String, Accuracy>,
    /// `confusion[class][chosen]` counts questions.
    pub confusion: BTreeMap<String, BTreeMap<String, usize>>,
}

/// The name with the highest number.
pub fn highest(numbers: &BTreeMap<String, f64>) -> &str {
    numbers.iter().max_by(|a, b| a.1.total_cmp(b.1)).map_or("", |(name, _)| name.as_str())
}

/// Routes pairs of a class and a question. What counts is the highest logit: the draw that explores is left out.
///
/// # Errors
/// The first question that could not be routed.
pub async fn play(stage: &Stage, questions: Vec<(&'static str, String)>) -> Result<RoutingReport, NyxError> {
    let chosen = stage
        .each("routing", &questions, |(class, question)| async {
            let routed = stage.nyx.route(stage.context()?, question.clone(), today()).await?;
            Ok((*class, highest(&routed.logits).to_owned(), highest(&routed.scores) == *class))
        })
        .await?;
    let mut by_class: BTreeMap<String, Vec<bool>> = BTreeMap::new();
    let mut confusion: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    for (class, name, _) in &chosen {
        by_class.entry((*class).to_owned()).or_default().push(name == class);
        *confusion.entry((*class).to_owned()).or_default().entry(name.clone()).or_default() += 1;
    }
    let before = chosen.iter().filter(|(_, _, before)| *before).count();
    Ok(RoutingReport {
        accuracy: Accuracy::of(chosen.iter().map(|(class, name, _)| name == class)),
        before_learning: before as f64 / chosen.len().max(1) as f64,
        by_class: by_class.into_iter().map(|(name, right)| (name, Accuracy::of(right))).collect(),
        confusion,
    })
}
