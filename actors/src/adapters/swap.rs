//! Swaps: promotion, rollback, fallback, and following other processes.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::PoisonError;

use nyx_domain::CellStep;

use super::active::Adapters;
use super::files::Checked;
use super::library::AdapterLibrary;
use super::loaded::AdapterLease;
use super::record::{AdapterStatus, Canary, Generation, GenerationKind};
use crate::NyxError;
use crate::phoebe::storable;

impl Adapters {
    /// Stores a PEFT folder as a candidate for a specialist.
    ///
    /// # Errors
    /// As [`AdapterLibrary::import`], and for an unknown specialist.
    pub async fn import(
        &self,
        specialist: &str,
        folder: &Path,
        training_run: Option<String>,
    ) -> Result<String, NyxError> {
        self.known(specialist)?;
        let held: BTreeSet<String> = self.0.loaded.ids().into_iter().collect();
        let id =
            self.0.library.import(specialist, folder, training_run, &self.0.base, &held).await?;
        self.0.cells.publish(
            None,
            Some(specialist),
            CellStep::AdapterAdded { adapter: id.clone() },
        );
        Ok(id)
    }

    /// Makes an adapter its specialist's next generation: it is loaded on every device, then
    /// recorded, then used by the next request.
    ///
    /// # Errors
    /// As [`lease`](Self::lease), and when phoebe does not answer.
    pub async fn promote(&self, id: &str, reason: &str) -> Result<Generation, NyxError> {
        storable("reason", reason)?;
        let _one = self.0.swapping.lock().await;
        let record = self.0.library.usable(id).await?;
        self.known(&record.specialist)?;
        let lease = self.lease(id).await?;
        let made = self
            .0
            .library
            .record(&record.specialist, Some(id), GenerationKind::Promoted, reason, None)
            .await?;
        self.flip(&made, Some(lease));
        Ok(made)
    }

    /// Returns to the adapter that was active before the current one was promoted, else to the base
    /// model, under a new generation.
    ///
    /// # Errors
    /// [`NyxError::Conflict`] when the base model is active already, or another process was first.
    pub async fn rollback(&self, specialist: &str, reason: &str) -> Result<Generation, NyxError> {
        storable("reason", reason)?;
        self.known(specialist)?;
        let _one = self.0.swapping.lock().await;
        self.go_back(specialist, reason, None).await
    }

    /// Falls back to the last good generation because the active one is bad (its rewards fell, or
    /// its files changed). Follows another process that did so already.
    ///
    /// # Errors
    /// [`NyxError::Conflict`] when the base model is active already; phoebe does not answer.
    pub async fn fall_back(&self, specialist: &str, reason: &str) -> Result<Generation, NyxError> {
        self.known(specialist)?;
        let _one = self.0.swapping.lock().await;
        if let Some(newest) = self.follow_another(specialist).await? {
            return Ok(newest);
        }
        let from = self.live(specialist).generation;
        match self.go_back(specialist, reason, Some(from)).await {
            // another process may have been faster
            Err(NyxError::Conflict(why)) => {
                self.follow_another(specialist).await?.ok_or(NyxError::Conflict(why))
            }
            done => done,
        }
    }

    /// Applies a generation that another process recorded.
    async fn follow_another(&self, specialist: &str) -> Result<Option<Generation>, NyxError> {
        let here = self.live(specialist).generation;
        let newest = self.newest(specialist).await?.filter(|newest| newest.generation > here);
        if let Some(newest) = &newest {
            self.apply(newest).await?;
        }
        Ok(newest)
    }

    async fn newest(&self, specialist: &str) -> Result<Option<Generation>, NyxError> {
        Ok(self.0.library.generations(specialist).await?.pop())
    }

    /// Rolls back from the newest generation; with `from`, only if that is the newest.
    async fn go_back(
        &self,
        specialist: &str,
        reason: &str,
        from: Option<u64>,
    ) -> Result<Generation, NyxError> {
        let back = self.0.library.back(specialist).await?;
        if from.is_some_and(|from| back.after > from) {
            return Err(NyxError::Conflict(format!(
                "{specialist} went on to generation {} meanwhile",
                back.after
            )));
        }
        for (id, reason) in back.bad {
            self.tell_bad(specialist, id, reason);
        }
        let lease = match &back.adapter {
            Some(id) => Some(self.0.loaded.load(id, self.0.library.folder(id)).await?),
            None => None,
        };
        let kind = GenerationKind::RolledBack;
        let made = self
            .0
            .library
            .record(specialist, back.adapter.as_deref(), kind, reason, Some(back.after))
            .await?;
        self.flip(&made, lease);
        Ok(made)
    }

    /// The next request uses this generation; running ones keep theirs.
    fn flip(&self, made: &Generation, lease: Option<AdapterLease>) {
        let specialist = made.specialist.as_str();
        let (left, tried) = {
            let mut all = self.0.live.write().unwrap_or_else(PoisonError::into_inner);
            let live = all.entry(specialist.to_owned()).or_default();
            live.generation = made.generation;
            let left = std::mem::replace(&mut live.lease, lease);
            // an active adapter is no longer a canary
            let tried =
                live.canary.take_if(|(_, canary)| Some(canary.id()) == made.adapter.as_deref());
            (left, tried)
        };
        // dropped outside the lock: dropping a lease notifies the devices
        drop((left, tried));
        self.0.complaints.lock().unwrap_or_else(PoisonError::into_inner).remove(specialist);
        if let Some(metrics) = self.0.registry.get(specialist) {
            metrics.set_adapter(made.adapter.clone());
        }
        let (adapter, generation, reason) =
            (made.adapter.clone(), made.generation, made.reason.clone());
        tracing::info!(
            specialist,
            generation,
            adapter = adapter.as_deref().unwrap_or("base"),
            reason,
            "a new generation speaks"
        );
        let step = match made.kind {
            GenerationKind::RolledBack => {
                CellStep::AdapterRolledBack { adapter, generation, reason }
            }
            GenerationKind::Configured | GenerationKind::Promoted => {
                CellStep::AdapterPromoted { adapter, generation, reason }
            }
        };
        self.0.cells.publish(None, Some(specialist), step);
    }

    /// Follows the record: swaps where another process recorded a generation, and starts or ends
    /// canaries. What cannot be followed is logged once, and the active generation stays.
    ///
    /// # Errors
    /// When phoebe does not answer.
    pub async fn sync(&self) -> Result<(), NyxError> {
        let _one = self.0.swapping.lock().await;
        for newest in self.0.library.records.newest().await? {
            let specialist = newest.specialist.clone();
            if self.known(&specialist).is_err()
                || newest.generation <= self.live(&specialist).generation
            {
                continue;
            }
            if let Err(error) = self.follow(&newest).await {
                let generation = newest.generation;
                self.complain(&specialist, format!("generation {generation} cannot be loaded here, the one before goes on: {error}"));
            }
        }
        self.follow_canaries(self.0.library.records.canaries().await?).await;
        Ok(())
    }

    /// Applies a generation; one whose files changed is marked bad, and the last good one is used
    /// instead.
    async fn follow(&self, newest: &Generation) -> Result<(), NyxError> {
        if let Some(id) = &newest.adapter
            && let Checked::Changed { reason, .. } = self.0.library.check(id).await?
        {
            self.0.library.records.set_status(id, AdapterStatus::Bad).await?;
            self.tell_bad(&newest.specialist, id.clone(), reason.clone());
            self.go_back(
                &newest.specialist,
                &format!("adapter {id} failed its checksum: {reason}"),
                None,
            )
            .await?;
            return Ok(());
        }
        self.apply(newest).await
    }

    async fn apply(&self, newest: &Generation) -> Result<(), NyxError> {
        let lease = match &newest.adapter {
            Some(id) => Some(self.lease(id).await?),
            None => None,
        };
        self.flip(newest, lease);
        Ok(())
    }

    async fn follow_canaries(&self, canaries: Vec<Canary>) {
        for specialist in &self.0.specialists {
            let wanted = canaries.iter().find(|canary| canary.specialist == *specialist);
            let tried = self.live(specialist).canary;
            let same = match (wanted, &tried) {
                (None, None) => true,
                (Some(wanted), Some((share, lease))) => {
                    wanted.adapter == lease.id() && wanted.share.to_bits() == share.to_bits()
                }
                _ => false,
            };
            if same {
                continue;
            }
            let next = match wanted {
                None => None,
                Some(wanted) => match self.lease(&wanted.adapter).await {
                    Ok(lease) => Some((wanted.share, lease)),
                    Err(error) => {
                        self.complain(
                            specialist,
                            format!("the canary {} cannot be loaded here: {error}", wanted.adapter),
                        );
                        continue;
                    }
                },
            };
            let step = match &next {
                Some((share, lease)) => {
                    CellStep::CanarySet { adapter: lease.id().to_owned(), share: *share }
                }
                None => CellStep::CanaryCleared {
                    adapter: tried.map(|(_, lease)| lease.id().to_owned()).unwrap_or_default(),
                },
            };
            let left = {
                let mut all = self.0.live.write().unwrap_or_else(PoisonError::into_inner);
                std::mem::replace(&mut all.entry(specialist.clone()).or_default().canary, next)
            };
            drop(left);
            self.0.cells.publish(None, Some(specialist), step);
        }
    }

    /// Uses an adapter for a share of its specialist's requests, in every process.
    ///
    /// # Errors
    /// A share outside (0, 1), an adapter of another specialist, or as [`lease`](Self::lease).
    pub async fn set_canary(&self, specialist: &str, id: &str, share: f64) -> Result<(), NyxError> {
        if !(share > 0.0 && share < 1.0) {
            return Err(NyxError::invalid(
                "share",
                format!("share is {share}, expected a number between 0 and 1"),
            ));
        }
        let owner = self.0.library.usable(id).await?.specialist;
        if owner != specialist {
            return Err(NyxError::Conflict(format!(
                "adapter {id} belongs to {owner}, not to {specialist}"
            )));
        }
        let _one = self.0.swapping.lock().await;
        let _on_the_devices = self.lease(id).await?;
        self.0.library.records.set_canary(specialist, Some((id, share))).await?;
        self.follow_canaries(self.0.library.records.canaries().await?).await;
        Ok(())
    }

    /// Ends a specialist's canary; the adapter is a candidate again.
    ///
    /// # Errors
    /// When phoebe does not answer.
    pub async fn clear_canary(&self, specialist: &str) -> Result<(), NyxError> {
        self.known(specialist)?;
        let _one = self.0.swapping.lock().await;
        self.0.library.records.set_canary(specialist, None).await?;
        self.follow_canaries(self.0.library.records.canaries().await?).await;
        Ok(())
    }

    /// Checks the files of active adapters and canaries against their ids. An active one whose
    /// files changed is marked bad, and the last good generation is used at once; such a canary
    /// ends.
    ///
    /// # Errors
    /// When phoebe does not answer.
    pub async fn check_all(&self) -> Result<(), NyxError> {
        for specialist in &self.0.specialists {
            let live = self.live(specialist);
            let tried = live.canary.map(|(_, lease)| (lease, true));
            for (lease, canary) in live.lease.map(|lease| (lease, false)).into_iter().chain(tried) {
                let id = lease.id().to_owned();
                match self.0.library.check(&id).await? {
                    Checked::Good => {}
                    // the adapter in memory is intact; after a restart it would not load
                    Checked::Missing { folder } => {
                        self.complain(
                            specialist,
                            format!("adapter {id} is no longer in {}", folder.display()),
                        );
                    }
                    Checked::Changed { reason, .. } => {
                        if canary {
                            self.clear_canary(specialist).await?;
                        }
                        self.0.library.records.set_status(&id, AdapterStatus::Bad).await?;
                        self.tell_bad(specialist, id.clone(), reason.clone());
                        if !canary {
                            self.fall_back(
                                specialist,
                                &format!("adapter {id} failed its checksum: {reason}"),
                            )
                            .await?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Applies the adapters that specialists' files name, each as its specialist's first
    /// generation. A generation on record takes precedence over the file.
    ///
    /// # Errors
    /// A folder is not an adapter of this base model.
    pub async fn configure(&self, named: &[(String, std::path::PathBuf)]) -> Result<(), NyxError> {
        for (specialist, folder) in named {
            if let Some(newest) = self.newest(specialist).await? {
                let id = AdapterLibrary::id_of(folder, &self.0.base.sha256).await.ok();
                if id != newest.adapter {
                    let (folder, generation) = (folder.display(), newest.generation);
                    tracing::warn!(specialist, %folder, generation, "its file names an adapter that is not the live generation, which goes on \
                        speaking: `nyx adapters import` and `promote` change it");
                }
                continue;
            }
            let held = self.0.loaded.ids().into_iter().collect();
            let id = self.0.library.keep(specialist, folder, None, &self.0.base, &held).await?;
            let reason = format!("named by its file: {}", folder.display());
            let made = self
                .0
                .library
                .record(specialist, Some(&id), GenerationKind::Configured, &reason, Some(0))
                .await;
            match made {
                // another process recorded the same file
                Ok(_) | Err(NyxError::Conflict(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    pub(super) fn known(&self, specialist: &str) -> Result<(), NyxError> {
        if self.0.specialists.iter().any(|known| known == specialist) {
            return Ok(());
        }
        Err(NyxError::UnknownSpecialist {
            name: specialist.to_owned(),
            known: self.0.specialists.join(", "),
        })
    }

    fn tell_bad(&self, specialist: &str, adapter: String, reason: String) {
        tracing::error!(specialist, %adapter, %reason, "an adapter is bad");
        self.0.cells.publish(None, Some(specialist), CellStep::AdapterBad { adapter, reason });
    }

    /// Logs once why this process cannot follow the record.
    pub(super) fn complain(&self, specialist: &str, complaint: String) {
        let mut complaints = self.0.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        if complaints.get(specialist) == Some(&complaint) {
            return;
        }
        tracing::error!(specialist, "{complaint}");
        complaints.insert(specialist.to_owned(), complaint.clone());
        drop(complaints);
        let named = Some(specialist).filter(|specialist| !specialist.is_empty());
        self.0.cells.publish(
            None,
            named,
            CellStep::Failed { error: "adapter_error", message: complaint },
        );
    }
}
