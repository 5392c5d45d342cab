//! The front end of Nyx: command line, settings, HTTP, WebSocket, admin and telemetry. Decisions
//! are made in the other crates.

#![cfg_attr(test, allow(clippy::too_many_lines))]

pub mod cli;
pub mod http;
pub mod models;
pub mod settings;
pub mod telemetry;
