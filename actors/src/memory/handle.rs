//! Memories: storing, deleting, searching and embedding.

use nyx_domain::{Memory, MemoryFilter, MemorySelector};

use super::actor::MemoryKeeper;
use super::messages::{
    Embed, Embeddings, Forget, Forgotten, MemoryHit, NewMemory, Recall, Remember, RememberMany,
};
use crate::supervise::ActorRef;
use crate::{NyxError, RequestContext};

/// The memories of this Nyx. Cheap to clone.
#[derive(Clone)]
pub struct Memories {
    pub(crate) keeper: ActorRef<MemoryKeeper>,
    /// Dimension of the embeddings.
    pub embedding_dimension: usize,
}

impl Memories {
    /// Stores a memory.
    ///
    /// # Errors
    /// The text is empty or too long, or phoebe cannot store it.
    pub async fn remember(
        &self,
        context: RequestContext,
        memory: NewMemory,
    ) -> Result<Memory, NyxError> {
        let answer_by = context.answer_by();
        self.keeper.send_until(Remember { context, memory }, answer_by).await
    }

    /// Stores 1 to 1000 memories in their order, all or none.
    ///
    /// # Errors
    /// As [`remember`](Self::remember).
    pub async fn remember_many(
        &self,
        context: RequestContext,
        memories: Vec<NewMemory>,
    ) -> Result<Vec<Memory>, NyxError> {
        let answer_by = context.answer_by();
        self.keeper.send_until(RememberMany { context, memories }, answer_by).await
    }

    /// Deletes memories; they are no longer found when this returns.
    ///
    /// # Errors
    /// [`NyxError::NotFound`] for a single one that does not exist; phoebe does not answer.
    pub async fn forget(
        &self,
        context: RequestContext,
        selector: MemorySelector,
    ) -> Result<Forgotten, NyxError> {
        let answer_by = context.answer_by();
        self.keeper.send_until(Forget { context, selector }, answer_by).await
    }

    /// The `k` memories that best match a query, best first.
    ///
    /// # Errors
    /// The query is empty, `k` is out of range, or the store cannot be searched.
    pub async fn recall(
        &self,
        context: RequestContext,
        query: String,
        k: usize,
        filter: MemoryFilter,
    ) -> Result<Vec<MemoryHit>, NyxError> {
        let answer_by = context.answer_by();
        self.keeper
            .send_until(Recall { context, query, k, filter, min_score: -1.0 }, answer_by)
            .await
    }

    /// One unit vector per text.
    ///
    /// # Errors
    /// When the embedder is overloaded or fails.
    pub async fn embed(
        &self,
        context: RequestContext,
        texts: Vec<String>,
    ) -> Result<Embeddings, NyxError> {
        let answer_by = context.answer_by();
        self.keeper.send_until(Embed { context, texts }, answer_by).await
    }
}
