//! Fits small artifacts on cases with known answers, through the serving code path.

use nyx_actors::NyxError;
use nyx_actors::confidence::signals_of;
use nyx_specialists::confidence::{ConfidenceRow, Quality, fit};
use nyx_specialists::learn::{Artifact, ArtifactFile, TrainedOn};
use serde::Serialize;

use crate::choices::run;
use crate::environment::EvalEnvironment;
use crate::error::CHOICES;
use crate::{ChoiceCase, Dataset, EvalError, verification};

/// Length of the context prefix, in characters, that identifies an event, story or scene.
const GROUP_CHARS: usize = 200;

/// A fitted artifact's file, and its summary.
#[derive(Debug, Clone, PartialEq)]
pub struct FittedPart {
    pub file: String,
    pub lines: Vec<String>,
}

/// Fits `part` on the split's cases.
///
/// # Errors
/// A case that cannot be read or answered, or too few examples.
pub async fn fit_part(
    environment: &EvalEnvironment,
    dataset: &Dataset,
    part: &str,
) -> Result<FittedPart, EvalError> {
    match part {
        "confidence" => confidence(environment, dataset).await,
        _ => Err(EvalError::UnknownPart { name: part.to_owned() }),
    }
}

fn too_few(part: &str) -> EvalError {
    EvalError::TooFew { part: part.to_owned() }
}

fn fitted<T: Artifact + Serialize>(
    file: &ArtifactFile<T>,
    lines: Vec<String>,
) -> Result<FittedPart, EvalError> {
    file.parameters.check().map_err(|reason| {
        NyxError::Internal(format!("the fitted parameters are invalid: {reason}"))
    })?;
    let file = file.write().map_err(|error| NyxError::Internal(error.to_string()))?;
    Ok(FittedPart { file, lines })
}

/// The group of a case: cases about the same table or context share one.
fn group(case: &ChoiceCase) -> String {
    match &case.table {
        Some(table) => table.clone(),
        None if case.context.trim().is_empty() => case.id.clone(),
        None => case.context.chars().take(GROUP_CHARS).collect(),
    }
}

/// Runs the choice suites and fits each specialist's confidence calibrator.
async fn confidence(
    environment: &EvalEnvironment,
    dataset: &Dataset,
) -> Result<FittedPart, EvalError> {
    let (mut rows, mut ids) = (Vec::new(), Vec::new());
    for name in CHOICES {
        if name == "aletheia" {
            verification::register(environment, dataset.tables()?).await?;
        }
        for answer in run(environment, name, environment.sample(dataset.choices(name)?)).await? {
            let Some(signals) = signals_of(&answer.decision) else { continue };
            let specialist = answer.case.specialist.clone();
            rows.push(ConfidenceRow {
                specialist: specialist.clone(),
                signals,
                right: answer.right(),
                group: group(&answer.case),
            });
            ids.push((specialist, answer.case.id));
        }
    }
    let (confidences, report) = fit(&rows);
    if confidences.names().next().is_none() {
        return Err(too_few("confidence"));
    }
    let number =
        |value: Option<f64>| value.map_or_else(|| "none".to_owned(), |value| format!("{value:.3}"));
    let line = |name: &str, quality: &Quality| {
        let (ece, skill, auroc) =
            (number(quality.ece), number(quality.brier_skill), number(quality.auroc));
        format!(
            "confidence: {name} ECE {ece}, Brier skill {skill}, AUROC {auroc} on held-out folds ({} answers)",
            quality.rows
        )
    };
    let mut lines: Vec<String> =
        report.specialists.iter().map(|(name, quality)| line(name, quality)).collect();
    lines.push(line("all", &report.pooled));
    let trained_on = TrainedOn::of(ids.iter().map(|(name, id)| (name.as_str(), id.as_str())));
    fitted(
        &ArtifactFile::new(trained_on, Some(environment.nyx.model.sha256.clone()), confidences),
        lines,
    )
}
