//! Extractors whose errors name the field.

use std::fmt;
use std::future::Future;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::Payload;
use actix_web::http::{StatusCode, header};
use actix_web::{FromRequest, HttpMessage, HttpRequest, web};
use futures_util::StreamExt;
use nyx_actors::{Nyx, Permit};
use serde::Deserialize;
use serde::de::{self, DeserializeOwned, SeqAccess, Visitor};

use super::error::ApiError;
use super::state::AppState;

type Extracting<T> = Pin<Box<dyn Future<Output = Result<T, ApiError>>>>;

/// A JSON body.
#[derive(Debug)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned + 'static> FromRequest for Json<T> {
    type Error = ApiError;
    type Future = Extracting<Self>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let body = body(request, payload);
        Box::pin(async move { parse(&body.await?).map(Self) })
    }
}

/// A JSON body of an endpoint that uses a device: a permit for a request in flight is acquired
/// after the body has arrived, before it is parsed.
#[derive(Debug)]
pub struct Admitted<T> {
    pub permit: Permit,
    /// The client's id: see [`Keys::client`](super::auth::Keys::client).
    pub client: Arc<str>,
    pub body: T,
}

impl<T: DeserializeOwned + 'static> FromRequest for Admitted<T> {
    type Error = ApiError;
    type Future = Extracting<Self>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let body = body(request, payload);
        let nyx = request.app_data::<web::Data<Nyx>>().cloned();
        let state = request.app_data::<web::Data<AppState>>();
        let client =
            state.map_or_else(|| Arc::from(""), |state| state.keys.client(request.headers()));
        Box::pin(async move {
            let body = body.await?;
            let nyx = nyx.ok_or_else(|| {
                ApiError::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "internal_error",
                    "the route has no Nyx instance",
                )
            })?;
            let permit = nyx.admission.admit()?;
            Ok(Self { permit, client, body: parse(&body)? })
        })
    }
}

/// The query string. Its fields are strings, so that parse errors can name them: see [`parsed`].
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<T: DeserializeOwned + 'static> FromRequest for Query<T> {
    type Error = ApiError;
    type Future = std::future::Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let query = web::Query::<T>::from_query(request.query_string());
        std::future::ready(query.map(|query| Self(query.into_inner())).map_err(|error| {
            let message = error.to_string();
            let message = message.strip_prefix("Query deserialize error: ").unwrap_or(&message);
            let wrong = ApiError::new(
                StatusCode::BAD_REQUEST,
                "invalid_request",
                format!("query string: {message}"),
            );
            match quoted(message) {
                Some(field) => wrong.about(field),
                None => wrong,
            }
        }))
    }
}

/// A query parameter as `T`, or an error that names it.
pub fn parsed<T: std::str::FromStr>(
    name: &str,
    given: Option<&str>,
    expected: &str,
) -> Result<Option<T>, ApiError> {
    given
        .map(|text| {
            text.parse().map_err(|_| {
                ApiError::invalid(name, format!("{name} is {text:?}, expected {expected}"))
            })
        })
        .transpose()
}

/// Reads the body with limits on size and time.
fn body(
    request: &HttpRequest,
    payload: &mut Payload,
) -> impl Future<Output = Result<Vec<u8>, ApiError>> + use<> {
    let (limit, patience) = request
        .app_data::<web::Data<AppState>>()
        .map_or((2 << 20, Duration::from_secs(30)), |state| {
            (state.max_body_bytes, state.body_timeout)
        });
    let is_json = is_json(request);
    let declared = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let mut payload = payload.take();
    async move {
        is_json?;
        let too_large = || {
            let message = format!("the body is larger than {limit} bytes (http.max_body_bytes)");
            ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message)
        };
        let reading = async {
            let mut body = Vec::with_capacity(declared.unwrap_or(0).min(limit));
            let mut read = 0_usize;
            while let Some(chunk) = payload.next().await {
                let chunk = chunk.map_err(|error| {
                    ApiError::new(
                        StatusCode::BAD_REQUEST,
                        "invalid_request",
                        format!("the body broke off: {error}"),
                    )
                })?;
                read += chunk.len();
                if read <= limit {
                    body.extend_from_slice(&chunk);
                } else if read > limit.saturating_mul(8) {
                    break;
                }
                // a client that is still sending does not read a response: a slightly too large
                // body is read to its end and discarded
            }
            if read > limit { Err(too_large()) } else { Ok(body) }
        };
        match tokio::time::timeout(patience, reading).await {
            Ok(read) => read,
            Err(_) => {
                let message = format!("the body did not arrive within {} s", patience.as_secs());
                Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "request_timeout", message))
            }
        }
    }
}

fn is_json(request: &HttpRequest) -> Result<(), ApiError> {
    let given = request.content_type();
    let (kind, subtype) = given.split_once('/').unwrap_or((given, ""));
    if kind.eq_ignore_ascii_case("application")
        && (subtype.eq_ignore_ascii_case("json") || subtype.to_ascii_lowercase().ends_with("+json"))
    {
        return Ok(());
    }
    let message = format!(
        "content type is {given:?}, expected application/json: send the header 'Content-Type: application/json'"
    );
    Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message))
}

/// Parses JSON; the error names the field by its path.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let invalid =
        |message: String| ApiError::new(StatusCode::BAD_REQUEST, "invalid_request", message);
    let text = std::str::from_utf8(body).map_err(|error| {
        invalid(format!("the body is not UTF-8: byte {} is wrong", error.valid_up_to()))
    })?;
    if text.trim().is_empty() {
        return Err(invalid("the body is empty, expected a JSON object".into()));
    }
    let mut json = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let inner = error.inner();
        if inner.is_syntax() || inner.is_eof() {
            return invalid(format!("the body is not JSON: {inner}"));
        }
        let path = match error.path().to_string() {
            path if path == "." => String::new(),
            path => path,
        };
        let message = inner.to_string();
        let field = match (quoted(&message), &message) {
            (Some(name), text)
                if text.starts_with("missing field") || text.starts_with("duplicate field") =>
            {
                join(&path, name)
            }
            (Some(name), text)
                if text.starts_with("unknown field") && path.rsplit('.').next() != Some(name) =>
            {
                join(&path, name)
            }
            _ => path,
        };
        if field.is_empty() {
            invalid(message)
        } else {
            invalid(format!("{field}: {message}")).about(field)
        }
    })?;
    json.end()
        .map_err(|error| invalid(format!("the body goes on after its JSON value: {error}")))?;
    Ok(value)
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// The first name in backticks, which is how serde names fields.
fn quoted(message: &str) -> Option<&str> {
    message.split('`').nth(1)
}

/// A string, or a list of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Strings(pub Vec<String>);

impl Deref for Strings {
    type Target = [String];
    fn deref(&self) -> &[String] {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Strings {
    fn deserialize<D: de::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StringOrList;
        impl<'de> Visitor<'de> for StringOrList {
            type Value = Strings;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Strings, E> {
                Ok(Strings(vec![text.to_owned()]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Strings, A::Error> {
                let mut strings = Vec::new();
                while let Some(text) = list.next_element()? {
                    strings.push(text);
                }
                Ok(Strings(strings))
            }
        }
        deserializer.deserialize_any(StringOrList)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use actix_web::{App, HttpResponse, test as web_test};
    use nyx_actors::Limits;
    use nyx_domain::Question;

    /// What the running system would accept.
    pub fn valid(question: &Question) -> Result<(), ApiError> {
        let specialists = vec!["mnemosyne".to_owned(), "moira".to_owned()];
        let limits = Limits { context_length: 2_048, longest_token: 16, specialists };
        Ok(limits.validate(question.clone()).map(drop)?)
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[allow(dead_code)]
        size: u32,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[allow(dead_code)]
        items: Vec<Inner>,
        #[serde(default)]
        stop: Strings,
    }

    fn wrong(body: &[u8]) -> (Option<String>, String) {
        let error = parse::<Outer>(body).unwrap_err();
        assert_eq!(error.status, 400);
        (error.detail.param, error.detail.message)
    }

    #[test]
    fn errors_name_the_field_by_its_path() {
        for (body, param, says) in [
            (r#"{"items": [{"size": "big"}]}"#, "items[0].size", "expected u32"),
            (r#"{"items": [{"size": 1}, {}]}"#, "items[1].size", "missing field"),
            (r#"{"items": [], "colour": 1}"#, "colour", "unknown field"),
            (r#"{"items": [{"size": 1, "colour": 2}]}"#, "items[0].colour", "unknown field"),
            (r#"{}"#, "items", "missing field"),
            (r#"{"items": [], "stop": 3}"#, "stop", "a string or a list of strings"),
            (r#"{"items": [], "stop": ["a", 3]}"#, "stop[1]", "expected a string"),
            (r#"{"items": [], "items": []}"#, "items", "duplicate field"),
        ] {
            let (named, message) = wrong(body.as_bytes());
            assert_eq!(named.as_deref(), Some(param), "{body}: {message}");
            assert!(message.contains(says), "{message}");
        }
    }

    #[test]
    fn errors_distinguish_invalid_json_from_invalid_values() {
        assert!(wrong(b"").1.contains("empty"));
        assert!(wrong(b"{\"items\": [\xff\xfe]}").1.contains("not UTF-8: byte 11"));
        assert!(wrong(b"{\"items\": [").1.contains("not JSON"));
        assert!(wrong(b"[1").1.contains("not JSON") || wrong(b"[1").1.contains("invalid"));
        assert!(wrong(br#"{"items": []} x"#).1.contains("goes on after"));
    }

    #[test]
    fn one_string_is_a_list_of_one() {
        let outer: Outer = parse(br#"{"items": [], "stop": "x"}"#).unwrap();
        assert_eq!(outer.stop.0, ["x"]);
    }

    async fn echo(body: Json<Outer>) -> HttpResponse {
        HttpResponse::Ok().body(body.0.items.len().to_string())
    }

    #[actix_web::test]
    async fn size_and_content_type_are_checked() {
        let state = AppState::for_tests(1024);
        let app = web_test::init_service(
            App::new().app_data(web::Data::new(state)).route("/", web::post().to(echo)),
        )
        .await;
        let json = |body: String| {
            web_test::TestRequest::post()
                .uri("/")
                .insert_header(("content-type", "application/json"))
                .set_payload(body)
        };
        for (request, status) in [
            (json(r#"{"items": []}"#.into()), 200),
            (
                json(r#"{"items": []}"#.into())
                    .insert_header(("content-type", "application/json; charset=utf-8")),
                200,
            ),
            (json(format!(r#"{{"items": []{}}}"#, " ".repeat(2000))), 413),
            (json(format!(r#"{{"items": []{}}}"#, " ".repeat(20_000))), 413),
            (web_test::TestRequest::post().uri("/").set_payload(r#"{"items": []}"#), 415),
            (json(r#"{"items": []}"#.into()).insert_header(("content-type", "text/plain")), 415),
        ] {
            let response = web_test::call_service(&app, request.to_request()).await;
            assert_eq!(response.status(), status);
            if status != 200 {
                let body: serde_json::Value = web_test::read_body_json(response).await;
                assert!(body["error"]["message"].is_string(), "{body}");
            }
        }
    }

    #[test]
    fn query_parameters_are_named() {
        assert_eq!(parsed::<u64>("k", Some("5"), "1 to 100").unwrap(), Some(5));
        let error = parsed::<u64>("k", Some("five"), "1 to 100").unwrap_err();
        assert_eq!(error.detail.param.as_deref(), Some("k"));
        assert!(error.detail.message.contains("five"));
    }
}
