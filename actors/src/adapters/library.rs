//! Adapters as files and records, without any device: used by `nyx adapters` beside a running
//! server, and by the server itself.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use nyx_engine::lora::adapter_id;
use nyx_engine::{Device, LoraAdapter, ModelConfig};

use super::files::{AdapterFiles, Checked, bytes_of};
use super::options::AdapterOptions;
use super::record::{
    AdapterRecord, AdapterStatus, Generation, GenerationKind, NewGeneration, Records,
};
use crate::NyxError;
use crate::phoebe::{PhoebeStore, now, storable};
use crate::runtime::blocking;

/// The base model that adapters belong to.
#[derive(Debug, Clone)]
pub struct AdapterBase {
    pub sha256: String,
    pub config: ModelConfig,
}

/// Adapters on disk and in phoebe. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AdapterLibrary {
    pub(super) files: AdapterFiles,
    pub(super) records: Records,
    budget: u64,
}

/// The target of a rollback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Return {
    /// The generation to leave.
    pub after: u64,
    /// `None` is the base model.
    pub adapter: Option<String>,
    /// Adapters that were skipped because their files had changed, with the reason.
    pub bad: Vec<(String, String)>,
}

impl AdapterLibrary {
    pub fn new(store: PhoebeStore, options: &AdapterOptions, data_dir: &Path) -> Self {
        let files = AdapterFiles::new(options.folder_in(data_dir));
        Self { files, records: Records(store), budget: (options.max_mb as u64) << 20 }
    }

    /// Every adapter on record, oldest first.
    ///
    /// # Errors
    /// When phoebe does not answer.
    pub async fn list(&self) -> Result<Vec<AdapterRecord>, NyxError> {
        self.records.adapters().await
    }

    /// One adapter.
    ///
    /// # Errors
    /// [`NyxError::NotFound`].
    pub async fn show(&self, id: &str) -> Result<AdapterRecord, NyxError> {
        self.records.adapter(id).await
    }

    /// A specialist's generations, oldest first.
    ///
    /// # Errors
    /// When phoebe does not answer.
    pub async fn generations(&self, specialist: &str) -> Result<Vec<Generation>, NyxError> {
        self.records.history(specialist).await
    }

    /// The folder of an adapter's files.
    pub fn folder(&self, id: &str) -> PathBuf {
        self.files.folder(id)
    }

    /// Stores a PEFT folder as a candidate for a specialist and returns its id; a stored one is not
    /// changed.
    ///
    /// # Errors
    /// It does not fit the base model, it belongs to another specialist, or it exceeds
    /// `adapters.max_mb`.
    pub async fn import(
        &self,
        specialist: &str,
        folder: &Path,
        training_run: Option<String>,
        base: &AdapterBase,
        held: &BTreeSet<String>,
    ) -> Result<String, NyxError> {
        let id = self.keep(specialist, folder, training_run, base, held).await?;
        let owner = self.records.adapter(&id).await?.specialist;
        if owner != specialist {
            return Err(NyxError::Conflict(format!(
                "adapter {id} belongs to {owner}, not to {specialist}: the same files were kept for it"
            )));
        }
        Ok(id)
    }

    /// The same for an adapter that may belong to another specialist as well.
    pub(super) async fn keep(
        &self,
        specialist: &str,
        folder: &Path,
        training_run: Option<String>,
        base: &AdapterBase,
        held: &BTreeSet<String>,
    ) -> Result<String, NyxError> {
        let (from, name, checked) = (folder.to_owned(), specialist.to_owned(), base.clone());
        let verified = blocking(move || -> Result<_, NyxError> {
            // shapes, numbers and base, as a device checks them
            let adapter =
                LoraAdapter::load(&from, &name, &checked.config, &checked.sha256, &Device::Cpu)?;
            Ok((adapter.id().to_owned(), bytes_of(&from)?))
        });
        let (id, bytes) = verified.await??;
        let known = self.records.find(&id).await?;
        if self.files.bytes(&id).is_none() {
            self.make_room(bytes, held).await?;
        }
        let (files, from, base_sha256, to_add) =
            (self.files.clone(), folder.to_owned(), base.sha256.clone(), id.clone());
        blocking(move || files.add(&from, &to_add, &base_sha256)).await??;
        match known {
            // its files are intact again
            Some(known) if known.status == AdapterStatus::Bad => {
                self.records.set_status(&id, AdapterStatus::Candidate).await?
            }
            Some(_) => {}
            None => {
                let record = AdapterRecord {
                    id: id.clone(),
                    specialist: specialist.to_owned(),
                    base_sha256: base.sha256.clone(),
                    generation: 0,
                    bytes,
                    status: AdapterStatus::Candidate,
                    training_run,
                    created_at: now(),
                    promoted_at: None,
                    retired_at: None,
                };
                self.records.add(&record).await?;
            }
        }
        Ok(id)
    }

    /// Retires an adapter that was evaluated and not promoted: it may be deleted to make space.
    ///
    /// # Errors
    /// [`NyxError::NotFound`]; [`NyxError::Conflict`] for one that is active or a canary.
    pub async fn retire(&self, id: &str) -> Result<(), NyxError> {
        let status = self.records.adapter(id).await?.status;
        if matches!(status, AdapterStatus::Live | AdapterStatus::Canary) {
            return Err(NyxError::Conflict(format!(
                "adapter {id} is {}: roll back or clear the canary first",
                status.as_str()
            )));
        }
        self.records.set_status(id, AdapterStatus::Retired).await
    }

    /// Exports an adapter as a PEFT folder, byte for byte.
    ///
    /// # Errors
    /// [`NyxError::NotFound`]; its files are missing or changed; the folder holds one already.
    pub async fn export(&self, id: &str, to: &Path) -> Result<(), NyxError> {
        self.usable(id).await?;
        let (files, id, to) = (self.files.clone(), id.to_owned(), to.to_owned());
        blocking(move || files.export(&id, &to)).await?
    }

    /// Checks an adapter's files against its id.
    pub(super) async fn check(&self, id: &str) -> Result<Checked, NyxError> {
        let base_sha256 = self.records.adapter(id).await?.base_sha256;
        let (files, id) = (self.files.clone(), id.to_owned());
        blocking(move || files.check(&id, &base_sha256)).await
    }

    /// An adapter whose files match its id.
    ///
    /// # Errors
    /// [`NyxError::NotFound`], or [`NyxError::Conflict`] with the fault of its files; changed ones
    /// mark it bad.
    pub async fn usable(&self, id: &str) -> Result<AdapterRecord, NyxError> {
        let record = self.records.adapter(id).await?;
        match self.check(id).await? {
            Checked::Good if record.status == AdapterStatus::Bad => Err(NyxError::Conflict(
                format!("adapter {id} failed its checksum before: import it again"),
            )),
            Checked::Good => Ok(record),
            Checked::Missing { folder } => {
                let why = format!(
                    "adapter {id} is not in {}: import it here, or share adapters.dir",
                    folder.display()
                );
                Err(NyxError::Conflict(why))
            }
            Checked::Changed { folder, reason } => {
                self.records.set_status(id, AdapterStatus::Bad).await?;
                Err(NyxError::Conflict(format!(
                    "adapter {id} in {} cannot be used: {reason}",
                    folder.display()
                )))
            }
        }
    }

    /// Makes an adapter its specialist's next generation, on record alone: running servers apply it
    /// at their next poll.
    ///
    /// # Errors
    /// As [`usable`](Self::usable).
    pub async fn promote(&self, id: &str, reason: &str) -> Result<Generation, NyxError> {
        storable("reason", reason)?;
        let record = self.usable(id).await?;
        self.record(&record.specialist, Some(id), GenerationKind::Promoted, reason, None).await
    }

    /// Returns to the adapter that was active before the current one was promoted, under a new
    /// generation, on record alone.
    ///
    /// # Errors
    /// [`NyxError::Conflict`] when the base model is active already.
    pub async fn rollback(&self, specialist: &str, reason: &str) -> Result<Generation, NyxError> {
        storable("reason", reason)?;
        let back = self.back(specialist).await?;
        self.record(
            specialist,
            back.adapter.as_deref(),
            GenerationKind::RolledBack,
            reason,
            Some(back.after),
        )
        .await
    }

    pub(super) async fn record(
        &self,
        specialist: &str,
        adapter: Option<&str>,
        kind: GenerationKind,
        reason: &str,
        after: Option<u64>,
    ) -> Result<Generation, NyxError> {
        self.records.generate(&NewGeneration { specialist, adapter, kind, reason, after }).await
    }

    /// The target of a rollback: the last adapter before the active one whose files are intact
    /// here; the base model without one.
    pub(super) async fn back(&self, specialist: &str) -> Result<Return, NyxError> {
        let history = self.records.history(specialist).await?;
        let after = history.last().map_or(0, |newest| newest.generation);
        let mut stack = stack(&history);
        if stack.pop().is_none() {
            return Err(NyxError::Conflict(format!(
                "{specialist} speaks through the base already (generation {after}): nothing to go back to"
            )));
        }
        let mut bad = Vec::new();
        while let Some(id) = stack.pop() {
            match self.check(&id).await? {
                Checked::Good => return Ok(Return { after, adapter: Some(id), bad }),
                Checked::Missing { folder } => {
                    tracing::warn!(specialist, adapter = %id, folder = %folder.display(), "passed over: not kept")
                }
                Checked::Changed { reason, .. } => {
                    self.records.set_status(&id, AdapterStatus::Bad).await?;
                    bad.push((id, reason));
                }
            }
        }
        Ok(Return { after, adapter: None, bad })
    }

    /// Deletes retired adapters, the least recently used first, until `bytes` more fit the budget.
    /// Active adapters, canaries, the last good one before an active one, and leased ones stay.
    async fn make_room(&self, bytes: u64, held: &BTreeSet<String>) -> Result<(), NyxError> {
        let adapters = self.records.adapters().await?;
        let mut kept: BTreeSet<String> = held.clone();
        for generation in self.records.newest().await? {
            kept.extend(
                stack(&self.records.history(&generation.specialist).await?)
                    .into_iter()
                    .rev()
                    .take(2),
            );
        }
        kept.extend(self.records.canaries().await?.into_iter().map(|canary| canary.adapter));
        let mut used: u64 =
            adapters.iter().filter_map(|adapter| self.files.bytes(&adapter.id)).sum();
        let mut old: Vec<&AdapterRecord> = adapters
            .iter()
            .filter(|adapter| {
                matches!(adapter.status, AdapterStatus::Retired | AdapterStatus::Bad)
                    && !kept.contains(&adapter.id)
            })
            .collect();
        old.sort_by_key(|adapter| (adapter.status != AdapterStatus::Bad, adapter.retired_at));
        for adapter in old {
            if used + bytes <= self.budget {
                break;
            }
            if let Some(freed) = self.files.bytes(&adapter.id) {
                self.files.remove(&adapter.id)?;
                used -= freed;
                tracing::info!(adapter = %adapter.id, specialist = %adapter.specialist, "removed: adapters.max_mb is reached");
            }
        }
        if used + bytes > self.budget {
            let (needed, most) = ((used + bytes).div_ceil(1 << 20), self.budget >> 20);
            let why = format!(
                "adapters would take {needed} MB with this one, adapters.max_mb is {most}, and none of them may be removed"
            );
            return Err(NyxError::Conflict(why));
        }
        Ok(())
    }

    /// The id of a PEFT folder for a base model.
    pub(super) async fn id_of(folder: &Path, base_sha256: &str) -> Result<String, NyxError> {
        let (folder, base_sha256) = (folder.to_owned(), base_sha256.to_owned());
        Ok(blocking(move || adapter_id(&folder, &base_sha256)).await??)
    }
}

/// The promoted adapters of a specialist, the active one last; empty is the base model. A promotion
/// adds one, a rollback removes those after its target.
fn stack(history: &[Generation]) -> Vec<String> {
    let mut stack: Vec<String> = Vec::new();
    for generation in history {
        match (&generation.adapter, generation.kind) {
            (Some(id), GenerationKind::RolledBack) => {
                while stack.last().is_some_and(|top| top != id) {
                    stack.pop();
                }
                if stack.is_empty() {
                    stack.push(id.clone());
                }
            }
            (Some(id), _) if stack.last() != Some(id) => stack.push(id.clone()),
            (Some(_), _) => {}
            (None, _) => stack.clear(),
        }
    }
    stack
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollback_goes_further_back_each_time() {
        let mut history = Vec::new();
        let mut then = |kind, adapter: Option<&str>| {
            let generation = history.len() as u64 + 1;
            let (specialist, adapter) = ("eleos".to_owned(), adapter.map(str::to_owned));
            history.push(Generation {
                specialist,
                generation,
                adapter,
                kind,
                reason: String::new(),
                at: now(),
            });
            stack(&history).join("")
        };
        use GenerationKind::{Configured, Promoted, RolledBack};
        let steps = [
            (Configured, Some("a"), "a"),
            (Promoted, Some("b"), "ab"),
            (Promoted, Some("c"), "abc"),
            (RolledBack, Some("b"), "ab"),
            (RolledBack, Some("a"), "a"),
            (Promoted, Some("c"), "ac"),
            (Promoted, Some("c"), "ac"),
            (RolledBack, None, ""),
            (Promoted, Some("b"), "b"),
        ];
        for (kind, adapter, expected) in steps {
            assert_eq!(then(kind, adapter), expected);
        }
    }
}
