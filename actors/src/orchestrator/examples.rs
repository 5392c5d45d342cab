//! The specialists' examples, embedded once at the start, with which questions are compared.

use std::time::Duration;

use nyx_specialists::{SpecialistPolicy, similarity};

use crate::memory::MemoryKeeper;
use crate::memory::messages::Embed;
use crate::supervise::ActorRef;
use crate::{NyxError, RequestContext};

/// Time limit for embedding them.
const STARTING: Duration = Duration::from_secs(60);

/// The examples' unit vectors, in the order of the specialists.
pub(super) struct Examples(Vec<Vec<Vec<f32>>>);

impl Examples {
    pub(super) async fn embed(
        memory: &ActorRef<MemoryKeeper>,
        specialists: &[SpecialistPolicy],
    ) -> Result<Self, NyxError> {
        let texts = specialists.iter().flat_map(SpecialistPolicy::routed_by).cloned().collect();
        let embed = Embed { context: RequestContext::new(STARTING), texts };
        let mut vectors = memory.send(embed).await?.vectors.into_iter();
        Ok(Self(
            specialists
                .iter()
                .map(|policy| vectors.by_ref().take(policy.routed_by().len()).collect())
                .collect(),
        ))
    }

    /// Similarity of the question to each specialist's examples, in their order.
    pub(super) fn similarities(&self, question: &[f32]) -> Vec<f64> {
        // each has at least its purpose
        self.0.iter().map(|examples| similarity(question, examples).unwrap_or(0.0)).collect()
    }
}
