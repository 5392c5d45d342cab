//! Confidence: the calibrators in use, and fitting them to decisions with known outcomes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use nyx_domain::{Decision, Feedback, FeedbackKind, Signals};
use nyx_specialists::confidence::{ConfidenceReport, ConfidenceRow, Confidences, Quality, fit};
use nyx_specialists::learn::metrics::{ReliabilityBin, reliability};
use nyx_specialists::learn::{Artifact, ArtifactFile, TrainedOn, artifact_id};
use serde::{Deserialize, Serialize};

use crate::artifacts::{
    ArtifactLoader, ArtifactRegistry, ArtifactReport, FOLDER, LoadedArtifact, Origin,
};
use crate::{NyxError, StartError};

/// Bins of a reliability diagram.
const BINS: usize = 10;

/// `[confidence]`: estimating how likely an answer is right.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConfidenceOptions {
    /// Milliseconds that must be left for asking the base model whether its answer is true (one
    /// more scoring); 0 disables it.
    pub self_evaluation_min_remaining_ms: u64,
}

/// The calibrators in use. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Calibration {
    live: Arc<RwLock<Option<Arc<LoadedArtifact<Confidences>>>>>,
    registry: ArtifactRegistry,
    folder: PathBuf,
    base_sha256: String,
    options: ConfidenceOptions,
}

impl Calibration {
    /// Loads the calibrators of the data folder; without any, no confidence is given until there
    /// are enough outcomes to fit some.
    ///
    /// # Errors
    /// See [`ArtifactLoader::load`].
    pub fn load(
        loader: &ArtifactLoader,
        data_dir: &Path,
        base_sha256: &str,
        options: ConfidenceOptions,
    ) -> Result<Self, StartError> {
        let live = loader.load::<Confidences>()?.map(Arc::new);
        let (registry, folder) = (loader.registry.clone(), data_dir.join(FOLDER));
        Ok(Self {
            live: Arc::new(RwLock::new(live)),
            registry,
            folder,
            base_sha256: base_sha256.to_owned(),
            options,
        })
    }

    pub(crate) fn asks_whether_true(&self, left: Duration) -> bool {
        self.options.self_evaluation_min_remaining_ms > 0
            && left >= Duration::from_millis(self.options.self_evaluation_min_remaining_ms)
    }

    /// The calibrators in use.
    pub fn live(&self) -> Option<Arc<LoadedArtifact<Confidences>>> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The confidence of an answer with these signals, and the calibrator's id; `None` where the
    /// specialist has no calibrator.
    pub(crate) fn apply(&self, specialist: &str, signals: &Signals) -> Option<(f64, String)> {
        let live = self.live()?;
        Some((live.value.apply(specialist, signals)?, live.id.clone()))
    }

    /// Fits calibrators to these decisions and their feedback, stores them in the data folder and
    /// uses them from now on. A specialist with too few decisions keeps its calibrator.
    ///
    /// # Errors
    /// No specialist has enough decisions, or the file cannot be written.
    pub(crate) fn refit(
        &self,
        judged: &[(Decision, Feedback)],
    ) -> Result<(String, ConfidenceReport), NyxError> {
        let rows: Vec<ConfidenceRow> = judged
            .iter()
            .filter_map(|(decision, feedback)| {
                let (signals, right) =
                    (signals_of(decision)?, is_right(decision, feedback.kind, feedback.value)?);
                Some(ConfidenceRow {
                    specialist: decision.specialist.clone(),
                    signals,
                    right,
                    group: String::new(),
                })
            })
            .collect();
        let (confidences, report) = fit(&rows);
        if confidences.names().next().is_none() {
            let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
            for row in &rows {
                *counts.entry(&row.specialist).or_default() += 1;
            }
            return Err(NyxError::Conflict(format!(
                "there are {counts:?} answers whose truth is known, expected at least 50 of one specialist, 10 right and 10 wrong"
            )));
        }
        let confidences = match self.live() {
            Some(live) => confidences.or(&live.value),
            None => confidences,
        };
        let ids: Vec<String> = judged.iter().map(|(decision, _)| decision.id.to_string()).collect();
        let trained_on = TrainedOn::of(
            judged
                .iter()
                .zip(&ids)
                .map(|((decision, _), id)| (decision.specialist.as_str(), id.as_str())),
        );
        let file =
            ArtifactFile::new(trained_on.clone(), Some(self.base_sha256.clone()), confidences);
        let text = file.write().map_err(|error| NyxError::Internal(error.to_string()))?;
        self.write(&text).map_err(|error| {
            NyxError::Internal(format!("{} cannot be written: {error}", self.folder.display()))
        })?;
        let id = artifact_id(text.as_bytes());
        let learned =
            LoadedArtifact { value: file.parameters, id: id.clone(), origin: Origin::Record };
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(learned));
        let name = Confidences::KIND.to_owned();
        self.registry.put(ArtifactReport {
            name,
            id: id.clone(),
            origin: Origin::Record,
            trained_on,
        });
        Ok((id, report))
    }

    /// Written by an atomic rename.
    fn write(&self, text: &str) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        std::io::Write::write_all(&mut file, text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(self.folder.join(format!("{}.json", Confidences::KIND)))?;
        Ok(())
    }
}

/// The signals of a recorded decision; `None` where it has none, such as a failed one.
pub fn signals_of(decision: &Decision) -> Option<Signals> {
    let signals = decision.trace.confidence.as_ref()?.signals.clone();
    Some(Signals { answer: decision.answer().to_owned(), ..signals })
}

/// Whether a feedback entry of this kind and value means that the answer was right; `None` where it
/// means neither.
pub(crate) fn is_right(decision: &Decision, kind: FeedbackKind, value: f64) -> Option<bool> {
    match (kind, decision.probability) {
        (FeedbackKind::Feedback, _) => (value != 0.0).then_some(value > 0.0),
        // an outcome of one half is neither
        (FeedbackKind::Outcome, Some(p)) => (value != 0.5).then_some((p >= 0.5) == (value > 0.5)),
        (FeedbackKind::Outcome, None) => {
            let chosen =
                decision.choices.as_ref()?.iter().position(|choice| choice == decision.answer())?;
            Some((chosen as f64 - value).abs() < 0.5)
        }
    }
}

/// The quality of recorded confidences.
#[derive(Debug, Clone)]
pub struct Reliability {
    pub quality: Quality,
    pub bins: Vec<ReliabilityBin>,
}

impl Reliability {
    fn of(pairs: &[(f64, bool)]) -> Self {
        Self { quality: Quality::of(pairs), bins: reliability(pairs, BINS) }
    }
}

/// The quality over all decisions with a known outcome and a confidence, and over each
/// specialist's.
pub(crate) fn reliabilities(
    judged: &[(Decision, Feedback)],
) -> (Reliability, BTreeMap<String, Reliability>) {
    let mut by_name: BTreeMap<&str, Vec<(f64, bool)>> = BTreeMap::new();
    let mut all = Vec::new();
    for (decision, feedback) in judged {
        let Some(pair) = decision.confidence.zip(is_right(decision, feedback.kind, feedback.value))
        else {
            continue;
        };
        by_name.entry(&decision.specialist).or_default().push(pair);
        all.push(pair);
    }
    (
        Reliability::of(&all),
        by_name
            .into_iter()
            .map(|(name, pairs)| (name.to_owned(), Reliability::of(&pairs)))
            .collect(),
    )
}
