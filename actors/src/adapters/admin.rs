//! Administration of adapters: listing, import and export, promotion and rollback, canaries.

use std::path::Path;
use std::sync::Arc;

use nyx_engine::ModelFiles;
use serde::Serialize;

use super::active::Adapters;
use super::loaded::AdapterLease;
use super::record::{AdapterRecord, Generation};
use crate::NyxError;
use crate::runtime::blocking;

/// An adapter and its state in this process.
#[derive(Debug, Clone, Serialize)]
pub struct AdapterReport {
    #[serde(flatten)]
    pub record: AdapterRecord,
    /// Whether its files exist.
    pub kept: bool,
    /// Whether it is on the devices.
    pub loaded: bool,
}

/// Administers the adapters. Cheap to clone.
#[derive(Clone)]
pub struct AdapterAdmin {
    /// Those that are active.
    pub(crate) active: Adapters,
    /// The base model's file or folder.
    pub(crate) base_model: Arc<Path>,
    /// The digest that it had when it was loaded.
    pub(crate) base_sha256: String,
}

impl AdapterAdmin {
    fn report(&self, record: AdapterRecord) -> AdapterReport {
        let Adapters(inner) = &self.active;
        let (kept, loaded) =
            (inner.library.files.bytes(&record.id).is_some(), inner.loaded.holds(&record.id));
        AdapterReport { record, kept, loaded }
    }

    /// Every adapter on record, oldest first.
    ///
    /// # Errors
    /// When phoebe does not answer.
    pub async fn list(&self) -> Result<Vec<AdapterReport>, NyxError> {
        Ok(self
            .active
            .library()
            .list()
            .await?
            .into_iter()
            .map(|record| self.report(record))
            .collect())
    }

    /// One adapter.
    ///
    /// # Errors
    /// [`NyxError::NotFound`].
    pub async fn get(&self, id: &str) -> Result<AdapterReport, NyxError> {
        Ok(self.report(self.active.library().show(id).await?))
    }

    /// The folder of an adapter's files.
    pub fn folder(&self, id: &str) -> std::path::PathBuf {
        self.active.library().folder(id)
    }

    /// A specialist's generations, oldest first; the last one is active. Empty: the base model is,
    /// as generation 0.
    ///
    /// # Errors
    /// When phoebe does not answer.
    pub async fn generations(&self, specialist: &str) -> Result<Vec<Generation>, NyxError> {
        self.active.library().generations(specialist).await
    }

    /// The generation that is active in this process, and its adapter; `(0, None)` is the base
    /// model before any.
    pub fn active_generation(&self, specialist: &str) -> (u64, Option<String>) {
        self.active.generation(specialist)
    }

    /// Stores a PEFT folder as a candidate and returns its id; the same files have the same id.
    ///
    /// # Errors
    /// Unknown specialist; it does not fit the base; it belongs to another specialist; it exceeds
    /// `adapters.max_mb`.
    pub async fn import(
        &self,
        specialist: &str,
        folder: &Path,
        training_run: Option<String>,
    ) -> Result<String, NyxError> {
        self.active.import(specialist, folder, training_run).await
    }

    /// Copies an adapter out as a PEFT folder, byte for byte.
    ///
    /// # Errors
    /// [`NyxError::NotFound`]; its files are missing or changed; the folder holds one already.
    pub async fn export(&self, id: &str, folder: &Path) -> Result<(), NyxError> {
        self.active.library().export(id, folder).await
    }

    /// Makes an adapter its specialist's next generation, without a gate: the caller has measured
    /// it, or states in `reason` why it is promoted. Returns when the next request uses it.
    ///
    /// # Errors
    /// [`NyxError::NotFound`]; its files are missing or changed; a device cannot load it.
    pub async fn promote(&self, id: &str, reason: &str) -> Result<Generation, NyxError> {
        self.active.promote(id, reason).await
    }

    /// Returns to the adapter before the active one, else to the base, under a new generation
    /// number.
    ///
    /// # Errors
    /// [`NyxError::Conflict`] when the base is active already.
    pub async fn rollback(&self, specialist: &str, reason: &str) -> Result<Generation, NyxError> {
        self.active.rollback(specialist, reason).await
    }

    /// Falls back to the last good generation, or follows another process that did; checks the base
    /// model's file afterwards.
    ///
    /// # Errors
    /// As [`rollback`](Self::rollback).
    pub async fn fall_back(&self, specialist: &str, reason: &str) -> Result<Generation, NyxError> {
        let made = self.active.fall_back(specialist, reason).await?;
        if let Err(error) = self.check_base().await {
            self.active.complain("", error.to_string());
        }
        Ok(made)
    }

    /// Compares the base model's files with their digest when they were loaded. Reads all of them.
    ///
    /// # Errors
    /// [`NyxError::Conflict`] when they changed; they cannot be read.
    pub async fn check_base(&self) -> Result<(), NyxError> {
        let path = self.base_model.clone();
        let found =
            blocking(move || ModelFiles::open(&path).map(|files| files.info().sha256.clone()))
                .await??;
        if found == self.base_sha256 {
            return Ok(());
        }
        let (path, expected) = (self.base_model.display(), &self.base_sha256);
        Err(NyxError::Conflict(format!(
            "the base {path} has SHA-256 {found} now, it was loaded as {expected}: `nyx fetch` gets it anew"
        )))
    }

    /// Puts an adapter on every device and keeps it there as long as the lease lives, so that it
    /// can be evaluated before it is promoted: see
    /// [`Question::adapter`](nyx_domain::Question::adapter).
    ///
    /// # Errors
    /// [`NyxError::NotFound`]; its files are missing or changed; a device cannot load it.
    pub async fn lease(&self, id: &str) -> Result<AdapterLease, NyxError> {
        self.active.lease(id).await
    }

    /// Uses an adapter for a share of its specialist's requests, in every process. Each decision's
    /// trace has the chosen arm and its propensity as `canary`.
    ///
    /// # Errors
    /// A share outside (0, 1); an adapter of another specialist; it cannot be loaded.
    pub async fn set_canary(&self, specialist: &str, id: &str, share: f64) -> Result<(), NyxError> {
        self.active.set_canary(specialist, id, share).await
    }

    /// Ends a canary; the adapter is a candidate again.
    ///
    /// # Errors
    /// Unknown specialist, or phoebe does not answer.
    pub async fn clear_canary(&self, specialist: &str) -> Result<(), NyxError> {
        self.active.clear_canary(specialist).await
    }

    /// Applies what other processes did now, rather than at the next poll.
    ///
    /// # Errors
    /// When phoebe does not answer.
    pub async fn sync(&self) -> Result<(), NyxError> {
        self.active.sync().await
    }

    /// Compares the active adapters' files with their ids now; a changed one is marked bad, and the
    /// last good generation becomes active.
    ///
    /// # Errors
    /// When phoebe does not answer.
    pub async fn check(&self) -> Result<(), NyxError> {
        self.active.check_all().await
    }

    /// Retires an adapter that was evaluated and not promoted.
    ///
    /// # Errors
    /// [`NyxError::NotFound`]; [`NyxError::Conflict`] for one that is active or a canary now.
    pub async fn retire(&self, id: &str) -> Result<(), NyxError> {
        self.active.library().retire(id).await
    }
}
