#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
mod adapters;
mod arrows;
mod bad_models;
mod cli;
mod docs;
mod doors;
mod eval;
mod facts;
mod fetch;
mod kairos;
mod learned;
mod memories;
mod openai;
mod people;
mod postgres;
mod program;
mod verdicts;
