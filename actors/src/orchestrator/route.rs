//! Routing: the base model's scores, what the head makes of them, and the draw.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use nyx_specialists::master::{Asked, MasterHead, PROBE};

use super::choice::choose;
use super::messages::Routing;
use super::{OrchestratorParts, master, safety};
use crate::cells::CellStep;
use crate::gpu::Score;
use crate::learned::{Learned, Origin};
use crate::memory::MemoryKeeper;
use crate::memory::messages::Embed;
use crate::question::{Question, Target};
use crate::specialist::Screened;
use crate::supervise::Supervised;
use crate::{NyxError, RequestContext};

/// The share of the time left that the question's embedding may take. Without it, the scores alone decide.
const EMBEDDING_SHARE: u32 = 4;
/// For the probe, at the start.
const PROBE_TIME: Duration = Duration::from_secs(60);

/// Who speaks, and why.
pub(super) struct Routed {
    pub(super) specialist: String,
    pub(super) propensity: f64,
    pub(super) routing: Routing,
}

/// The head, if the embedder is the one that it was learned with.
///
/// # Errors
/// A head of the operator's own was learned with another embedder, or the embedder does not answer.
pub(super) async fn fitting(
    head: Option<Learned<MasterHead>>,
    memory: &Supervised<MemoryKeeper>,
) -> Result<Option<Learned<MasterHead>>, NyxError> {
    let Some(head) = head else { return Ok(None) };
    let probe = Embed { context: RequestContext::new(PROBE_TIME), texts: vec![PROBE.to_owned()] };
    let vectors = memory.send(probe).await?.vectors;
    if vectors.first().is_some_and(|probe| head.value.knows_embedder(probe)) {
        return Ok(Some(head));
    }
    match head.origin {
        Origin::File(path) => Err(NyxError::invalid(
            "models.embedder",
            format!(
                "{} was learned with another embedder: learn it again with `nyx train master`, or set master.head to false",
                path.display()
            ),
        )),
        Origin::Record => {
            tracing::warn!("the master's head was learned with another embedder, and so is not used: the base model's scores decide");
            Ok(None)
        }
    }
}

impl OrchestratorParts {
    pub(super) async fn route(
        &self,
        context: &RequestContext,
        question: &Question,
        asked: &str,
        screened: &Screened,
        trait_weights: &BTreeMap<String, f64>,
    ) -> Result<Routed, NyxError> {
        let not_drawn = |specialist: &str| Routed { specialist: specialist.to_owned(), propensity: 1.0, routing: Routing::default() };
        match &question.target {
            Target::Specialist(name) => return Ok(not_drawn(name)),
            Target::Base => return Ok(not_drawn("base")),
            Target::Master if screened.reroutes() && self.actors.contains_key(safety::CARER) => return Ok(not_drawn(safety::CARER)),
            Target::Master => {}
        }
        let (routing, chosen) = self.weigh(context, (asked, question.now()), trait_weights, draw(question.sampling.seed, asked)).await?;
        let Routing { scores, logits, head, decide_ms, .. } = routing.clone();
        self.cells.publish(Some(context.id), None, CellStep::Scored { scores, logits, head, decide_ms });
        let propensity = routing.propensities.get(&chosen).copied().unwrap_or(1.0);
        Ok(Routed { specialist: chosen, propensity, routing })
    }

    /// What a question's specialists are worth, and who is drawn by `u` in [0, 1).
    pub(super) async fn weigh(
        &self,
        context: &RequestContext,
        (asked, now): (&str, DateTime<Utc>),
        trait_weights: &BTreeMap<String, f64>,
        u: f64,
    ) -> Result<(Routing, String), NyxError> {
        let deciding = Instant::now();
        let content_free = self.content_free.get_or_try_init(|| async {
            let scores = self.score(context, master::CONTENT_FREE).await?;
            Ok::<_, NyxError>(scores.iter().map(nyx_engine::ContinuationScore::mean).collect())
        });
        // another request may be measuring it, with more time than this one has
        let content_free = context.bound("the master was calibrated", content_free).await?;
        let (scores, heads) = tokio::join!(self.score(context, asked), self.embedded(context, asked));
        let scores = master::calibrated(&scores?, content_free);
        let names: Vec<String> = self.specialists.iter().map(|specialist| specialist.name.clone()).collect();
        let (heads, head) = match heads {
            Some((head, embedding)) => {
                let deadline_ms = super::deadline_ms(context);
                let asked = Asked { question: master::read(asked), embedding: &embedding, now, deadline_ms };
                (head.value.logits(&names, &scores, &asked), Some(head.id.clone()))
            }
            None => (scores.clone(), None),
        };
        let weights: Vec<f64> = names.iter().map(|name| trait_weights.get(name).copied().unwrap_or(0.0)).collect();
        let choice = choose(&heads, &weights, self.options.temperature, self.options.epsilon, u);
        let chosen = names.get(choice.chosen).cloned().unwrap_or_default();
        let named = |values: Vec<f64>| names.iter().cloned().zip(values).collect();
        let logits = named(heads.iter().zip(&weights).map(|(head, weight)| head + weight).collect());
        let decide_ms = deciding.elapsed().as_secs_f64() * 1e3;
        Ok((Routing { scores: named(scores), logits, propensities: named(choice.propensities), head, decide_ms }, chosen))
    }

    /// The head and the question's embedding; `None` without a head, or when the embedder fails or takes too long.
    async fn embedded(&self, context: &RequestContext, asked: &str) -> Option<(&Learned<MasterHead>, Vec<f32>)> {
        let head = self.head.as_ref()?;
        let embed = Embed { context: context.clone(), texts: vec![master::read(asked).to_owned()] };
        let embedded = tokio::time::timeout(context.remaining() / EMBEDDING_SHARE, self.memory.send(embed)).await;
        match embedded {
            Ok(Ok(embeddings)) => Some((head, embeddings.vectors.into_iter().next()?)),
            Ok(Err(error)) => {
                tracing::warn!(%error, "no embedding for the master's head: the scores alone decide");
                None
            }
            Err(_) => {
                tracing::warn!("no embedding for the master's head in time: the scores alone decide");
                None
            }
        }
    }

    async fn score(&self, context: &RequestContext, question: &str) -> Result<Vec<nyx_engine::ContinuationScore>, NyxError> {
        let (prompt, cacheable_prefix) = self.master.prompt(&self.text, question)?;
        let continuations = self.master.names.clone();
        let score = Score { context: context.clone(), prompt, cacheable_prefix, continuations, adapter: None, group: None };
        context.bound("the master scored the specialists", self.pool.send(score)).await
    }
}

/// A number in [0, 1): from the caller's seed and the question where there is a seed, so that the same request is routed alike.
fn draw(seed: Option<u64>, question: &str) -> f64 {
    let bits: u64 = match seed {
        None => rand::random(),
        Some(seed) => {
            let mut hasher = DefaultHasher::new();
            (seed, question).hash(&mut hasher);
            hasher.finish()
        }
    };
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}
