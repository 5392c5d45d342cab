//! `GET /v1/models[/{id}]`, and resolution of model names.

use actix_web::{HttpResponse, web};
use nyx_actors::{Nyx, NyxError};
use nyx_domain::Target;
use serde::Serialize;
use utoipa::ToSchema;

use super::error::{ApiError, ErrorBody};
use super::state::AppState;

/// The embedder's name on the OpenAI endpoints.
pub const EMBEDDER: &str = "all-minilm-l6-v2";

/// One model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Model {
    #[schema(example = "nyx/mnemosyne")]
    pub id: String,
    #[schema(example = "model")]
    pub object: &'static str,
    /// When this process started, in seconds since 1970.
    pub created: i64,
    #[schema(example = "nyx")]
    pub owned_by: &'static str,
    /// Its purpose, in one line.
    pub description: String,
}

/// Every model.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelList {
    #[schema(example = "list")]
    pub object: &'static str,
    pub data: Vec<Model>,
}

/// The specialists' names, in configuration order.
pub fn specialist_names(nyx: &Nyx) -> Vec<&str> {
    nyx.specialists.iter().map(|policy| policy.name.as_str()).collect()
}

/// Resolves `model` of the OpenAI endpoints.
///
/// # Errors
/// [`NyxError::UnknownModel`] with the known names.
pub fn target_of_model(specialists: &[&str], model: &str) -> Result<Target, NyxError> {
    let specialist = model.strip_prefix("nyx/");
    match (model, specialist) {
        ("nyx", _) => Ok(Target::Master),
        (_, Some("base")) => Ok(Target::Base),
        (_, Some(name)) if specialists.contains(&name) => Ok(Target::Specialist(name.to_owned())),
        _ => {
            let known = ["nyx".to_owned(), "nyx/base".to_owned()]
                .into_iter()
                .chain(specialists.iter().map(|name| format!("nyx/{name}")));
            Err(NyxError::UnknownModel {
                name: model.to_owned(),
                known: known.collect::<Vec<_>>().join(", "),
            })
        }
    }
}

/// Resolves `specialist` of `/infer`; the master model when absent.
///
/// # Errors
/// [`NyxError::UnknownSpecialist`] with the known names.
pub fn target_of_specialist(
    specialists: &[&str],
    specialist: Option<&str>,
) -> Result<Target, NyxError> {
    match specialist {
        None => Ok(Target::Master),
        Some("base") => Ok(Target::Base),
        Some(name) if specialists.contains(&name) => Ok(Target::Specialist(name.to_owned())),
        Some(name) => {
            let known = specialists.iter().copied().chain(["base"]).collect::<Vec<_>>().join(", ");
            Err(NyxError::UnknownSpecialist { name: name.to_owned(), known })
        }
    }
}

fn all(nyx: &Nyx, created: i64) -> Vec<Model> {
    let model = |id: String, description: String| Model {
        id,
        object: "model",
        created,
        owned_by: "nyx",
        description,
    };
    let base = format!("the base model {} with no prompt, retrieval or adapter", nyx.model.name);
    let mut models = vec![
        model("nyx".into(), "the master model chooses the specialist".into()),
        model("nyx/base".into(), base),
    ];
    models.extend(
        nyx.specialists
            .iter()
            .map(|policy| model(format!("nyx/{}", policy.name), policy.purpose.clone())),
    );
    models.push(model(EMBEDDER.into(), "sentence embeddings, for /v1/embeddings".into()));
    models
}

/// Lists the models: the master model, the base model, every specialist, and the embedder.
#[utoipa::path(get, path = "/v1/models", tag = "openai", responses((status = 200, body = ModelList)))]
pub async fn list(nyx: web::Data<Nyx>, state: web::Data<AppState>) -> HttpResponse {
    HttpResponse::Ok().json(ModelList { object: "list", data: all(&nyx, state.started_at) })
}

/// One model.
#[utoipa::path(get, path = "/v1/models/{id}", tag = "openai", params(("id" = String, Path, description = "may hold a slash: `nyx/mnemosyne`")),
    responses((status = 200, body = Model), (status = 404, description = "no such model", body = ErrorBody)))]
pub async fn get(
    nyx: web::Data<Nyx>,
    state: web::Data<AppState>,
    id: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let models = all(&nyx, state.started_at);
    match models.iter().find(|model| model.id == *id) {
        Some(model) => Ok(HttpResponse::Ok().json(model)),
        None => {
            let known = models.into_iter().map(|model| model.id).collect::<Vec<_>>().join(", ");
            Err(NyxError::UnknownModel { name: id.into_inner(), known }.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 3] = ["mnemosyne", "moira", "nyx"];

    #[test]
    fn models_name_their_target() {
        let specialist = |name: &str| Target::Specialist(name.into());
        for (model, target) in [
            ("nyx", Target::Master),
            ("nyx/base", Target::Base),
            ("nyx/moira", specialist("moira")),
            ("nyx/nyx", specialist("nyx")),
        ] {
            assert_eq!(target_of_model(&NAMES, model).unwrap(), target);
            assert_eq!(target.model(), model);
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        for model in ["", "gpt-4o", "moira", "nyx/", "nyx/zeus", "nyx/Moira", "all-minilm-l6-v2"] {
            let message = target_of_model(&NAMES, model).unwrap_err().to_string();
            assert!(
                message.contains(&format!("{model:?}"))
                    && message.contains("nyx/base, nyx/mnemosyne, nyx/moira, nyx/nyx"),
                "{message}"
            );
        }
        let message = target_of_specialist(&NAMES, Some("zeus")).unwrap_err().to_string();
        assert!(
            message.contains("\"zeus\"") && message.contains("mnemosyne, moira, nyx, base"),
            "{message}"
        );
        assert_eq!(target_of_specialist(&NAMES, None).unwrap(), Target::Master);
    }
}
