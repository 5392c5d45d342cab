//! Phoebe's rows.

pub(super) mod baseline;
pub(super) mod decision;
pub(super) mod memory;
pub(super) mod readiness;
pub(super) mod reward;
pub(super) mod trait_weight;
pub(super) mod verdict;
pub(super) mod verdict_key;
