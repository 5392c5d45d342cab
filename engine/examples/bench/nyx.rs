//! Nyx, in this process.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use nyx_engine::{
    AdapterHandle, Device, Engine, EngineOptions, Finished, GenerateJob, ModelFiles, Piece, Result,
    SamplingParams, ScoreJob, Text, TokenSink,
};

use crate::Fallible;
use crate::adapters::Adapters;
use crate::work::{Prompts, Request, Served, seconds};

/// Samples per round of a decision, which is short.
const DECISIONS: usize = 3;

pub struct Nyx {
    engine: Engine,
    adapters: Vec<AdapterHandle>,
}

struct End(SyncSender<Result<Finished>>);

impl TokenSink for End {
    fn piece(&mut self, _: Piece) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
    fn finish(self: Box<Self>, end: Result<Finished>) {
        // cannot fail: the receiver waits
        drop(self.0.send(end));
    }
}

/// Collects the alternatives of one token.
struct Best(SyncSender<Vec<(u32, f32)>>);

impl TokenSink for Best {
    fn piece(&mut self, piece: Piece) -> ControlFlow<()> {
        if let Some(token) = piece.logprobs.first() {
            drop(self.0.try_send(
                token.top.iter().map(|(token, _, logprob)| (*token, *logprob)).collect(),
            ));
        }
        ControlFlow::Continue(())
    }
    fn finish(self: Box<Self>, _: Result<Finished>) {}
}

impl Nyx {
    /// With or without speculative decoding; all other options are the defaults.
    pub fn load(files: &ModelFiles, adapters: &Adapters, speculate: bool) -> Fallible<Self> {
        let text = Arc::new(Text::load(files)?);
        let engine = Engine::load(
            files,
            text,
            &Device::Cpu,
            EngineOptions { speculate, ..EngineOptions::default() },
        )?;
        let mut nyx = Self { engine, adapters: Vec::new() };
        nyx.adapters = nyx.load_adapters(&adapters.folders())?;
        Ok(nyx)
    }

    pub fn load_adapters<P: AsRef<Path>>(&mut self, folders: &[P]) -> Fallible<Vec<AdapterHandle>> {
        let load = |(index, folder): (usize, &P)| {
            self.engine.load_adapter(&index.to_string(), folder.as_ref())
        };
        Ok(folders.iter().enumerate().map(load).collect::<Result<_>>()?)
    }

    /// Device memory in bytes of all adapters together.
    pub fn adapter_bytes(&self) -> usize {
        self.adapters.iter().map(|adapter| adapter.0.bytes()).sum()
    }

    fn submit(&mut self, request: &Request) -> Receiver<Result<Finished>> {
        let (sender, receiver) = sync_channel(1);
        let params = SamplingParams { max_tokens: request.tokens, ..endless() };
        let adapter = request.adapter.map(|index| self.adapters[index].clone());
        self.engine.submit(job(
            request.prompt.clone(),
            request.prefix,
            params,
            adapter,
            Box::new(End(sender)),
        ));
        receiver
    }

    /// Steps the engine until it has no work.
    fn run(&mut self) -> Fallible<()> {
        while self.engine.has_work() {
            self.engine.step()?;
        }
        Ok(())
    }

    /// The most likely next tokens with their log-probabilities, best first.
    pub fn best(
        &mut self,
        prompt: &[u32],
        adapter: Option<&AdapterHandle>,
        count: usize,
    ) -> Fallible<Vec<(u32, f32)>> {
        let (sender, receiver) = sync_channel(1);
        let params = SamplingParams { max_tokens: 1, logprobs: Some(count), ..endless() };
        self.engine.submit(job(
            prompt.to_vec(),
            0,
            params,
            adapter.cloned(),
            Box::new(Best(sender)),
        ));
        self.run()?;
        Ok(receiver.try_recv()?)
    }

    /// Milliseconds to score five names after 60-token questions with a warm prompt prefix.
    pub fn decisions(&mut self, master: &[u32], prompts: &mut Prompts) -> Fallible<Vec<f64>> {
        let mut all = Vec::new();
        for _ in 0..=DECISIONS {
            let prompt = [master, &prompts.tokens(60)].concat();
            let continuations = (0..5).map(|_| prompts.tokens(3)).collect();
            let (sender, receiver) = sync_channel(1);
            let reply = Box::new(move |scores| drop(sender.send(scores)));
            let cacheable_prefix = master.len();
            let time = seconds(|| {
                self.engine.score(ScoreJob {
                    prompt,
                    cacheable_prefix,
                    continuations,
                    adapter: None,
                    cancelled: Box::new(|| false),
                    reply,
                });
                self.run()
            })?;
            receiver.try_recv()??;
            all.push(time * 1e3);
        }
        // the first question warms the prompt prefix
        Ok(all.split_off(1))
    }
}

/// Greedy, and the answer does not end before `tokens` tokens.
fn endless() -> SamplingParams {
    SamplingParams { logit_bias: vec![(0, -100.0), (2, -100.0)], ..SamplingParams::default() }
}

fn job(
    prompt: Vec<u32>,
    cacheable_prefix: usize,
    params: SamplingParams,
    adapter: Option<AdapterHandle>,
    sink: Box<dyn TokenSink>,
) -> GenerateJob {
    GenerateJob {
        prompt,
        cacheable_prefix,
        params,
        adapter,
        fairness_key: String::new(),
        cancelled: Box::new(|| false),
        deadline: None,
        sink,
    }
}

impl Served for Nyx {
    fn serve(&mut self, requests: &[Request]) -> Fallible<f64> {
        let mut ends = Vec::new();
        let time = seconds(|| {
            ends = requests.iter().map(|request| self.submit(request)).collect();
            self.run()
        })?;
        for (end, request) in ends.iter().zip(requests) {
            let finished = end.try_recv()??;
            if finished.usage.completion_tokens != request.tokens {
                return Err(format!(
                    "{} tokens came, {} were asked for",
                    finished.usage.completion_tokens, request.tokens
                )
                .into());
            }
        }
        Ok(time)
    }
}
