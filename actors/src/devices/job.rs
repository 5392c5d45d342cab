//! Work for a device.

use nyx_engine::{GenerateJob, ScoreJob};

use crate::adapters::AdapterLease;

/// Work for a device.
pub enum Job {
    Generate {
        job: GenerateJob,
        adapter: Option<AdapterLease>,
    },
    Score {
        job: ScoreJob,
        adapter: Option<AdapterLease>,
    },
    /// Wakes the thread, so that it checks for shutdown.
    Wake,
}
