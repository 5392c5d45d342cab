//! The GPU pool and its workers: one worker actor a device, whose work runs on the device's own OS thread.

mod group;
pub mod messages;
mod pool;
#[cfg(test)]
mod tests;
mod thread;
mod worker;

pub use group::Shard;
pub use messages::{Generate, Score};
pub use pool::GpuPool;
pub(crate) use thread::Job;
pub use thread::{Device, DeviceThreadOptions};
pub use worker::{GpuShard, GpuWorker};
