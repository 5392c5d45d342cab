//! Messages of the pool and its workers.

use actix::Message;
use nyx_engine::{ContinuationScore, SamplingParams, TokenSink};

use crate::adapters::AdapterLease;
use crate::{NyxError, RequestContext};

/// Generates after `prompt`. Replies when a device has accepted the job; the text is sent to `sink`
/// from the device thread.
#[derive(Message)]
#[rtype(result = "Result<(), NyxError>")]
pub struct Generate {
    pub context: RequestContext,
    pub prompt: Vec<u32>,
    /// Number of leading prompt tokens that other requests share.
    pub cacheable_prefix: usize,
    pub params: SamplingParams,
    /// The adapter; `None` for the base model.
    pub adapter: Option<AdapterLease>,
    /// The required replica; any when `None`.
    pub replica: Option<usize>,
    pub sink: Box<dyn TokenSink>,
}

/// Log-likelihood of each continuation after `prompt`. Scorings run before generations.
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
