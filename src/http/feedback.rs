//! `POST /v1/outcomes`, `GET /v1/outcomes` and `POST /v1/feedback`: outcomes of forecasts and
//! feedback on decisions.

use actix_web::http::header::HeaderMap;
use actix_web::{HttpRequest, HttpResponse, web};
use chrono::{DateTime, Utc};
use nyx_actors::Nyx;
use nyx_actors::phoebe::messages::ListOpenForecasts;
use nyx_domain::{
    DecisionName, Feedback, FeedbackInput, FeedbackKind, FeedbackResult, OpenForecast, OutcomeInput,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::error::{ApiError, ErrorBody};
use super::extract::{Admitted, Query, parsed};

/// The header of the idempotency key.
const KEY_HEADER: &str = "idempotency-key";

/// An outcome. One of `decision_id` and `external_key` names the forecast.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OutcomeRequest {
    /// The decision's id, with or without the prefix `chatcmpl-`.
    #[schema(example = "01890a5d-ac96-774b-bcce-b302099a8057")]
    decision_id: Option<String>,
    /// The client's name for it, as given to `/infer`; all decisions with that name are resolved.
    external_key: Option<String>,
    /// For a forecast: true, false, a fraction in [0, 1], or the one of its two choices that came
    /// true (the forecast is of the first). For another decision with choices: the text or the
    /// index of the one that came true.
    #[schema(value_type = Object, example = true)]
    outcome: Outcome,
    /// An idempotency key: a repeated request with the same key is recorded once. The header
    /// `Idempotency-Key` is equivalent.
    key: Option<String>,
}

/// An outcome in JSON.
#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected true, false, a number, or the text of a choice")]
enum Outcome {
    Happened(bool),
    Number(f64),
    Choice(String),
}

impl From<Outcome> for OutcomeInput {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Happened(happened) => Self::Happened(happened),
            Outcome::Number(number) => Self::Number(number),
            Outcome::Choice(text) => Self::Choice(text),
        }
    }
}

/// Feedback on an answer: `value` or `thumbs`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FeedbackRequest {
    /// The decision's id, with or without the prefix `chatcmpl-`.
    #[schema(example = "01890a5d-ac96-774b-bcce-b302099a8057")]
    decision_id: Option<String>,
    /// The client's name for it, as given to `/infer`; applies to all decisions with that name.
    external_key: Option<String>,
    /// From -1 to 1.
    #[schema(minimum = -1, maximum = 1)]
    value: Option<f64>,
    /// 1 or -1.
    thumbs: Option<Thumbs>,
    comment: Option<String>,
    /// The correct answer.
    correction: Option<String>,
    /// An idempotency key: a repeated request with the same key is recorded once. The header
    /// `Idempotency-Key` is equivalent.
    key: Option<String>,
}

#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Thumbs {
    Up,
    Down,
}

/// A recorded outcome or feedback.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct FeedbackItem {
    #[schema(value_type = String, format = "uuid")]
    pub id: Uuid,
    /// `outcome` or `feedback`.
    #[schema(value_type = String)]
    pub kind: FeedbackKind,
    pub key: Option<String>,
    /// An outcome: in [0, 1], or the index of the choice that came true. Feedback: in [-1, 1].
    pub value: f64,
    /// As received.
    #[schema(value_type = Object)]
    pub input: Value,
    /// In [-1, 1]; for an outcome from the Brier score, `1 - 2 (p - o)^2`.
    pub reward: f64,
    pub comment: Option<String>,
    pub correction: Option<String>,
    /// 1 is the first of its kind, higher numbers are amendments; the last one counts.
    pub revision: u64,
    #[schema(value_type = String, format = "date-time")]
    pub at: DateTime<Utc>,
}

impl From<Feedback> for FeedbackItem {
    fn from(feedback: Feedback) -> Self {
        let Feedback {
            id,
            decision: _,
            kind,
            key,
            value,
            input,
            reward,
            comment,
            correction,
            revision,
            at,
        } = feedback;
        Self { id, kind, key, value, input, reward, comment, correction, revision, at }
    }
}

/// Result of recording feedback on one decision.
#[derive(Debug, Serialize, ToSchema)]
pub struct JudgedItem {
    #[schema(value_type = String, format = "uuid")]
    pub decision_id: Uuid,
    pub specialist: String,
    /// False when it had been recorded before.
    pub new: bool,
    pub feedback: FeedbackItem,
    /// The decision's new sum of rewards.
    pub reward: f64,
    pub activation: Option<f64>,
}

impl From<FeedbackResult> for JudgedItem {
    fn from(judged: FeedbackResult) -> Self {
        let FeedbackResult { feedback, specialist, new, reward, activation, weights: _ } = judged;
        Self {
            decision_id: feedback.decision,
            specialist,
            new,
            feedback: feedback.into(),
            reward,
            activation,
        }
    }
}

/// One item per decision.
#[derive(Debug, Serialize, ToSchema)]
pub struct JudgedList {
    #[schema(example = "list")]
    pub object: &'static str,
    pub data: Vec<JudgedItem>,
}

/// A forecast and its outcome.
#[derive(Debug, Serialize, ToSchema)]
pub struct PromiseItem {
    #[schema(value_type = String, format = "uuid")]
    pub decision_id: Uuid,
    pub external_key: Option<String>,
    pub specialist: String,
    #[schema(value_type = String, format = "date-time")]
    pub asked_at: DateTime<Utc>,
    pub question: String,
    pub probability: Option<f64>,
    pub prior: Option<f64>,
    /// The current outcome; null while it is open.
    pub outcome: Option<FeedbackItem>,
}

impl From<OpenForecast> for PromiseItem {
    fn from(OpenForecast { decision, outcome }: OpenForecast) -> Self {
        Self {
            decision_id: decision.id,
            external_key: decision.inputs.external_key,
            specialist: decision.specialist,
            asked_at: decision.asked_at,
            question: decision.question,
            probability: decision.probability,
            prior: decision.inputs.prior,
            outcome: outcome.map(Into::into),
        }
    }
}

/// Newest first.
#[derive(Debug, Serialize, ToSchema)]
pub struct PromiseList {
    #[schema(example = "list")]
    pub object: &'static str,
    pub data: Vec<PromiseItem>,
}

/// Which forecasts to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PromiseParams {
    /// `true`: only those without an outcome; `false`: only those with one; all when absent.
    #[param(value_type = Option<bool>)]
    open: Option<String>,
    /// 1 to 1000; 20 when absent.
    #[param(value_type = Option<u64>, minimum = 1, maximum = 1000)]
    limit: Option<String>,
    /// Only forecasts older than the decision with this id.
    #[param(value_type = Option<String>, format = "uuid")]
    before: Option<String>,
}

/// Records an outcome: the forecast is scored (Brier), and the score becomes a reward of its
/// decision.
///
/// A second, different outcome is an amendment: it counts from then on; the first is kept in the
/// record.
#[utoipa::path(post, path = "/v1/outcomes", tag = "record", request_body = OutcomeRequest,
    responses((status = 200, body = JudgedList), (status = 404, description = "no such decision", body = ErrorBody),
        (status = 409, description = "the key was used with different content", body = ErrorBody)))]
pub async fn resolve(
    nyx: web::Data<Nyx>,
    request: HttpRequest,
    input: Admitted<OutcomeRequest>,
) -> Result<HttpResponse, ApiError> {
    let Admitted { permit, body, .. } = input;
    let name = named(body.decision_id.as_deref(), body.external_key)?;
    let key = key(request.headers(), body.key)?;
    let judged = nyx.feedback.resolve(name, body.outcome.into(), key).await?;
    drop(permit);
    Ok(answer(judged))
}

/// Records feedback on an answer as a reward of its decision; a correction is stored as training
/// data.
///
/// A second, different feedback is an amendment: it counts from then on; the first is kept in the
/// record.
#[utoipa::path(post, path = "/v1/feedback", tag = "record", request_body = FeedbackRequest,
    responses((status = 200, body = JudgedList), (status = 404, description = "no such decision", body = ErrorBody),
        (status = 409, description = "the key was used with different content", body = ErrorBody)))]
pub async fn feedback(
    nyx: web::Data<Nyx>,
    request: HttpRequest,
    input: Admitted<FeedbackRequest>,
) -> Result<HttpResponse, ApiError> {
    let Admitted { permit, body, .. } = input;
    let name = named(body.decision_id.as_deref(), body.external_key)?;
    let key = key(request.headers(), body.key)?;
    let (value, input) = match (body.value, body.thumbs) {
        (Some(value), None) => (value, json!({ "value": value })),
        (None, Some(Thumbs::Up)) => (1.0, json!({"thumbs": "up"})),
        (None, Some(Thumbs::Down)) => (-1.0, json!({"thumbs": "down"})),
        (None, None) => {
            return Err(ApiError::invalid(
                "value",
                "value is missing, expected \"value\" or \"thumbs\"",
            ));
        }
        (Some(_), Some(_)) => {
            return Err(ApiError::invalid(
                "value",
                "both value and thumbs are given, expected one of them",
            ));
        }
    };
    let input = FeedbackInput { value, comment: body.comment, correction: body.correction, input };
    let judged = nyx.feedback.rate(name, input, key).await?;
    drop(permit);
    Ok(answer(judged))
}

/// Lists forecasts with their outcomes, newest first.
#[utoipa::path(get, path = "/v1/outcomes", tag = "record", params(PromiseParams), responses((status = 200, body = PromiseList)))]
pub async fn open_forecasts(
    nyx: web::Data<Nyx>,
    query: Query<PromiseParams>,
) -> Result<HttpResponse, ApiError> {
    let PromiseParams { open, limit, before } = query.0;
    let open = parsed("open", open.as_deref(), "true or false")?;
    let limit = parsed("limit", limit.as_deref(), "1 to 1000")?.unwrap_or(20);
    let before = parsed("before", before.as_deref(), "a decision's id (UUID)")?;
    let data = nyx
        .feedback
        .open_forecasts(ListOpenForecasts { open, before, limit })
        .await?
        .into_iter()
        .map(Into::into)
        .collect();
    Ok(HttpResponse::Ok().json(PromiseList { object: "list", data }))
}

fn answer(judged: Vec<FeedbackResult>) -> HttpResponse {
    HttpResponse::Ok()
        .json(JudgedList { object: "list", data: judged.into_iter().map(Into::into).collect() })
}

fn named(id: Option<&str>, external: Option<String>) -> Result<DecisionName, ApiError> {
    match (id, external) {
        (Some(id), None) => {
            let bare = id.strip_prefix("chatcmpl-").unwrap_or(id);
            let expected = || {
                ApiError::invalid(
                    "decision_id",
                    format!("decision_id is {id:?}, expected a decision's id (UUID)"),
                )
            };
            bare.parse().map(DecisionName::Id).map_err(|_| expected())
        }
        (None, Some(key)) => Ok(DecisionName::External(key)),
        (None, None) => Err(ApiError::invalid(
            "decision_id",
            "decision_id is missing, expected \"decision_id\" or \"external_key\"",
        )),
        (Some(_), Some(_)) => Err(ApiError::invalid(
            "decision_id",
            "both decision_id and external_key are given, expected one of them",
        )),
    }
}

/// The idempotency key, from the header or from the body.
fn key(headers: &HeaderMap, body: Option<String>) -> Result<Option<String>, ApiError> {
    let Some(header) = headers.get(KEY_HEADER) else { return Ok(body) };
    let header = header
        .to_str()
        .map_err(|_| ApiError::invalid("key", "the header Idempotency-Key is not plain text"))?;
    match body {
        Some(body) if body != header => {
            let message = format!(
                "key is {body:?} and the header Idempotency-Key {header:?}, expected one of them, or the same"
            );
            Err(ApiError::invalid("key", message))
        }
        _ => Ok(Some(header.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;
    use crate::http::extract::parse;

    #[test]
    fn an_outcome_is_a_truth_a_number_or_a_text() {
        let input = |body: Value| {
            parse::<OutcomeRequest>(body.to_string().as_bytes())
                .map(|request| OutcomeInput::from(request.outcome))
        };
        let id = "01890a5d-ac96-774b-bcce-b302099a8057";
        for (outcome, expected) in [
            (json!(true), OutcomeInput::Happened(true)),
            (json!(0.25), OutcomeInput::Number(0.25)),
            (json!(1), OutcomeInput::Number(1.0)),
            (json!("Yes"), OutcomeInput::Choice("Yes".into())),
        ] {
            assert_eq!(input(json!({"decision_id": id, "outcome": outcome})).unwrap(), expected);
        }
        for wrong in [
            json!({"decision_id": id, "outcome": null}),
            json!({"decision_id": id}),
            json!({"decision_id": id, "outcome": [1]}),
        ] {
            let error = input(wrong.clone()).unwrap_err();
            assert!(
                error.status == 400 && error.to_string().contains("outcome"),
                "{wrong}: {error}"
            );
        }
    }

    #[test]
    fn a_decision_has_one_name_and_a_verdict_one_key() {
        let id = "01890a5d-ac96-774b-bcce-b302099a8057";
        let uuid = DecisionName::Id(id.parse().unwrap());
        assert_eq!(named(Some(id), None).unwrap(), uuid);
        assert_eq!(named(Some(&format!("chatcmpl-{id}")), None).unwrap(), uuid);
        assert_eq!(named(None, Some("q-7".into())).unwrap(), DecisionName::External("q-7".into()));
        for (id, external) in
            [(None, None), (Some(id), Some("q".to_owned())), (Some("seven"), None)]
        {
            assert_eq!(
                named(id, external).unwrap_err().detail.param.as_deref(),
                Some("decision_id")
            );
        }
        let mut headers = HeaderMap::new();
        assert_eq!(key(&headers, Some("a".into())).unwrap().as_deref(), Some("a"));
        headers.insert(HeaderName::from_static(KEY_HEADER), HeaderValue::from_static("b"));
        assert_eq!(key(&headers, None).unwrap().as_deref(), Some("b"));
        assert_eq!(key(&headers, Some("b".into())).unwrap().as_deref(), Some("b"));
        assert!(key(&headers, Some("a".into())).unwrap_err().to_string().contains("\"a\""));
    }
}
