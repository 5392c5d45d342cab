//! What may be asked of the pool and its workers.

use actix::Message;
use nyx_engine::{ContinuationScore, SamplingParams, TokenSink};

use crate::adapters::AdapterLease;
use crate::{NyxError, RequestContext};

/// Continues `prompt`. Answers when a device has taken the job; the text goes to `sink`, straight from the device thread.
#[derive(Message)]
#[rtype(result = "Result<(), NyxError>")]
pub struct Generate {
    pub context: RequestContext,
    pub prompt: Vec<u32>,
    /// Of the prompt's tokens, the first ones that other requests share.
    pub cacheable_prefix: usize,
    pub params: SamplingParams,
    /// What it speaks through; `None` for the base.
    pub adapter: Option<AdapterLease>,
    /// The replica it must run on; any when `None`.
    pub replica: Option<usize>,
    pub sink: Box<dyn TokenSink>,
}

/// Log-likelihood of each continuation after `prompt`. Runs before answers do.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Vec<ContinuationScore>, NyxError>")]
pub struct Score {
    pub context: RequestContext,
    pub prompt: Vec<u32>,
    pub cacheable_prefix: usize,
    pub continuations: Vec<Vec<u32>>,
    pub adapter: Option<AdapterLease>,
    pub replica: Option<usize>,
}
