//! The door of Nyx: command line, settings, HTTP, WebSocket, admin and telemetry. No decisions are made here.

pub mod cli;
pub mod http;
pub mod models;
pub mod settings;
pub mod telemetry;
