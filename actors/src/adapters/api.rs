//! What Nyx can be asked about adapters.

use std::path::Path;

use nyx_engine::ModelFiles;
use serde::Serialize;

use super::record::{AdapterRecord, Generation};
use super::{AdapterLease, Adapters};
use crate::runtime::blocking;
use crate::{Nyx, NyxError};

/// An adapter, and how it stands in this process.
#[derive(Debug, Clone, Serialize)]
pub struct AdapterReport {
    #[serde(flatten)]
    pub record: AdapterRecord,
    /// Whether its files are here.
    pub kept: bool,
    /// Whether it is on the devices.
    pub loaded: bool,
}

impl Nyx {
    fn report(&self, record: AdapterRecord) -> AdapterReport {
        let Adapters(inner) = &self.adapters;
        let (kept, loaded) = (inner.library.files.bytes(&record.id).is_some(), inner.loaded.holds(&record.id));
        AdapterReport { record, kept, loaded }
    }

    /// Every adapter on record, oldest first.
    ///
    /// # Errors
    /// When phoebe does not answer.
    pub async fn adapters(&self) -> Result<Vec<AdapterReport>, NyxError> {
        Ok(self.adapters.library().list().await?.into_iter().map(|record| self.report(record)).collect())
    }

    /// One adapter.
    ///
    /// # Errors
    /// [`NyxError::NotFound`].
    pub async fn adapter(&self, id: &str) -> Result<AdapterReport, NyxError> {
        Ok(self.report(self.adapters.library().show(id).await?))
    }

    /// Where an adapter's files are kept.
    pub fn adapter_folder(&self, id: &str) -> std::path::PathBuf {
        self.adapters.library().folder(id)
    }

    /// A specialist's generations, oldest first; the last one is live. Empty: the base speaks, as generation 0.
    ///
    /// # Errors
    /// When phoebe does not answer.
    pub async fn generations(&self, specialist: &str) -> Result<Vec<Generation>, NyxError> {
        self.adapters.library().generations(specialist).await
    }

    /// The generation that speaks in this process, and its adapter; `(0, None)` is the base before any.
    pub fn live_generation(&self, specialist: &str) -> (u64, Option<String>) {
        self.adapters.generation(specialist)
    }

    /// Keeps a PEFT folder as a candidate and answers its id; the same files have the same id.
    ///
    /// # Errors
    /// Unknown specialist; it does not fit the base; it belongs to another specialist; `adapters.max_mb` leaves no room for it.
    pub async fn import_adapter(&self, specialist: &str, folder: &Path, training_run: Option<String>) -> Result<String, NyxError> {
        self.adapters.import(specialist, folder, training_run).await
    }

    /// Copies an adapter out as a PEFT folder, byte for byte.
    ///
    /// # Errors
    /// [`NyxError::NotFound`]; its files are missing or changed; the folder holds one already.
    pub async fn export_adapter(&self, id: &str, folder: &Path) -> Result<(), NyxError> {
        self.adapters.library().export(id, folder).await
    }

    /// Makes an adapter its specialist's next generation, without any gate: whoever calls this has measured it, or says in `reason` that they
    /// answer for it. Returns when the next request speaks through it.
    ///
    /// # Errors
    /// [`NyxError::NotFound`]; its files are missing or changed; a device cannot load it.
    pub async fn promote_adapter(&self, id: &str, reason: &str) -> Result<Generation, NyxError> {
        self.adapters.promote(id, reason).await
    }

    /// Goes back to the adapter before the live one, else to the base, under a new generation number.
    ///
    /// # Errors
    /// [`NyxError::Conflict`] when the base speaks already.
    pub async fn rollback_adapter(&self, specialist: &str, reason: &str) -> Result<Generation, NyxError> {
        self.adapters.rollback(specialist, reason).await
    }

    /// Falls back to the last good generation at once, or follows another process that did; looks at the base's file afterwards.
    ///
    /// # Errors
    /// As [`rollback_adapter`](Self::rollback_adapter).
    pub async fn fall_back(&self, specialist: &str, reason: &str) -> Result<Generation, NyxError> {
        let made = self.adapters.fall_back(specialist, reason).await?;
        if let Err(error) = self.check_base().await {
            self.adapters.complain("", error.to_string());
        }
        Ok(made)
    }

    /// Compares the base's files with the digest that they had when they were loaded. Reads all of them.
    ///
    /// # Errors
    /// [`NyxError::Conflict`] when they changed; they cannot be read.
    pub async fn check_base(&self) -> Result<(), NyxError> {
        let path = self.base_model.clone();
        let found = blocking(move || ModelFiles::open(&path).map(|files| files.info().sha256.clone())).await??;
        if found == self.model.sha256 {
            return Ok(());
        }
        let (path, expected) = (self.base_model.display(), &self.model.sha256);
        Err(NyxError::Conflict(format!("the base {path} has SHA-256 {found} now, it was loaded as {expected}: `nyx fetch` gets it anew")))
    }

    /// Puts an adapter on every device and keeps it there as long as the lease lives, so that questions may be asked of it before it is promoted:
    /// see [`Question::adapter`](nyx_domain::Question::adapter).
    ///
    /// # Errors
    /// [`NyxError::NotFound`]; its files are missing or changed; a device cannot load it.
    pub async fn load_candidate(&self, id: &str) -> Result<AdapterLease, NyxError> {
        self.adapters.lease(id).await
    }

    /// Lets an adapter speak for a share of its specialist's requests, in every process. Each decision's note `canary` has the arm that spoke
    /// and its propensity.
    ///
    /// # Errors
    /// A share outside (0, 1); an adapter of another specialist; it cannot be loaded.
    pub async fn set_canary(&self, specialist: &str, id: &str, share: f64) -> Result<(), NyxError> {
        self.adapters.set_canary(specialist, id, share).await
    }

    /// Ends a canary's trial; the adapter is a candidate again.
    ///
    /// # Errors
    /// Unknown specialist, or phoebe does not answer.
    pub async fn clear_canary(&self, specialist: &str) -> Result<(), NyxError> {
        self.adapters.clear_canary(specialist).await
    }

    /// Looks for what other processes did now, rather than at the next look.
    ///
    /// # Errors
    /// When phoebe does not answer.
    pub async fn sync_adapters(&self) -> Result<(), NyxError> {
        self.adapters.sync().await
    }

    /// Compares the live adapters' files with their ids now; a changed one is bad, and the last good generation speaks.
    ///
    /// # Errors
    /// When phoebe does not answer.
    pub async fn check_adapters(&self) -> Result<(), NyxError> {
        self.adapters.check_all().await
    }

    /// Sets an adapter aside that was tried and not taken.
    ///
    /// # Errors
    /// [`NyxError::NotFound`]; [`NyxError::Conflict`] for one that is live or tried now.
    pub async fn retire_adapter(&self, id: &str) -> Result<(), NyxError> {
        self.adapters.library().retire(id).await
    }
}
