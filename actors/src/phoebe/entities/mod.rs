//! Phoebe's tables.

pub(super) mod baseline;
pub(super) mod decision;
pub(super) mod feedback;
pub(super) mod feedback_key;
pub(super) mod memory;
pub(super) mod readiness;
pub(super) mod reward;
pub(super) mod trait_weight;
