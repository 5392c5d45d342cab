//! Phoebe, the database of record. OWNER: PH.
pub mod messages;
