//! Errors in OpenAI's format, with their HTTP status.

use std::fmt;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpResponse, HttpResponseBuilder, ResponseError};
use nyx_actors::NyxError;
use nyx_domain::ErrorClass;
use nyx_engine::EngineError;
use serde::Serialize;
use utoipa::ToSchema;

/// The body of every error.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    pub error: ErrorDetail,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct ErrorDetail {
    /// What was wrong and what is expected.
    #[schema(example = "n is 9, expected 1 to 8")]
    pub message: String,
    /// The class: `invalid_request_error`, `authentication_error`, `permission_error`,
    /// `rate_limit_error` or `server_error`.
    #[serde(rename = "type")]
    #[schema(example = "invalid_request_error")]
    pub kind: &'static str,
    /// The field concerned, as a path such as `messages[0].content`.
    pub param: Option<String>,
    /// A stable snake_case name of the error.
    #[schema(example = "invalid_request")]
    pub code: &'static str,
}

/// An error response.
#[derive(Debug, Clone)]
pub struct ApiError {
    pub status: StatusCode,
    pub detail: ErrorDetail,
    header: Option<Box<(header::HeaderName, String)>>,
}

impl ApiError {
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        let kind = match status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            429 => "rate_limit_error",
            400..=499 => "invalid_request_error",
            _ => "server_error",
        };
        Self {
            status,
            detail: ErrorDetail { message: message.into(), kind, param: None, code },
            header: None,
        }
    }

    /// A 400 error that names the field.
    pub fn invalid(param: &str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", message).about(param)
    }

    pub fn about(mut self, param: impl Into<String>) -> Self {
        self.detail.param = Some(param.into());
        self
    }

    pub fn with_header(mut self, name: header::HeaderName, value: impl Into<String>) -> Self {
        self.header = Some(Box::new((name, value.into())));
        self
    }

    pub fn body(&self) -> ErrorBody {
        ErrorBody { error: self.detail.clone() }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail.message)
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.status
    }

    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponseBuilder::new(self.status);
        if let Some((name, value)) = self.header.as_deref() {
            response.insert_header((name.clone(), value.as_str()));
        }
        response.json(self.body())
    }
}

/// 499 is the status that servers log when a client closes the connection.
fn status_of(class: ErrorClass) -> StatusCode {
    match class {
        ErrorClass::InvalidRequest => StatusCode::BAD_REQUEST,
        ErrorClass::NotFound => StatusCode::NOT_FOUND,
        ErrorClass::Conflict => StatusCode::CONFLICT,
        ErrorClass::Overloaded => StatusCode::TOO_MANY_REQUESTS,
        ErrorClass::Cancelled => StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST),
        ErrorClass::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        ErrorClass::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorClass::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl From<NyxError> for ApiError {
    fn from(error: NyxError) -> Self {
        let status = status_of(error.class());
        let api = Self::new(status, error.error_type(), error.to_string());
        match error {
            NyxError::InvalidRequest { param: Some(param), .. } => api.about(param),
            NyxError::UnknownModel { .. } => api.about("model"),
            NyxError::UnknownSpecialist { .. } => api.about("specialist"),
            NyxError::Engine(EngineError::BadSampling { field, .. }) => api.about(field),
            NyxError::Engine(EngineError::TokenOutOfRange { .. }) => api.about("logit_bias"),
            NyxError::Overloaded { retry_after_s, .. } => {
                api.with_header(header::RETRY_AFTER, retry_after_s.to_string())
            }
            _ => api,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::body::to_bytes;

    async fn rendered(error: NyxError) -> (HttpResponse<()>, serde_json::Value) {
        let (head, body) = ApiError::from(error).error_response().into_parts();
        (head, serde_json::from_slice(&to_bytes(body).await.unwrap()).unwrap())
    }

    #[actix_web::test]
    async fn overload_is_429_with_a_time_to_come_back() {
        let (head, body) = rendered(NyxError::Overloaded { capacity: 64, retry_after_s: 3 }).await;
        assert_eq!(head.status(), 429);
        assert_eq!(head.headers().get("retry-after").unwrap(), "3");
        assert_eq!(body["error"]["type"], "rate_limit_error");
        assert_eq!(body["error"]["code"], "overloaded");
        assert_eq!(body["error"]["param"], serde_json::Value::Null);
    }

    #[actix_web::test]
    async fn wrong_values_name_their_field() {
        let sampling =
            EngineError::BadSampling { field: "top_p", value: "7".into(), expected: "(0, 1]" };
        let cases = [
            (NyxError::invalid("messages", "empty"), 400, "messages"),
            (sampling.into(), 400, "top_p"),
            (NyxError::UnknownModel { name: "gpt".into(), known: "nyx".into() }, 404, "model"),
            (
                NyxError::UnknownSpecialist { name: "zeus".into(), known: "moira".into() },
                404,
                "specialist",
            ),
        ];
        for (error, status, param) in cases {
            let (head, body) = rendered(error).await;
            assert_eq!(head.status(), status);
            assert_eq!(body["error"]["param"], param);
            assert_eq!(body["error"]["type"], "invalid_request_error");
        }
    }

    #[actix_web::test]
    async fn failures_of_ours_are_server_errors() {
        let (head, body) = rendered(NyxError::DeadlineExceeded { doing: "deciding" }).await;
        assert_eq!(head.status(), 504);
        assert_eq!(body["error"]["type"], "server_error");
        let (head, _) = rendered(NyxError::Cancelled).await;
        assert_eq!(head.status().as_u16(), 499);
    }
}
