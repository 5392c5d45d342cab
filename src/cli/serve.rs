//! `nyx serve`: starts the server, and shuts it down in phases.

use std::net::SocketAddr;
use std::time::Duration;

use actix_web::dev::ServerHandle;
use clap::Args;
use nyx_actors::{Nyx, NyxBuilder};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinError;
use tracing::info;

use super::error::{CommandError, make_data_dir};
use super::output;
use crate::http;
use crate::settings::{Flag, Settings};

/// The exit code that shells report for a process ended by SIGINT.
const EXIT_INTERRUPTED: i32 = 130;

/// Serve over HTTP until SIGINT or SIGTERM.
#[derive(Debug, Args)]
pub(super) struct Serve {
    /// Listen address [default: 127.0.0.1]
    #[arg(long)]
    host: Option<String>,
    /// Listen port; 0 binds a free one [default: 8080]
    #[arg(long)]
    port: Option<String>,
}

impl Serve {
    pub(super) fn settings(&self) -> Vec<Flag> {
        let flags = [("http.host", "--host", &self.host), ("http.port", "--port", &self.port)];
        flags
            .into_iter()
            .filter_map(|(key, flag, value)| Some(Flag { key, flag, value: value.clone()? }))
            .collect()
    }
}

/// Serves until a signal, then shuts down; a second signal ends the process at once.
pub(super) async fn serve(settings: Settings) -> Result<(), CommandError> {
    let options = settings.nyx_options()?;
    // before the models are loaded, so that a port in use is reported at once
    let listener = http::listen(&settings.http).map_err(|error| CommandError::Listen {
        address: format!("{}:{}", settings.http.host, settings.http.port),
        reason: error.to_string(),
    })?;
    make_data_dir(&settings)?;
    let nyx = NyxBuilder::new(options).start().await?;
    let mut signals = Signals::new().map_err(CommandError::Server)?;
    let address = listener.local_addr().map_err(CommandError::Server)?;
    let server =
        http::serve(listener, &settings.http, nyx.clone()).map_err(CommandError::Server)?;
    welcome(address, !settings.http.api_keys.is_empty())?;
    let stop = server.handle();
    let mut serving = actix_web::rt::spawn(server);
    tokio::select! {
        () = signals.next() => {}
        ended = &mut serving => return finished(ended),
    }
    tokio::select! {
        () = shut_down(&nyx, stop, Duration::from_secs(settings.http.shutdown_timeout_s)) => finished(serving.await),
        () = signals.next() => std::process::exit(EXIT_INTERRUPTED),
    }
}

fn finished(ended: Result<std::io::Result<()>, JoinError>) -> Result<(), CommandError> {
    ended.map_err(std::io::Error::other).and_then(|ended| ended).map_err(CommandError::Server)
}

/// Shuts down in phases. They overlap where one waits for another: streams end while the server
/// waits for them.
async fn shut_down(nyx: &Nyx, server: ServerHandle, grace: Duration) {
    info!("shutdown 1/4: not ready, no new connections");
    let closed = server.stop(true);
    info!(
        grace_s = grace.as_secs(),
        "shutdown 2/4: waiting for running work, cancelled after the grace period; then stopping workers, memory, phoebe"
    );
    nyx.shutdown(grace).await;
    info!("shutdown 3/4: connections end");
    closed.await;
    info!("shutdown 4/4: done");
}

/// Prints the listen address and an example request.
fn welcome(address: SocketAddr, with_keys: bool) -> std::io::Result<()> {
    let key = if with_keys { " -H \"Authorization: Bearer $NYX_KEY\"" } else { "" };
    output::line(&format!(
        r#"listening on http://{address}

Try:
  curl -s http://{address}/infer -H 'Content-Type: application/json'{key} -d '{{"prompt": "What is the capital of France?"}}'
The answer has this shape:
  {{"decision_id": "0199...", "specialist": "aletheia", "answer": "...", "confidence": null,
   "decision": {{"scores": {{...}}, "propensities": {{...}}, "trait_weights": {{...}}}},
   "evidence": [{{"id": "...", "text": "...", "score": 0.5, "source": "..."}}], "adapter": null, "usage": {{...}}, "timings": {{...}}}}
All routes: http://{address}/openapi.json"#
    ))
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => info!("SIGINT: shutting down; repeat the signal to exit at once"),
            _ = self.terminate.recv() => info!("SIGTERM: shutting down; repeat the signal to exit at once"),
        }
    }
}
