//! Deletion of memories: on request, and at the end of the retention period.

use std::time::Duration;

use chrono::TimeDelta;
use nyx_domain::MemorySelector;

use super::messages::{Forget, Forgotten};
use super::service::MemoryService;
use super::text::composed;
use crate::phoebe::search::LOCAL_TENANT;
use crate::{NyxError, phoebe};

/// Interval between checks for memories past their retention period.
pub(super) const RETAIN_EVERY: Duration = Duration::from_secs(3600);

impl MemoryService {
    pub(super) async fn forget(&self, request: Forget) -> Result<Forgotten, NyxError> {
        let Forget { context, mut selector } = request;
        if let MemorySelector::Matching { conversation, before } = &mut selector {
            if conversation.is_none() && before.is_none() {
                return Err(NyxError::invalid(
                    "conversation",
                    "neither conversation nor before is given, expected one of them",
                ));
            }
            *conversation = conversation.take().map(composed);
            conversation
                .as_deref()
                .map_or(Ok(()), |name| phoebe::storable_name("conversation", name))?;
        }
        let forgotten = context
            .bound("memories were deleted", self.index.delete(LOCAL_TENANT, &selector))
            .await?;
        let Some(server) = &self.server else { return Ok(Forgotten { forgotten, erased: true }) };
        let drained =
            context.bound("memories were deleted from the index", server.drain(&self.index)).await;
        let erased = match drained {
            Ok(left) => left == 0,
            Err(error) => {
                tracing::warn!(%error, forgotten, "deleted, but not from the Qdrant server yet; retrying later");
                false
            }
        };
        Ok(Forgotten { forgotten, erased })
    }

    /// Deletes memories past their retention period.
    pub(super) async fn retain(&self) -> Result<(), NyxError> {
        let Some(days) = self.retention_days else { return Ok(()) };
        // a period beyond the range of dates is unlimited
        let Some(stored_before) =
            phoebe::now().checked_sub_signed(TimeDelta::days(i64::from(days)))
        else {
            return Ok(());
        };
        for tenant in self.index.phoebe().memory_tenants().await? {
            let deleted =
                self.index.delete(&tenant, &MemorySelector::StoredBefore(stored_before)).await?;
            if deleted > 0 {
                tracing::info!(
                    memories = deleted,
                    retention_days = days,
                    "deleted memories past their retention period"
                );
            }
        }
        Ok(())
    }
}
