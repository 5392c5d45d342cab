//! llama.cpp's server as a child process: same model file, same adapters, as many threads as the
//! machine has cores.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Fallible;
use crate::adapters::{Adapters, COUNT};
use crate::http::Connection;
use crate::machine::{cores, processor_seconds};
use crate::work::{Request, Served};

/// Context size for all slots together: enough for the longest row in each.
pub const CONTEXT: usize = COUNT * 1024;

/// Timeout for a server to load its model.
const START: Duration = Duration::from_secs(120);

pub struct Server {
    child: Child,
    log: PathBuf,
    adapters: usize,
    connections: Vec<Connection>,
}

impl Server {
    /// Starts the server on a free loopback port and waits until it is ready.
    pub fn start(
        program: &Path,
        model: &Path,
        adapters: &Adapters,
        context: usize,
        log: &Path,
    ) -> Fallible<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let mut command = Command::new(program);
        command.arg("--model").arg(model).args([
            "--host",
            "127.0.0.1",
            "--port",
            &port.to_string(),
            "--offline",
            "--no-ui",
        ]);
        let threads = cores().to_string();
        command.args(["--threads", &threads, "--threads-batch", &threads]);
        // no prompt cache beside the slots
        command.args([
            "--parallel",
            &COUNT.to_string(),
            "--ctx-size",
            &context.to_string(),
            "--cache-ram",
            "0",
        ]);
        for file in adapters.gguf_files() {
            command.arg("--lora").arg(file);
        }
        let output = File::create(log)?;
        let child =
            command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).spawn()?;
        let connections = (0..COUNT).map(|_| Connection::new(port)).collect();
        let mut server =
            Self { child, log: log.to_owned(), adapters: adapters.gguf_files().len(), connections };
        let begun = Instant::now();
        while server.connections[0].ready().is_err() {
            if let Some(status) = server.child.try_wait()? {
                return Err(format!(
                    "llama.cpp's server ended with {status}: see {}",
                    server.log.display()
                )
                .into());
            }
            if begun.elapsed() > START {
                return Err(format!(
                    "llama.cpp's server did not answer within {START:?}: see {}",
                    server.log.display()
                )
                .into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(server)
    }

    /// The process id, as `/proc` names it.
    pub fn process(&self) -> String {
        self.child.id().to_string()
    }

    /// Fails when the idle process keeps a core busy: it would slow down the engine measured beside
    /// it.
    pub fn must_idle(&self) -> Fallible<()> {
        const WINDOW: Duration = Duration::from_secs(1);
        const MOST: f64 = 0.03;
        let mut share = 0.0;
        for _ in 0..10 {
            let Some(before) = processor_seconds(&self.process()) else { return Ok(()) };
            std::thread::sleep(WINDOW);
            let Some(after) = processor_seconds(&self.process()) else { return Ok(()) };
            share = (after - before) / WINDOW.as_secs_f64();
            if share <= MOST {
                return Ok(());
            }
        }
        Err(format!(
            "llama.cpp's server keeps {share:.2} of a core busy while it has nothing to do"
        )
        .into())
    }

    /// The scale of every adapter: the server also applies those that a request leaves out.
    fn scales(&self, adapter: Option<usize>, scale: f64) -> Value {
        (0..self.adapters)
            .map(|id| json!({"id": id, "scale": if adapter == Some(id) { scale } else { 0.0 }}))
            .collect()
    }

    fn body(&self, request: &Request) -> String {
        let mut body = json!({
            "prompt": request.prompt, "n_predict": request.tokens, "ignore_eos": true, "cache_prompt": request.prefix > 0,
            // greedy, with the shortest sampler chain
            "temperature": 0, "top_k": 1, "samplers": ["top_k"],
            "response_fields": ["tokens_evaluated", "tokens_predicted", "timings/prompt_n"],
        });
        if self.adapters > 0 {
            body["lora"] = self.scales(request.adapter, 1.0);
        }
        if let Some(slot) = request.slot {
            body["id_slot"] = slot.into();
        }
        body.to_string()
    }

    /// The most likely next tokens with their log-probabilities, best first.
    pub fn best(
        &mut self,
        prompt: &[u32],
        adapter: Option<usize>,
        scale: f64,
        count: usize,
    ) -> Fallible<Vec<(u32, f32)>> {
        let body = json!({
            "prompt": prompt, "n_predict": 1, "temperature": 0, "n_probs": count, "cache_prompt": false, "ignore_eos": true,
            "lora": self.scales(adapter, scale), "response_fields": ["completion_probabilities"],
        });
        self.connections[0].ready()?;
        let answer = self.connections[0].post("/completion", &body.to_string())?;
        let top = answer["completion_probabilities"][0]["top_logprobs"]
            .as_array()
            .ok_or_else(|| format!("no log-probabilities: {answer}"))?;
        let pair = |entry: &Value| {
            Some((u32::try_from(entry["id"].as_u64()?).ok()?, entry["logprob"].as_f64()? as f32))
        };
        top.iter()
            .map(|entry| {
                pair(entry).ok_or_else(|| format!("not a log-probability: {entry}").into())
            })
            .collect()
    }
}

impl Served for Server {
    fn serve(&mut self, requests: &[Request]) -> Fallible<f64> {
        let bodies: Vec<String> = requests.iter().map(|request| self.body(request)).collect();
        let connections = &mut self.connections[..requests.len()];
        connections.iter_mut().try_for_each(Connection::ready)?;
        // all requests are sent at once: the time runs from the first request to the last response
        let start = Barrier::new(requests.len());
        let post = |connection: &mut Connection, body: &str| {
            start.wait();
            let begun = Instant::now();
            let answer = connection.post("/completion", body)?;
            Ok((begun, Instant::now(), answer))
        };
        let exchanges: Vec<(Instant, Instant, Value)> =
            if let ([connection], [body]) = (&mut *connections, bodies.as_slice()) {
                vec![post(connection, body)?]
            } else {
                std::thread::scope(|scope| {
                    let post = &post;
                    let pairs = connections.iter_mut().zip(&bodies);
                    let clients: Vec<_> = pairs
                        .map(|(connection, body)| scope.spawn(move || post(connection, body)))
                        .collect();
                    clients
                        .into_iter()
                        .map(|client| client.join().map_err(|_| "a client panicked")?)
                        .collect::<Fallible<_>>()
                })?
            };
        for ((.., answer), request) in exchanges.iter().zip(requests) {
            let number = |field: &str| answer[field].as_u64().map(|number| number as usize);
            let came = (number("tokens_evaluated"), number("tokens_predicted"));
            if came != (Some(request.prompt.len()), Some(request.tokens)) {
                return Err(format!(
                    "{} + {} tokens were asked for, the answer says {answer}",
                    request.prompt.len(),
                    request.tokens
                )
                .into());
            }
            if request.prefix == 0 && number("timings/prompt_n") != Some(request.prompt.len()) {
                return Err(format!(
                    "a prompt of {} was to be computed whole, the answer says {answer}",
                    request.prompt.len()
                )
                .into());
            }
        }
        let begun =
            exchanges.iter().map(|(begun, ..)| *begun).min().ok_or("nothing was asked for")?;
        let ended =
            exchanges.iter().map(|(_, ended, _)| *ended).max().ok_or("nothing was asked for")?;
        Ok(ended.duration_since(begun).as_secs_f64())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // the process may have exited already
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
