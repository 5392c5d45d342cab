//! Routing: similarities to examples, the base model's scores, and the draw.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nyx_domain::{CellStep, Question, Target};
use nyx_engine::ContinuationScore;

use super::choice::choose;
use super::master;
use super::messages::Routing;
use super::state::OrchestratorState;
use crate::devices::Score;
use crate::draw::draw;
use crate::memory::messages::Embed;
use crate::specialist::Screened;
use crate::{NyxError, RequestContext};

/// Fraction of the remaining time that embedding and scoring may take, where the other one can
/// decide.
const SHARE: u32 = 4;

/// The chosen specialist, and how it was chosen.
pub(super) struct Routed {
    pub(super) specialist: String,
    pub(super) propensity: f64,
    pub(super) routing: Routing,
}

impl OrchestratorState {
    pub(super) async fn route(
        &self,
        context: &RequestContext,
        question: &Question,
        asked: &str,
        screened: &Screened,
        trait_weights: &BTreeMap<String, f64>,
    ) -> Result<Routed, NyxError> {
        let not_drawn = |specialist: &str| Routed {
            specialist: specialist.to_owned(),
            propensity: 1.0,
            routing: Routing::default(),
        };
        match &question.target {
            Target::Specialist(name) => return Ok(not_drawn(name)),
            Target::Base => return Ok(not_drawn("base")),
            Target::Master => {
                let support =
                    self.setup.safety.support_specialist().filter(|name| {
                        screened.reroutes() && self.setup.actors.contains_key(*name)
                    });
                if let Some(name) = support {
                    return Ok(not_drawn(name));
                }
            }
        }
        let (routing, chosen) = self
            .score_candidates(context, asked, trait_weights, draw(question.sampling.seed, &[asked]))
            .await?;
        let Routing { scores, similarities, logits, decide_ms, .. } = routing.clone();
        self.setup.cells.publish(
            Some(context.id),
            None,
            CellStep::Scored { scores, similarities, logits, decide_ms },
        );
        let propensity = routing.propensities.get(&chosen).copied().unwrap_or(1.0);
        Ok(Routed { specialist: chosen, propensity, routing })
    }

    /// Scores the candidates and draws one of them by `u` in [0, 1).
    pub(super) async fn score_candidates(
        &self,
        context: &RequestContext,
        asked: &str,
        trait_weights: &BTreeMap<String, f64>,
        u: f64,
    ) -> Result<(Routing, String), NyxError> {
        let deciding = Instant::now();
        let soon = context.remaining() / SHARE;
        // scores that are not needed any more are cancelled
        let cancel = context.cancel.child_token();
        let scoring = RequestContext { cancel: cancel.clone(), ..context.clone() };
        let _ends_here = cancel.drop_guard();
        let (similarities, scores) =
            either(soon, self.similarities(context, asked), self.scores(&scoring, asked)).await?;
        let names: Vec<String> =
            self.setup.specialists.iter().map(|specialist| specialist.name.clone()).collect();
        let weight = |name: &String| trait_weights.get(name).copied().unwrap_or(0.0);
        let worth = unweighted(
            similarities.as_deref(),
            scores.as_deref(),
            self.setup.options.similarity_scale,
        );
        let logits: Vec<f64> =
            names.iter().zip(worth).map(|(name, worth)| worth + weight(name)).collect();
        let choice = choose(&logits, self.setup.options.temperature, self.setup.options.epsilon, u);
        let chosen = names.get(choice.chosen).cloned().unwrap_or_default();
        let named =
            |values: Vec<f64>| names.iter().cloned().zip(values).collect::<BTreeMap<_, _>>();
        let routing = Routing {
            scores: scores.map(named).unwrap_or_default(),
            similarities: similarities.map(named).unwrap_or_default(),
            logits: named(logits),
            propensities: named(choice.propensities),
            decide_ms: deciding.elapsed().as_secs_f64() * 1e3,
        };
        Ok((routing, chosen))
    }

    /// Similarity of the question to each specialist's examples.
    async fn similarities(
        &self,
        context: &RequestContext,
        asked: &str,
    ) -> Result<Vec<f64>, NyxError> {
        let embed =
            Embed { context: context.clone(), texts: vec![master::excerpt(asked).into_owned()] };
        let embedded = self.setup.memory.send(embed).await?.vectors.into_iter().next();
        let question = embedded.ok_or_else(|| {
            NyxError::Internal("the embedder gave no vector for the question".into())
        })?;
        Ok(self.examples.similarities(&question))
    }

    /// The base model's calibrated score of each specialist.
    async fn scores(&self, context: &RequestContext, asked: &str) -> Result<Vec<f64>, NyxError> {
        let content_free = self.content_free.get_or_try_init(|| async {
            let scores = self.score(context, master::CONTENT_FREE).await?;
            Ok::<_, NyxError>(scores.iter().map(ContinuationScore::mean).collect())
        });
        // another request, with a later deadline, may be measuring it
        let content_free = context.bound("the master was calibrated", content_free).await?;
        Ok(master::calibrated(&self.score(context, asked).await?, content_free))
    }

    async fn score(
        &self,
        context: &RequestContext,
        question: &str,
    ) -> Result<Vec<ContinuationScore>, NyxError> {
        let (prompt, cacheable_prefix) = self.master.prompt(&self.setup.text, question)?;
        let continuations = self.master.names.clone();
        let score = Score {
            context: context.clone(),
            prompt,
            cacheable_prefix,
            continuations,
            adapter: None,
            replica: None,
        };
        context.bound("the master scored the specialists", self.setup.pool.send(score)).await
    }
}

/// A candidate's logit without its trait weight: the scaled similarity, or the score where there is
/// none.
fn unweighted(similarities: Option<&[f64]>, scores: Option<&[f64]>, scale: f64) -> Vec<f64> {
    match similarities {
        Some(similarities) => similarities.iter().map(|similarity| scale * similarity).collect(),
        None => scores.unwrap_or_default().to_vec(),
    }
}

/// Both results, of which one may be missing: it failed, or was not ready `soon`, which is logged.
///
/// # Errors
/// Both failed, or the request was cancelled. The scores are awaited to the end where nothing else
/// can decide.
async fn either<T>(
    soon: Duration,
    comparing: impl Future<Output = Result<T, NyxError>>,
    scoring: impl Future<Output = Result<T, NyxError>>,
) -> Result<(Option<T>, Option<T>), NyxError> {
    let mut scoring = std::pin::pin!(scoring);
    let (similarities, scores) = tokio::join!(
        tokio::time::timeout(soon, comparing),
        tokio::time::timeout(soon, scoring.as_mut())
    );
    let late = |doing| NyxError::DeadlineExceeded { doing };
    let similarities = similarities.unwrap_or_else(|_| Err(late("the question was embedded")));
    if let Err(error) = &similarities {
        tracing::warn!(%error, "no similarities: the base model's scores alone decide");
    }
    let scores = match scores {
        Ok(scores) => scores,
        Err(_) if similarities.is_err() => scoring.await,
        Err(_) => Err(late("the master scored the specialists")),
    };
    match (similarities, scores) {
        (_, Err(NyxError::Cancelled)) => Err(NyxError::Cancelled),
        (Err(_), Err(error)) => Err(error),
        (Err(_), Ok(scores)) => Ok((None, Some(scores))),
        (Ok(similarities), Err(error)) => {
            tracing::warn!(%error, "no scores of the base model: the similarities decide as ever, and the record lacks the scores");
            Ok((Some(similarities), None))
        }
        (Ok(similarities), Ok(scores)) => Ok((Some(similarities), Some(scores))),
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    const SOON: Duration = Duration::from_millis(50);

    fn failed() -> Result<u8, NyxError> {
        Err(NyxError::Internal("the part failed".into()))
    }

    async fn later(value: u8) -> Result<u8, NyxError> {
        tokio::time::sleep(3 * SOON).await;
        Ok(value)
    }

    #[actix::test]
    async fn either_part_may_fail_or_be_late() {
        assert_eq!(either(SOON, ready(Ok(1)), ready(Ok(2))).await.unwrap(), (Some(1), Some(2)));
        assert_eq!(either(SOON, ready(failed()), ready(Ok(2))).await.unwrap(), (None, Some(2)));
        assert_eq!(either(SOON, pending(), ready(Ok(2))).await.unwrap(), (None, Some(2)));
        assert_eq!(either(SOON, ready(Ok(1)), ready(failed())).await.unwrap(), (Some(1), None));
        assert_eq!(either(SOON, ready(Ok(1)), pending()).await.unwrap(), (Some(1), None));
        // nothing else can decide: the late result is awaited
        assert_eq!(either(SOON, ready(failed()), later(2)).await.unwrap(), (None, Some(2)));
        assert!(matches!(
            either(SOON, ready(failed()), ready(failed())).await,
            Err(NyxError::Internal(_))
        ));
        // the request was cancelled
        assert!(matches!(
            either(SOON, ready(Ok(1)), ready(Err(NyxError::Cancelled))).await,
            Err(NyxError::Cancelled)
        ));
    }

    #[test]
    fn similarities_decide_and_scores_alone_without_them() {
        let (similarities, scores) = ([0.5, 0.25], [-1.0, 2.0]);
        assert_eq!(unweighted(Some(&similarities), Some(&scores), 10.0), [5.0, 2.5]);
        assert_eq!(unweighted(Some(&similarities), None, 10.0), [5.0, 2.5]);
        assert_eq!(unweighted(None, Some(&scores), 10.0), scores);
    }
}
