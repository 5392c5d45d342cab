#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::too_many_lines,
    reason = "a test fails by panicking"
)]
mod adapters;
mod arrows;
mod artifacts;
mod bad_models;
mod cli;
mod cycles;
mod docs;
mod durability;
mod eval;
mod facts;
mod feedback;
mod fetch;
mod kairos;
mod learning;
mod memories;
mod openai;
mod postgres;
mod privacy;
mod program;
mod routes;
mod routing;
mod secrets;
mod specialists;
mod stalled;
mod swaps;
