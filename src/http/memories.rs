//! `/v1/memories`: stores, searches and deletes memories.

use actix_web::{HttpResponse, web};
use chrono::{DateTime, NaiveDate, NaiveTime, Utc};
use nyx_actors::Nyx;
use nyx_actors::memory::messages::{Forgotten, MemoryHit, NewMemory};
use nyx_domain::{Memory, MemoryFilter, MemorySelector};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::error::{ApiError, ErrorBody};
use super::extract::{Admitted, Query, parse, parsed};

/// The default number of search results.
const DEFAULT_K: usize = 5;

/// A memory to store.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MemoryRequest {
    /// Up to 32768 bytes.
    #[schema(example = "My sister Ada lives in Turin and plays the cello.")]
    text: String,
    /// The speaker's name.
    speaker: Option<String>,
    /// When it happened: RFC 3339, or a date.
    #[schema(example = "2026-11-24T09:30:00Z")]
    when: Option<String>,
    conversation: Option<String>,
    /// Caption of a shared image.
    #[schema(example = "a photo of a cello on a balcony")]
    caption: Option<String>,
}

impl MemoryRequest {
    /// Parses one line of a file of memories.
    ///
    /// # Errors
    /// Describes what is wrong with it.
    pub(crate) fn parsed(json: &[u8]) -> Result<NewMemory, String> {
        parse::<Self>(json).and_then(Self::memory).map_err(|error| error.to_string())
    }

    fn memory(self) -> Result<NewMemory, ApiError> {
        let Self { text, speaker, when, conversation, caption } = self;
        Ok(NewMemory {
            text,
            speaker,
            when: moment("when", when.as_deref())?,
            conversation,
            caption,
        })
    }
}

/// A stored memory.
#[derive(Debug, Serialize, ToSchema)]
pub struct MemoryItem {
    #[schema(value_type = String, format = "uuid")]
    pub id: Uuid,
    pub text: String,
    pub speaker: Option<String>,
    #[schema(value_type = Option<String>, format = "date-time")]
    pub when: Option<DateTime<Utc>>,
    pub conversation: Option<String>,
    #[schema(value_type = String, format = "date-time")]
    pub stored_at: DateTime<Utc>,
    /// Caption of a shared image.
    pub caption: Option<String>,
}

impl From<Memory> for MemoryItem {
    fn from(Memory { id, text, speaker, when, conversation, stored_at, caption }: Memory) -> Self {
        Self { id, text, speaker, when, conversation, stored_at, caption }
    }
}

/// A search result.
#[derive(Debug, Serialize, ToSchema)]
pub struct FoundMemory {
    #[serde(flatten)]
    pub memory: MemoryItem,
    /// Cosine similarity with the query, in [-1, 1].
    pub score: f32,
    /// Equal to `score`.
    pub cosine: f32,
    /// BM25 score, if it is in the lexical list.
    pub lexical: Option<f32>,
    /// Sum of its reciprocal ranks in the dense and lexical lists.
    pub fused: f64,
}

impl From<MemoryHit> for FoundMemory {
    fn from(MemoryHit { memory, score, cosine, lexical, fused, .. }: MemoryHit) -> Self {
        Self { memory: memory.into(), score, cosine, lexical, fused }
    }
}

/// Best first.
#[derive(Debug, Serialize, ToSchema)]
pub struct FoundMemories {
    #[schema(example = "list")]
    pub object: &'static str,
    pub data: Vec<FoundMemory>,
}

/// A search query.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SearchParams {
    q: String,
    /// 1 to 100; 5 when absent.
    #[param(value_type = Option<u64>, minimum = 1, maximum = 100)]
    k: Option<String>,
    /// Only memories of this conversation.
    conversation: Option<String>,
    /// Only what this speaker said.
    speaker: Option<String>,
    /// Only memories of events at this time or later: RFC 3339, or a date.
    after: Option<String>,
    /// Only memories of events before this time.
    before: Option<String>,
}

/// Stores a memory. It is recorded when the response is sent.
#[utoipa::path(post, path = "/v1/memories", tag = "memory", request_body = MemoryRequest, responses((status = 200, body = MemoryItem)))]
pub async fn remember(
    nyx: web::Data<Nyx>,
    request: Admitted<MemoryRequest>,
) -> Result<HttpResponse, ApiError> {
    let Admitted { permit, body, .. } = request;
    let memory = nyx.memories.remember(nyx.admission.context(None)?, body.memory()?).await?;
    drop(permit);
    Ok(HttpResponse::Ok().json(MemoryItem::from(memory)))
}

/// Searches memories by dense and lexical ranking.
#[utoipa::path(get, path = "/v1/memories/search", tag = "memory", params(SearchParams), responses((status = 200, body = FoundMemories)))]
pub async fn search(
    nyx: web::Data<Nyx>,
    query: Query<SearchParams>,
) -> Result<HttpResponse, ApiError> {
    let SearchParams { q, k, conversation, speaker, after, before } = query.0;
    let k = parsed("k", k.as_deref(), "1 to 100")?.unwrap_or(DEFAULT_K);
    let (after, before) =
        (moment("after", after.as_deref())?, moment("before", before.as_deref())?);
    let permit = nyx.admission.admit()?;
    let found = nyx
        .memories
        .recall(
            nyx.admission.context(None)?,
            q,
            k,
            MemoryFilter { conversation, speaker, after, before },
        )
        .await?;
    drop(permit);
    let data = found.into_iter().map(Into::into).collect();
    Ok(HttpResponse::Ok().json(FoundMemories { object: "list", data }))
}

/// Which memories to delete: those that match all given parameters.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ForgetParams {
    /// Those of this conversation.
    conversation: Option<String>,
    /// Those of events before this time: RFC 3339, or a date.
    before: Option<String>,
    /// All memories; not combined with other parameters.
    #[param(value_type = Option<bool>)]
    all: Option<String>,
}

impl ForgetParams {
    fn selector(self) -> Result<MemorySelector, ApiError> {
        let all = parsed("all", self.all.as_deref(), "true or false")?.unwrap_or(false);
        let before = moment("before", self.before.as_deref())?;
        match (all, self.conversation, before) {
            (true, None, None) => Ok(MemorySelector::All),
            (true, ..) => Err(ApiError::invalid(
                "all",
                "all is true beside conversation or before, expected one or the other",
            )),
            (false, None, None) => {
                let message = "nothing says which memories to forget, expected conversation, before, or all=true; one by its id at /v1/memories/{id}";
                Err(ApiError::invalid("all", message))
            }
            (false, conversation, before) => Ok(MemorySelector::Matching { conversation, before }),
        }
    }
}

/// Result of a deletion.
#[derive(Debug, Serialize, ToSchema)]
pub struct ForgottenMemories {
    #[schema(example = "memories.forgotten")]
    pub object: &'static str,
    /// Number of deleted memories.
    pub forgotten: u64,
    /// Whether they are removed from every index. If false, the Qdrant server did not respond: they
    /// are deleted there as soon as it does, and excluded from results until then.
    pub erased: bool,
}

/// Deletes one memory, also from the index.
#[utoipa::path(delete, path = "/v1/memories/{id}", tag = "memory", params(("id" = String, Path, format = "uuid")),
    responses((status = 200, body = ForgottenMemories), (status = 404, description = "no such memory", body = ErrorBody)))]
pub async fn forget_one(
    nyx: web::Data<Nyx>,
    id: web::Path<String>,
) -> Result<HttpResponse, ApiError> {
    let id = parsed("id", Some(&id), "a memory's id (UUID)")?.unwrap_or_default();
    forget_those(&nyx, MemorySelector::Id(id)).await
}

/// Deletes the memories that match, all of them with `all=true`. At least one parameter is
/// required.
#[utoipa::path(delete, path = "/v1/memories", tag = "memory", params(ForgetParams), responses((status = 200, body = ForgottenMemories)))]
pub async fn forget(
    nyx: web::Data<Nyx>,
    query: Query<ForgetParams>,
) -> Result<HttpResponse, ApiError> {
    forget_those(&nyx, query.0.selector()?).await
}

async fn forget_those(nyx: &Nyx, selector: MemorySelector) -> Result<HttpResponse, ApiError> {
    let permit = nyx.admission.admit()?;
    let Forgotten { forgotten, erased } =
        nyx.memories.forget(nyx.admission.context(None)?, selector).await?;
    drop(permit);
    Ok(HttpResponse::Ok().json(ForgottenMemories {
        object: "memories.forgotten",
        forgotten,
        erased,
    }))
}

/// Parses a time, or a date as midnight UTC; errors name `param`.
fn moment(param: &str, text: Option<&str>) -> Result<Option<DateTime<Utc>>, ApiError> {
    text.map(|text| instant(param, text)).transpose()
}

fn instant(param: &str, text: &str) -> Result<DateTime<Utc>, ApiError> {
    let moment = DateTime::parse_from_rfc3339(text).map(|moment| moment.to_utc());
    let day = || text.parse::<NaiveDate>().map(|day| day.and_time(NaiveTime::MIN).and_utc());
    moment.or_else(|_| day()).map_err(|_| {
        let message = format!("{param} is {text:?}, expected a moment such as \"2026-11-24T09:30:00Z\" or a date such as \"2026-11-24\"");
        ApiError::invalid(param, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deletion_names_its_memories_exactly_once() {
        let selector = |conversation: Option<&str>, before: Option<&str>, all: Option<&str>| {
            let [conversation, before, all] =
                [conversation, before, all].map(|text| text.map(str::to_owned));
            ForgetParams { conversation, before, all }.selector()
        };
        let day = DateTime::parse_from_rfc3339("2026-11-24T00:00:00Z").unwrap().to_utc();
        let matching =
            MemorySelector::Matching { conversation: Some("home".into()), before: Some(day) };
        assert_eq!(selector(Some("home"), Some("2026-11-24"), Some("false")).unwrap(), matching);
        assert_eq!(selector(None, None, Some("true")).unwrap(), MemorySelector::All);
        for (conversation, before, all, param, says) in [
            (None, None, None, "all", "expected conversation, before, or all=true"),
            (None, None, Some("false"), "all", "expected conversation, before, or all=true"),
            (Some("home"), None, Some("true"), "all", "one or the other"),
            (None, None, Some("yes"), "all", "true or false"),
            (None, Some("soon"), None, "before", "before is \"soon\""),
        ] {
            let error = selector(conversation, before, all).unwrap_err();
            assert!(
                error.detail.param.as_deref() == Some(param) && error.to_string().contains(says),
                "{error}"
            );
        }
    }

    #[test]
    fn when_is_a_moment_or_a_date() {
        assert_eq!(
            instant("when", "2026-11-24T10:30:00+01:00").unwrap().to_rfc3339(),
            "2026-11-24T09:30:00+00:00"
        );
        assert_eq!(
            instant("when", "2026-11-24").unwrap().to_rfc3339(),
            "2026-11-24T00:00:00+00:00"
        );
        for wrong in ["", "yesterday", "2026-13-01", "1790000000"] {
            let error = instant("when", wrong).unwrap_err();
            assert!(
                error.detail.param.as_deref() == Some("when")
                    && error.to_string().contains(&format!("{wrong:?}")),
                "{error}"
            );
        }
    }
}
