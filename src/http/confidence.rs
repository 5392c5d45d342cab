//! `/admin/confidence`: calibration of the reported confidences.

use std::collections::BTreeMap;

use actix_web::{HttpResponse, web};
use nyx_actors::Nyx;
use nyx_actors::confidence::Reliability;
use nyx_specialists::confidence::Quality;
use serde::Serialize;
use utoipa::ToSchema;

use super::error::{ApiError, ErrorBody};

/// One bin of a reliability diagram.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReliabilityItem {
    pub from: f64,
    pub to: f64,
    pub count: usize,
    /// Mean confidence; null when empty.
    pub mean: Option<f64>,
    /// Share of right answers; null when empty.
    pub rate: Option<f64>,
}

/// Calibration and discrimination of confidences.
#[derive(Debug, Serialize, ToSchema)]
pub struct QualityItem {
    /// Answers known to be correct or not.
    pub rows: usize,
    /// Share of right answers.
    pub base_rate: Option<f64>,
    /// Expected calibration error over 10 bins of equal width.
    pub ece: Option<f64>,
    pub brier: Option<f64>,
    /// Brier skill against a constant forecast of the base rate.
    pub brier_skill: Option<f64>,
    pub auroc: Option<f64>,
    /// The bins; absent for values that were not logged.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bins: Vec<ReliabilityItem>,
}

impl From<Quality> for QualityItem {
    fn from(Quality { rows, base_rate, ece, brier, brier_skill, auroc }: Quality) -> Self {
        Self { rows, base_rate, ece, brier, brier_skill, auroc, bins: Vec::new() }
    }
}

impl From<Reliability> for QualityItem {
    fn from(Reliability { quality, bins }: Reliability) -> Self {
        let bins = bins.into_iter().map(|bin| ReliabilityItem {
            from: bin.from,
            to: bin.to,
            count: bin.count,
            mean: bin.mean,
            rate: bin.rate,
        });
        Self { bins: bins.collect(), ..quality.into() }
    }
}

/// The live calibrators, and the quality of the recorded confidences.
#[derive(Debug, Serialize, ToSchema)]
pub struct ConfidenceState {
    /// The id of the calibrators in use; null without any.
    pub calibrator: Option<String>,
    /// How each specialist's scores are mapped to probabilities: `platt` or `isotonic`. A
    /// specialist that is not listed reports no confidence yet.
    pub maps: BTreeMap<String, &'static str>,
    pub pooled: QualityItem,
    pub specialists: BTreeMap<String, QualityItem>,
}

/// Result of a refit.
#[derive(Debug, Serialize, ToSchema)]
pub struct Refitted {
    /// The id of the new calibrators.
    pub calibrator: String,
    /// By cross-validation on the answers used to fit.
    pub pooled: QualityItem,
    pub specialists: BTreeMap<String, QualityItem>,
}

/// Reliability of the confidences of logged decisions whose correctness is known (from outcomes,
/// else from feedback).
#[utoipa::path(get, path = "/admin/confidence", tag = "admin", responses((status = 200, body = ConfidenceState)))]
pub async fn confidence(nyx: web::Data<Nyx>) -> Result<HttpResponse, ApiError> {
    let (pooled, specialists) = nyx.decisions.reliabilities().await?;
    let live = nyx.decisions.calibration.live();
    let maps = live.iter().flat_map(|live| {
        live.value.names().filter_map(|name| Some((name.to_owned(), live.value.map_of(name)?)))
    });
    Ok(HttpResponse::Ok().json(ConfidenceState {
        maps: maps.collect(),
        calibrator: live.as_ref().map(|live| live.id.clone()),
        pooled: pooled.into(),
        specialists: specialists.into_iter().map(|(name, found)| (name, found.into())).collect(),
    }))
}

/// Refits the calibrators on the decisions whose correctness is known, and uses them from now on.
#[utoipa::path(post, path = "/admin/confidence/refit", tag = "admin",
    responses((status = 200, body = Refitted), (status = 409, description = "too few answers whose correctness is known", body = ErrorBody)))]
pub async fn refit(nyx: web::Data<Nyx>) -> Result<HttpResponse, ApiError> {
    let (calibrator, report) = nyx.decisions.refit_confidence().await?;
    let specialists =
        report.specialists.into_iter().map(|(name, quality)| (name, quality.into())).collect();
    Ok(HttpResponse::Ok().json(Refitted { calibrator, pooled: report.pooled.into(), specialists }))
}
