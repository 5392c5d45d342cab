//! The GPU pool and its workers: one worker actor a device, whose work runs on the device's own OS thread.

pub mod messages;
mod pool;
mod replica;
#[cfg(test)]
mod tests;
mod thread;
mod worker;

pub use messages::{Generate, Score};
pub use pool::GpuPool;
pub use replica::Shard;
pub(crate) use thread::Job;
pub use thread::{Device, DeviceThreadOptions};
pub use worker::{GpuShard, GpuWorker};
