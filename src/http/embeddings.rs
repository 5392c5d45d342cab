//! `POST /v1/embeddings`, compatible with OpenAI's endpoint.

use actix_web::{HttpResponse, web};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nyx_actors::{Nyx, NyxError};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::{ApiError, ErrorBody};
use super::extract::{Admitted, Strings};
use super::models::EMBEDDER;

/// Maximum number of texts in one request.
const MAX_INPUTS: usize = 2048;

/// Texts to embed.
#[derive(Debug, Deserialize, ToSchema)]
pub struct EmbeddingRequest {
    #[schema(example = "all-minilm-l6-v2")]
    model: String,
    /// A text, or up to 2048 of them; each is truncated to its first 256 tokens.
    #[schema(value_type = Vec<String>)]
    input: Strings,
    /// `float`, or `base64` of little-endian 32-bit floats.
    encoding_format: Option<Encoding>,
    /// Must be the model's own dimension.
    dimensions: Option<usize>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    #[default]
    Float,
    Base64,
}

/// One vector per text, in the order of the input.
#[derive(Debug, Serialize, ToSchema)]
pub struct EmbeddingList {
    #[schema(example = "list")]
    pub object: &'static str,
    pub data: Vec<EmbeddingItem>,
    #[schema(example = "all-minilm-l6-v2")]
    pub model: &'static str,
    pub usage: EmbeddingUsage,
}

#[derive(Debug, Serialize, ToSchema)]
pub struct EmbeddingItem {
    #[schema(example = "embedding")]
    pub object: &'static str,
    pub index: usize,
    pub embedding: Vector,
}

/// A unit vector.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Vector {
    Float(Vec<f32>),
    Base64(String),
}

impl Vector {
    fn new(values: Vec<f32>, encoding: Encoding) -> Self {
        match encoding {
            Encoding::Float => Self::Float(values),
            Encoding::Base64 => {
                Self::Base64(STANDARD.encode(
                    values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>(),
                ))
            }
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub struct EmbeddingUsage {
    pub prompt_tokens: usize,
    pub total_tokens: usize,
}

impl EmbeddingRequest {
    fn check(&self, dimension: usize) -> Result<(), ApiError> {
        if self.model != EMBEDDER {
            return Err(NyxError::UnknownModel {
                name: self.model.clone(),
                known: EMBEDDER.to_owned(),
            }
            .into());
        }
        if !(1..=MAX_INPUTS).contains(&self.input.len()) {
            return Err(ApiError::invalid(
                "input",
                format!("input has {} texts, expected 1 to {MAX_INPUTS}", self.input.len()),
            ));
        }
        if let Some(index) = self.input.iter().position(|text| text.is_empty()) {
            return Err(ApiError::invalid(
                &format!("input[{index}]"),
                format!("input[{index}] is empty, expected some text"),
            ));
        }
        match self.dimensions.filter(|wanted| *wanted != dimension) {
            Some(wanted) => Err(ApiError::invalid(
                "dimensions",
                format!("dimensions is {wanted}, expected {dimension}"),
            )),
            None => Ok(()),
        }
    }
}

/// Embeds texts.
#[utoipa::path(post, path = "/v1/embeddings", tag = "openai", request_body = EmbeddingRequest,
    responses((status = 200, body = EmbeddingList), (status = 404, description = "no such model", body = ErrorBody)))]
pub async fn embed(
    nyx: web::Data<Nyx>,
    request: Admitted<EmbeddingRequest>,
) -> Result<HttpResponse, ApiError> {
    let Admitted { permit, body, .. } = request;
    body.check(nyx.memories.embedding_dimension)?;
    let encoding = body.encoding_format.unwrap_or_default();
    let embedded = nyx.memories.embed(nyx.admission.context(None)?, body.input.0).await?;
    drop(permit);
    let vectors = embedded.vectors.into_iter().enumerate();
    let data = vectors.map(|(index, values)| EmbeddingItem {
        object: "embedding",
        index,
        embedding: Vector::new(values, encoding),
    });
    let usage = EmbeddingUsage { prompt_tokens: embedded.tokens, total_tokens: embedded.tokens };
    Ok(HttpResponse::Ok().json(EmbeddingList {
        object: "list",
        data: data.collect(),
        model: EMBEDDER,
        usage,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::extract::parse;
    use serde_json::{Value, json};

    fn checked(body: Value) -> Result<(), ApiError> {
        parse::<EmbeddingRequest>(body.to_string().as_bytes())?.check(384)
    }

    #[test]
    fn what_is_wrong_is_named() {
        checked(json!({"model": EMBEDDER, "input": "a", "dimensions": 384, "encoding_format": "base64", "user": "u"})).unwrap();
        for (body, status, param) in [
            (json!({"model": "text-embedding-3-small", "input": "a"}), 404, "model"),
            (json!({"model": EMBEDDER}), 400, "input"),
            (json!({"model": EMBEDDER, "input": []}), 400, "input"),
            (json!({"model": EMBEDDER, "input": ["a", ""]}), 400, "input[1]"),
            (json!({"model": EMBEDDER, "input": [1, 2]}), 400, "input[0]"),
            (json!({"model": EMBEDDER, "input": "a", "dimensions": 256}), 400, "dimensions"),
            (
                json!({"model": EMBEDDER, "input": "a", "encoding_format": "hex"}),
                400,
                "encoding_format",
            ),
        ] {
            let error = checked(body.clone()).unwrap_err();
            assert_eq!(
                (error.status.as_u16(), error.detail.param.as_deref()),
                (status, Some(param)),
                "{body}: {error}"
            );
        }
    }

    #[test]
    fn base64_is_little_endian_floats() {
        let shown = serde_json::to_value(Vector::new(vec![1.0, -0.5], Encoding::Base64)).unwrap();
        let bytes = STANDARD.decode(shown.as_str().unwrap()).unwrap();
        assert_eq!(bytes, [1.0_f32.to_le_bytes(), (-0.5_f32).to_le_bytes()].concat());
        assert_eq!(
            serde_json::to_value(Vector::new(vec![0.25], Encoding::Float)).unwrap(),
            json!([0.25])
        );
    }
}
