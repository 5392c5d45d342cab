//! Forgetting: phoebe marks what is to go, then the index loses it, then phoebe deletes it. A crash in between leaves the mark, and
//! whoever starts next finishes from there: nothing that was forgotten is found again.

use std::time::Duration;

use chrono::TimeDelta;
use uuid::Uuid;

use super::MemoryParts;
use super::messages::{Forget, Forgotten};
use crate::phoebe::messages::{DeleteForgotten, ListForgotten, MarkForgotten, MemorySelector};
use crate::{NyxError, phoebe};

/// Memories taken out of the index in one go.
const PAGE: u64 = 500;
/// Between two looks for memories that have grown too old.
pub(super) const RETAIN_EVERY: Duration = Duration::from_secs(3600);

impl MemoryParts {
    pub(super) async fn forget(&self, request: Forget) -> Result<Forgotten, NyxError> {
        let Forget { context, selector } = request;
        if let MemorySelector::Matching { conversation, before } = &selector {
            if conversation.is_none() && before.is_none() {
                return Err(NyxError::invalid("conversation", "neither conversation nor before is given, expected one of them"));
            }
            conversation.as_deref().map_or(Ok(()), |name| phoebe::storable_name("conversation", name))?;
        }
        let forgotten = context.bound("memories were marked as forgotten", self.phoebe.send(MarkForgotten(selector))).await?;
        let erased = match context.bound("memories were taken out of the index", self.sweep()).await {
            Ok(_) => self.lasting,
            Err(error) => {
                tracing::warn!(%error, forgotten, "marked as forgotten, and not out of the index yet; trying again later");
                false
            }
        };
        Ok(Forgotten { forgotten, erased })
    }

    /// Takes what is marked as forgotten out of the index, then out of phoebe; returns how many. An index of this process alone leaves the
    /// deleting to whoever has the one that lasts.
    pub(super) async fn sweep(&self) -> Result<usize, NyxError> {
        let mut swept = 0;
        loop {
            // nothing is being indexed meanwhile: what was looked up before its mark is in the index by now, and goes
            let _nothing_is_written = self.writing.write().await;
            let ids: Vec<Uuid> = self.phoebe.send(ListForgotten { limit: PAGE }).await?;
            if ids.is_empty() {
                return Ok(swept);
            }
            self.store.delete(ids.clone()).await?;
            swept += ids.len();
            if !self.lasting {
                return Ok(swept);
            }
            self.phoebe.send(DeleteForgotten(ids)).await?;
        }
    }

    /// Marks what was stored longer ago than it may be kept; returns how many.
    pub(super) async fn retain(&self) -> Result<u64, NyxError> {
        let Some(days) = self.retention_days else { return Ok(0) };
        // longer than there are dates is for ever
        let Some(stored_before) = phoebe::now().checked_sub_signed(TimeDelta::days(i64::from(days))) else { return Ok(0) };
        self.phoebe.send(MarkForgotten(MemorySelector::StoredBefore(stored_before))).await
    }

    /// One round of housekeeping: what is too old is marked, what is marked goes, what the index lacks comes back.
    pub(super) async fn keep_house(&self, retain: bool) -> Result<(), NyxError> {
        if retain && self.lasting {
            let old = self.retain().await?;
            if old > 0 {
                tracing::info!(memories = old, retention_days = self.retention_days, "memories were kept long enough and are forgotten");
            }
        }
        let swept = self.sweep().await?;
        if swept > 0 && self.lasting {
            tracing::info!(memories = swept, "forgotten memories are out of the index and deleted");
        }
        self.store.scrub().await?;
        let healed = self.heal().await?;
        if healed > 0 {
            tracing::info!(healed, "memories that were missing from the index are back");
        }
        Ok(())
    }
}
